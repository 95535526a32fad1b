"""The gray levels of 8-bit pictures, whose statistics are counted instead of sorted."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from reslink.imaging.image import Image

WHITE: Final = 255


def gray_levels(image: Image) -> NDArray[np.uint8] | None:
    """Returns the pixels as integers, (H, W); None unless all are integers from 0 to a white of 255, without padding."""
    if image.unit != "gray" or image.white != WHITE or image.padding is not None:
        return None
    with np.errstate(invalid="ignore"):  # values outside the range of uint8 change, and the comparison fails
        levels = image.pixels.astype(np.uint8)
    return levels if np.array_equal(levels, image.pixels) else None
