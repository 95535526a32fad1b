"""How a map is shown and put into words, whatever computed it. No torch, so that the service uses the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from reslink.imaging.image import Image
from reslink.imaging.preprocess import Placement, Preprocess

if TYPE_CHECKING:
    from reslink.bundles.bundle import Bundle
    from reslink.inference.classifier import Prediction

LAYERS: Final = ("first_attention", "final_attention")
"""The attention layers of a ResLink."""

CLASS_ACTIVATION: Final = "class_activation"
"""The class activation map that an exported graph gives; torch's methods have Grad-CAM instead."""

TITLES: Final = {
    "first_attention": "First attention α",
    "final_attention": "Final attention α",
    "class_activation": "Class activation",
    "grad_cam": "Grad-CAM",
    "integrated_gradients": "Integrated gradients",
    "occlusion": "Occlusion",
}
GATE_SPAN: Final = 0.2
"""Least span of the gates of an attention, which lie in (0, 1), that is shown with the full scale of colours."""


@dataclass(frozen=True)
class ShownMap:
    """A map on the image that it belongs to, with what it says.

    Attributes:
        name: A key of ``TITLES``.
        note: What it says in a few words.
        numbers: Those of ``range_and_peak``.
        on_image: (H, W) the map itself on the original image.
        drawn: (H, W) the same as it is drawn.
    """

    name: str
    note: str
    numbers: dict[str, Any]
    on_image: NDArray[np.float32]
    drawn: NDArray[np.float32]

    @property
    def title(self) -> str:
        """What the method is called."""
        return TITLES[self.name]

    @property
    def least(self) -> float:
        """The least span that is shown with the full scale of colours."""
        return least_span(self.name)


def shown_map(name: str, heat: NDArray[np.float32], place: Placement, target: str) -> ShownMap:
    """Lays a map on the image that it belongs to.

    Args:
        name: A key of ``TITLES``.
        heat: The map over the network's square, at any resolution.
        place: Where the square lies in the image.
        target: The class that maps other than gates speak for.
    """
    on_image, ready = place.to_image(heat), for_display(name, heat)
    numbers = range_and_peak(heat, on_image)
    return ShownMap(name, note(name, numbers, target), numbers, on_image, on_image if ready is heat else place.to_image(ready))


def flat(heat: NDArray[np.float32]) -> bool:
    """Says whether a map points nowhere: its values differ by less than a millionth of their size."""
    spread = float(heat.max() - heat.min())
    return spread <= 1e-6 * max(float(np.abs(heat).max()), 1e-12)


def original(preprocess: Preprocess, image: Image) -> NDArray[np.uint8]:
    """Returns a slice as (H, W) uint8 at its own size, windowed as the bundle does, nothing cut off."""
    whole = preprocess.model_copy(update={"isolate_head": False, "size": max(image.pixels.shape)})
    return np.asarray(np.rint(whole.place(image).to_image(whole.pixels(image)[0])), dtype=np.uint8)


def range_and_peak(heat: NDArray[np.float32], shown: NDArray[np.float32]) -> dict[str, Any]:
    """Returns what a map says as numbers.

    Args:
        heat: The map over the network's square, at its own resolution: enlarging would take from the range.
        shown: (H, W) the same map on the original image.

    Returns:
        ``low``, ``high``, ``flat`` (nothing can be drawn: the same everywhere, or nothing above 0 within the image) and
        ``peak`` (row and column in the original).
    """
    peak = np.unravel_index(int(shown.argmax()), shown.shape)
    return {
        "low": float(heat.min()),
        "high": float(heat.max()),
        "flat": flat(heat) or flat(np.maximum(shown, 0)),
        "peak": [int(peak[0]), int(peak[1])],
    }


def for_display(name: str, heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns a map of the network's square as it is drawn; its numbers are taken from the map itself.

    Gates count from the lowest one of the image, so that the part that the network did not see is as dark as a shut gate.
    Integrated gradients, which are grains of single pixels, lose what speaks against the class and are smoothed
    (Gaussian, 1 % of the side).

    Args:
        name: A key of ``TITLES``.
        heat: A square of float32, at any resolution.
    """
    if name in LAYERS:
        return np.asarray(heat - heat.min(), dtype=np.float32)
    if name == "integrated_gradients":
        return np.asarray(ndimage.gaussian_filter(np.maximum(heat, 0), heat.shape[0] / 100), dtype=np.float32)
    return heat


def least_span(name: str) -> float:
    """Returns the least span of a method's map that is shown with the full scale of colours."""
    return GATE_SPAN if name in LAYERS else 0.0


def heading(answer: Prediction) -> str:
    """Returns the first line of a picture: the answer, behind the abstention if there is one."""
    said = f"{answer.label}  {answer.probability:.1%}"
    return f"The bundle abstains  ({said})" if answer.abstain else said


def caption(answer: Prediction, bundle: Bundle) -> str:
    """Returns the small lines below the answer: what was looked at, the threshold if there is one, why the bundle abstains."""
    where = Path(answer.path).name + ("" if answer.slice is None else f", slice {answer.slice}")
    rule = bundle.decision.threshold
    decided = "" if rule is None else f"  ·  {bundle.labels.positive} from {rule:.1%} on"
    return where + decided + (f"\nWhy it abstains: {'; '.join(answer.reasons)}" if answer.reasons else "")


def note(name: str, numbers: Mapping[str, Any], target: str) -> str:
    """Returns what a map says in a few words: the range of gates, or the class that it speaks for and how high it goes."""
    if numbers["flat"]:
        none = name not in LAYERS and numbers["low"] < 0
        return f"no evidence for {target} in the picture" if none else "the same everywhere: it points nowhere"
    if name in LAYERS:
        return f"gates from {numbers['low']:.2f} to {numbers['high']:.2f}"
    return f"evidence for {target}, " + ("smoothed" if name == "integrated_gradients" else f"up to {_short(numbers['high'])}")


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"
