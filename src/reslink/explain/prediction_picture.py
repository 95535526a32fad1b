"""Picture of one prediction: the slice, its maps, label, probability and caption. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reslink.explain.display import (
    DisplayMap,
    clip_map,
    display_image,
    prediction_caption,
    prediction_heading,
    visible_pixels,
)
from reslink.explain.panel import ShownSlice, Tile, draw_panel

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle
    from reslink.imaging.image import Image
    from reslink.inference.prediction import Prediction


def draw_prediction(
    bundle: Bundle,
    image: Image,
    prediction: Prediction,
    maps: Sequence[DisplayMap],
    mask: NDArray[np.bool_] | None = None,
    weight: float | None = None,
) -> bytes:
    """Draws a slice with its prediction and its maps.

    Args:
        bundle: The bundle that made the prediction.
        image: The slice.
        prediction: A prediction without an error.
        maps: Maps of the slice.
        mask: (H, W) lesion mask, or None.
        weight: The weight of the slice in a prediction for its series; None in one for the slice.

    Returns:
        A PNG.
    """
    visible = visible_pixels(bundle.preprocess, image)
    clipped = [clip_map(one, visible) for one in maps]
    tiles = [Tile("Image", "", None), *(Tile(m.title, m.note, m.drawn, m.min_span) for m in clipped)]
    aspect = image.spacing[0] / image.spacing[1] if image.spacing else 1.0
    shown = ShownSlice(display_image(bundle.preprocess, image), mask, aspect, image.edges)
    return draw_panel(shown, tiles, prediction_heading(prediction), prediction_caption(prediction, bundle, weight))
