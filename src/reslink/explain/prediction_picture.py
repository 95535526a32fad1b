"""The picture of an answer: the image, the maps that go with it, and what both say in words. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reslink.explain.display import ShownMap, caption, heading, original
from reslink.explain.panel import Tile, panel

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle
    from reslink.imaging.image import Image
    from reslink.inference.classifier import Prediction


def answer_picture(
    bundle: Bundle,
    image: Image,
    answer: Prediction,
    maps: Sequence[ShownMap],
    mask: NDArray[np.bool_] | None = None,
) -> bytes:
    """Draws a slice with its answer and its maps.

    Args:
        bundle: What gave the answer.
        image: The slice.
        answer: What the bundle says about it, without an error.
        maps: On the slice.
        mask: (H, W) lesion mask, or None.

    Returns:
        A PNG.
    """
    tiles = [Tile("Image", "", None), *(Tile(found.title, found.note, found.drawn, found.least) for found in maps)]
    return panel(original(bundle.preprocess, image), tiles, heading(answer), caption(answer, bundle), mask)
