"""The maps of one image by every method: computed, put into numbers, and made ready to be drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from reslink.explain.attention import LAYERS, attention_maps
from reslink.explain.cam import grad_cam, integrated_gradients, occlusion
from reslink.explain.localize import MEASURES, measure
from reslink.explain.overlay import GATE_SPAN
from reslink.explain.visit import enlarge, flat
from reslink.imaging.image import Image
from reslink.imaging.preprocess import Preprocess
from reslink.inference.classifier import Classifier

METHODS = (*LAYERS, "grad_cam", "integrated_gradients", "occlusion")
TITLES = {
    "first_attention": "First attention α",
    "final_attention": "Final attention α",
    "grad_cam": "Grad-CAM",
    "integrated_gradients": "Integrated gradients",
    "occlusion": "Occlusion",
}


def heat_maps(
    classifier: Classifier, pixels: NDArray[np.uint8], target: int, methods: Sequence[str] = METHODS
) -> dict[str, NDArray[np.float32]]:
    """Returns the maps of one image in the network's square.

    Args:
        classifier: The loaded bundle.
        pixels: (planes, S, S) uint8, from ``Preprocess.pixels``.
        target: Index of the class to explain.
        methods: Some of ``METHODS``.

    Returns:
        Method to (S, S) float32, in the order of ``methods``; attention layers that the network does not have are
        left out.
    """
    preprocess, network = classifier.bundle.preprocess, classifier.network
    x = torch.from_numpy(preprocess.normalise(pixels[None]))
    lowest = (0.0 - preprocess.mean) / preprocess.std
    size = (int(x.shape[-2]), int(x.shape[-1]))
    gates = attention_maps(network, x) if set(LAYERS) & set(methods) else {}
    makers: dict[str, Callable[[], NDArray[np.float32]]] = {
        **{name: lambda heat=heat: enlarge(heat, size) for name, heat in gates.items()},  # type: ignore[misc]
        "grad_cam": lambda: grad_cam(network, x, target),
        "integrated_gradients": lambda: integrated_gradients(network, x, target, baseline=lowest),
        "occlusion": lambda: occlusion(network, x, target, baseline=lowest),
    }
    return {name: makers[name]()[0] for name in methods if name in makers}


def original(preprocess: Preprocess, image: Image) -> NDArray[np.uint8]:
    """Returns a slice as (H, W) uint8 at its own size, windowed as the bundle does, nothing cut off."""
    whole = preprocess.model_copy(update={"isolate_head": False, "size": max(image.pixels.shape)})
    return np.asarray(np.rint(whole.place(image).to_image(whole.pixels(image)[0])), dtype=np.uint8)


def numbers(heat: NDArray[np.float32], shown: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> dict[str, Any]:
    """Returns what a map says as numbers.

    Args:
        heat: (S, S) map in the network's square.
        shown: (H, W) the same map on the original image.
        mask: (S, S) lesion, or None.

    Returns:
        ``low``, ``high``, ``flat``, ``peak`` (row and column in the original) and, with a lesion, the measures of ``localize``.
    """
    peak = np.unravel_index(int(shown.argmax()), shown.shape)
    found: dict[str, Any] = {
        "low": float(heat.min()),
        "high": float(heat.max()),
        "flat": flat(heat),
        "peak": [int(peak[0]), int(peak[1])],
    }
    if mask is not None and mask.any():
        found |= dict(zip(MEASURES, measure(heat, mask), strict=True))
    return found


def for_display(name: str, heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns a map of the network's square as it is drawn; its numbers are taken from the map itself.

    Gates count from the lowest one of the image, so that the part that the network did not see is as dark as a shut gate.
    Integrated gradients, which are grains of single pixels, lose what speaks against the class and are smoothed
    (Gaussian, 1 % of the side).

    Args:
        name: One of ``METHODS``.
        heat: (S, S) float32.
    """
    if name in LAYERS:
        return np.asarray(heat - heat.min(), dtype=np.float32)
    if name == "integrated_gradients":
        return np.asarray(ndimage.gaussian_filter(np.maximum(heat, 0), heat.shape[0] / 100), dtype=np.float32)
    return heat


def least_span(name: str) -> float:
    """Returns the least span of a method's map that is shown with the full scale of colours."""
    return GATE_SPAN if name in LAYERS else 0.0


def note(name: str, numbers: Mapping[str, Any], target: str) -> str:
    """Returns what a map says in a few words: the range of gates, or the class that it speaks for."""
    if numbers["flat"]:
        return "the same everywhere: it points nowhere"
    if name in LAYERS:
        return f"gates from {numbers['low']:.2f} to {numbers['high']:.2f}"
    return f"evidence for {target}" + (", smoothed" if name == "integrated_gradients" else "")
