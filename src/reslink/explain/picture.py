"""The picture of an answer: the image, the maps that go with it, and what both say in words. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reslink.explain import shown
from reslink.explain.panel import Tile, panel

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle
    from reslink.imaging.image import Image
    from reslink.inference.classifier import Prediction


def answer_picture(
    bundle: Bundle,
    image: Image,
    answer: Prediction,
    maps: Mapping[str, NDArray[np.float32]],
    target: str,
    mask: NDArray[np.bool_] | None = None,
) -> bytes:
    """Draws a slice with its answer and its maps.

    Args:
        bundle: What gave the answer.
        image: The slice.
        answer: What the bundle says about it, without an error.
        maps: By name, a key of ``shown.TITLES`` each: squares of float32 over what the network sees, at any resolution.
        target: The class that maps other than gates speak for.
        mask: (H, W) lesion mask, or None.

    Returns:
        A PNG.
    """
    place = bundle.preprocess.place(image)
    tiles = [Tile("Image", "", None)]
    for name, heat in maps.items():
        note = shown.note(name, shown.range_and_peak(heat, place.to_image(heat)), target)
        drawn = place.to_image(shown.for_display(name, heat))
        tiles.append(Tile(shown.TITLES[name], note, drawn, shown.least_span(name)))
    return panel(shown.original(bundle.preprocess, image), tiles, shown.heading(answer), shown.caption(answer, bundle), mask)
