"""Only 8-bit pictures have gray levels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reslink.audit.features.levels import gray_levels
from reslink.imaging.image import Image

PICTURE = Image(np.arange(256, dtype=np.float32).reshape(16, 16), "gray", white=255.0)


def test_levels_are_the_pixels() -> None:
    levels = gray_levels(PICTURE)
    assert levels is not None
    assert levels.dtype == np.uint8
    np.testing.assert_array_equal(levels, PICTURE.pixels)


@pytest.mark.parametrize("odd", [0.5, -1, 256, np.nan, np.inf])
def test_one_pixel_that_is_no_level_is_enough_for_none(odd: float) -> None:
    pixels = PICTURE.pixels.copy()
    pixels[3, 4] = odd
    assert gray_levels(replace(PICTURE, pixels=pixels)) is None


@pytest.mark.parametrize("change", [{"unit": "MR"}, {"white": 65535.0}, {"padding": np.zeros((16, 16), np.bool_)}])
def test_other_images_have_none(change: dict[str, object]) -> None:
    assert gray_levels(replace(PICTURE, **change)) is None  # type: ignore[arg-type]
