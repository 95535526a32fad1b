"""Computes the maps of one image with every explanation method, and measures them against a lesion mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from reslink.explain.attention import attention_maps
from reslink.explain.attribution import grad_cam, has_feature_map, integrated_gradients, occlusion
from reslink.explain.display import ATTENTION_LAYERS, METHODS
from reslink.explain.evaluation_mode import resize_maps
from reslink.explain.localize import MEASURES, measure
from reslink.inference.classifier import Classifier


def heat_maps(
    classifier: Classifier, pixels: NDArray[np.uint8], target: int, methods: Sequence[str] = METHODS
) -> dict[str, NDArray[np.float32]]:
    """Returns the maps of one image over the network input.

    Args:
        classifier: The loaded bundle.
        pixels: (planes, S, S) uint8, from ``Preprocess.pixels``.
        target: Index of the class to explain.
        methods: Some of ``METHODS``.

    Returns:
        Method to a square float32 map, in the order of ``methods``: attention at the resolution of its feature map, the others
        (S, S). Attention layers that the network does not have are left out, and so is Grad-CAM for a network without a feature
        map.
    """
    preprocess, network = classifier.bundle.preprocess, classifier.network
    x = torch.from_numpy(preprocess.normalize(pixels[None]))
    background = (0.0 - preprocess.mean) / preprocess.std
    cam = {"grad_cam": lambda: grad_cam(network, x, target)} if has_feature_map(network) else {}
    attention = attention_maps(network, x) if set(ATTENTION_LAYERS) & set(methods) else {}
    computations: dict[str, Callable[[], NDArray[np.float32]]] = {
        **{name: lambda weights=weights: weights for name, weights in attention.items()},  # type: ignore[misc]
        **cam,
        "integrated_gradients": lambda: integrated_gradients(network, x, target, baseline=background),
        "occlusion": lambda: occlusion(network, x, target, baseline=background),
    }
    return {name: computations[name]()[0] for name in methods if name in computations}


def localization_measures(heat: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> dict[str, float]:
    """Returns the measures of ``localize`` for one map; empty without a lesion.

    Args:
        heat: The map over the network input, at any resolution.
        mask: (S, S) lesion mask, or None.
    """
    if mask is None or not mask.any():
        return {}
    return dict(zip(MEASURES, measure(resize_maps(heat[None], mask.shape)[0], mask), strict=True))
