"""The maps of one image by every method: computed and measured; ``shown.py`` lays them on the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from reslink.explain.attention import attention_maps
from reslink.explain.cam import grad_cam, integrated_gradients, occlusion
from reslink.explain.display import LAYERS
from reslink.explain.eval_mode import enlarge
from reslink.explain.localize import MEASURES, measure
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


def measures(heat: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> dict[str, float]:
    """Returns the measures of ``localize`` of a map, none without a lesion.

    Args:
        heat: The map over the network's square, at any resolution.
        mask: (S, S) lesion, or None.
    """
    if mask is None or not mask.any():
        return {}
    return dict(zip(MEASURES, measure(enlarge(heat[None], mask.shape)[0], mask), strict=True))
