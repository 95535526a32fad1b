"""Display of maps and predictions: scaling, captions and statistics. Imports no torch, so that the service can use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from reslink.imaging.head_mask import head_mask
from reslink.imaging.image import Image
from reslink.imaging.preprocess import Placement, Preprocess
from reslink.inference.prediction import Prediction, answer_text

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle

ATTENTION_LAYERS: Final = ("first_attention", "final_attention")
"""The attention layers of a ResLink."""

METHODS: Final = (*ATTENTION_LAYERS, "grad_cam", "integrated_gradients", "occlusion")
"""The explanation methods."""

DEFAULT_METHODS: Final = ("occlusion", "integrated_gradients", "grad_cam", "final_attention")
"""The methods of pictures, the one that finds most lesions first (docs/benchmarks/accuracy.md, "Localization of lesions").

The first attention is drawn on request only: it repeats the grid of its areas in every image.
"""

CLASS_ACTIVATION: Final = "class_activation"
"""The class activation map of an ONNX model; with torch, Grad-CAM takes its place."""

TITLES: Final = {
    "final_attention": "Final attention α",
    "class_activation": "Class activation",
    "grad_cam": "Grad-CAM",
    "integrated_gradients": "Integrated gradients",
    "occlusion": "Occlusion",
    "first_attention": "First attention α",
}
MIN_ATTENTION_SPAN: Final = 0.2
"""Smallest range of attention weights, which lie in (0, 1), that is stretched to the full color scale."""


@dataclass(frozen=True)
class DisplayMap:
    """A map in the coordinates of its image, ready to be drawn.

    Attributes:
        name: A key of ``TITLES``.
        note: Short description of its values.
        statistics: The result of ``map_statistics``.
        on_image: (H, W) the map on the original image.
        drawn: (H, W) the same map after ``display_values``.
    """

    name: str
    note: str
    statistics: dict[str, Any]
    on_image: NDArray[np.float32]
    drawn: NDArray[np.float32]

    @property
    def title(self) -> str:
        """Title of the method."""
        return TITLES[self.name]

    @property
    def min_span(self) -> float:
        """Smallest range that is stretched to the full color scale."""
        return min_display_span(self.name)


def display_map(name: str, heat: NDArray[np.float32], placement: Placement, target: str) -> DisplayMap:
    """Transforms a map of the network input to the coordinates of its image.

    Args:
        name: A key of ``TITLES``.
        heat: The map over the square network input, at any resolution.
        placement: Position of the network input in the image.
        target: The explained class; attention maps do not depend on it.
    """
    on_image, drawn = placement.to_image(heat), display_values(name, heat)
    statistics = map_statistics(heat, on_image)
    note = map_note(name, statistics, target)
    return DisplayMap(name, note, statistics, on_image, on_image if drawn is heat else placement.to_image(drawn))


def visible_pixels(preprocess: Preprocess, image: Image) -> NDArray[np.bool_]:
    """Returns the pixels of a slice that the network sees, (H, W): the head if it is isolated and found, else all."""
    head = head_mask(image) if preprocess.isolate_head else None
    return np.ones(image.pixels.shape, np.bool_) if head is None or not head.any() else head


def clip_map(shown: DisplayMap, visible: NDArray[np.bool_]) -> DisplayMap:
    """Returns a map that is drawn only where the network sees the image; its statistics and ``on_image`` stay.

    A coarse map reaches beyond the head when it is resized. If its maximum lies there, the note says so.

    Args:
        shown: The map.
        visible: (H, W), from ``visible_pixels``.
    """
    low = shown.drawn[visible].min() if shown.name in ATTENTION_LAYERS and visible.any() else 0
    drawn = np.where(visible, shown.drawn - low, 0).astype(np.float32)
    outside = not shown.statistics["flat"] and not visible[tuple(shown.statistics["peak"])]
    return replace(shown, drawn=drawn, note=f"peak outside the head; {shown.note}" if outside else shown.note)


def is_flat(heat: NDArray[np.float32]) -> bool:
    """Returns whether a map is constant: its range is at most a millionth of its largest absolute value."""
    span = float(heat.max() - heat.min())
    return span <= 1e-6 * max(float(np.abs(heat).max()), 1e-12)


def display_image(preprocess: Preprocess, image: Image) -> NDArray[np.uint8]:
    """Returns the whole slice as (H, W) uint8 at its own size, with the bundle's window."""
    uncropped = preprocess.model_copy(update={"isolate_head": False, "size": max(image.pixels.shape)})
    return np.asarray(np.rint(uncropped.placement(image).to_image(uncropped.pixels(image)[0])), dtype=np.uint8)


