"""The maps of one image by every method: computed and put into numbers; ``shown.py`` makes them ready to be drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reslink.explain.attention import attention_maps
from reslink.explain.cam import grad_cam, integrated_gradients, occlusion
from reslink.explain.localize import MEASURES, measure
from reslink.explain.shown import LAYERS, range_and_peak
from reslink.explain.visit import enlarge
from reslink.inference.classifier import Classifier

METHODS = (*LAYERS, "grad_cam", "integrated_gradients", "occlusion")


def heat_maps(
    classifier: Classifier, pixels: NDArray[np.uint8], target: int, methods: Sequence[str] = METHODS
) -> dict[str, NDArray[np.float32]]:
    """Returns the maps of one image over the network's square.

    Args:
        classifier: The loaded bundle.
        pixels: (planes, S, S) uint8, from ``Preprocess.pixels``.
        target: Index of the class to explain.
        methods: Some of ``METHODS``.

    Returns:
        Method to a square of float32, in the order of ``methods``: gates at the resolution of their feature map, the
        others (S, S). Attention layers that the network does not have are left out.
    """
    preprocess, network = classifier.bundle.preprocess, classifier.network
    x = torch.from_numpy(preprocess.normalise(pixels[None]))
    lowest = (0.0 - preprocess.mean) / preprocess.std
    gates = attention_maps(network, x) if set(LAYERS) & set(methods) else {}
    makers: dict[str, Callable[[], NDArray[np.float32]]] = {
        **{name: lambda heat=heat: heat for name, heat in gates.items()},  # type: ignore[misc]
        "grad_cam": lambda: grad_cam(network, x, target),
        "integrated_gradients": lambda: integrated_gradients(network, x, target, baseline=lowest),
        "occlusion": lambda: occlusion(network, x, target, baseline=lowest),
    }
    return {name: makers[name]()[0] for name in methods if name in makers}


def numbers(heat: NDArray[np.float32], shown: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> dict[str, Any]:
    """Returns what a map says as numbers.

    Args:
        heat: The map over the network's square, at any resolution.
        shown: (H, W) the same map on the original image.
        mask: (S, S) lesion, or None.

    Returns:
        ``low``, ``high``, ``flat``, ``peak`` (row and column in the original) and, with a lesion, the measures of ``localize``.
    """
    found = range_and_peak(heat, shown)
    if mask is not None and mask.any():
        found |= dict(zip(MEASURES, measure(enlarge(heat[None], mask.shape)[0], mask), strict=True))
    return found