def map_statistics(heat: NDArray[np.float32], on_image: NDArray[np.float32]) -> dict[str, Any]:
    """Returns the range and the peak of a map.

    Args:
        heat: The map over the network input, at its own resolution, as resizing would reduce the range.
        on_image: (H, W) the same map on the original image.

    Returns:
        ``low``, ``high``, ``flat`` (the map is constant, or has no positive value within the image) and ``peak`` (row and
        column in the original image).
    """
    return {
        "low": float(heat.min()),
        "high": float(heat.max()),
        "flat": is_flat(heat) or is_flat(np.maximum(on_image, 0)),
        "peak": peak(on_image),
    }


def peak(on_image: NDArray[np.float32]) -> list[int]:
    """Returns row and column of the highest value of a map."""
    row, column = np.unravel_index(int(on_image.argmax()), on_image.shape)
    return [int(row), int(column)]


def display_values(name: str, heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the values of a map that are drawn. The statistics are computed from the map itself.

    The minimum is subtracted from attention weights, so that low attention is as dark as the area outside the network input.
    Negative values of integrated gradients are removed, and their single-pixel noise is smoothed (Gaussian, 1 % of the side).

    Args:
        name: A key of ``TITLES``.
        heat: Square float32 map, at any resolution.
    """
    if name in ATTENTION_LAYERS:
        return np.asarray(heat - heat.min(), dtype=np.float32)
    if name == "integrated_gradients":
        return np.asarray(ndimage.gaussian_filter(np.maximum(heat, 0), heat.shape[0] / 100), dtype=np.float32)
    return heat


def min_display_span(name: str) -> float:
    """Returns the smallest range of a method's map that is stretched to the full color scale."""
    return MIN_ATTENTION_SPAN if name in ATTENTION_LAYERS else 0.0


def prediction_heading(prediction: Prediction) -> str:
    """Returns the heading of a picture: label and probability, or the abstention."""
    if prediction.by_label is not None:
        shown = "   ".join(f"{name} {one.probability:.1%}" for name, one in prediction.by_label.items())
        answer = f"{answer_text(str(prediction.label), prediction.by_label)}  ({shown})"
    else:
        answer = f"{prediction.label}  {prediction.probability:.1%}"
    return f"The model abstains  ({answer})" if prediction.abstain else answer


def prediction_caption(prediction: Prediction, bundle: Bundle, weight: float | None = None) -> str:
    """Returns the caption of a picture: file and slice, the threshold if there is one, and the reasons of an abstention.

    Args:
        prediction: The prediction.
        bundle: The bundle that made it.
        weight: The weight of the slice in a prediction for its series; None in one for the slice.
    """
    source = Path(prediction.path).name + ("" if prediction.slice is None else f", slice {prediction.slice}")
    source += "" if weight is None else f", weight {weight:.2f} in the answer for the series"
    threshold = bundle.decision.threshold
    if bundle.decision.by_label:
        limits = zip(bundle.labels.names, bundle.decision.by_label, strict=True)
        shown = ", ".join(f"{name} {one.threshold:.1%}" for name, one in limits if one.threshold is not None)
        source += f"  ·  thresholds: {shown}"
    decision = "" if threshold is None else f"  ·  threshold for {bundle.labels.positive}: {threshold:.1%}"
    reasons = f"\nReason for abstaining: {'; '.join(prediction.reasons)}" if prediction.reasons else ""
    return source + decision + reasons


def map_note(name: str, statistics: Mapping[str, Any], target: str) -> str:
    """Returns a short description of the values of a map: their range and unit, or that they are relative.

    Grad-CAM, class activation and integrated gradients have no unit that could be compared between images.
    """
    if statistics["flat"]:
        negative = name not in ATTENTION_LAYERS and statistics["low"] < 0
        return f"no evidence for {target} in the image" if negative else "constant: no location stands out"
    if name in ATTENTION_LAYERS:
        return f"weights {statistics['low']:.2f} to {statistics['high']:.2f} of 1"
    if name == "occlusion":
        return f"hiding it lowers the {target} logit by up to {_short(statistics['high'])}"
    return f"relative evidence for {target}" + (", smoothed" if name == "integrated_gradients" else "")


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"
