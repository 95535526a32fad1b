"""Attention and class activation maps from the ONNX model of a bundle, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.onnx_graph import CAM
from reslink.errors import UsageError
from reslink.explain.display import ATTENTION_LAYERS, CLASS_ACTIVATION
from reslink.inference.backends import Backend, GraphBackend, Pixels

if TYPE_CHECKING:
    from reslink.inference.classifier import Classifier
    from reslink.inference.prediction import Prediction
    from reslink.labels import Labels

Maps: TypeAlias = dict[str, NDArray[np.float32]]


def require_map_backend(backend: Backend) -> GraphBackend:
    """Returns the backend if it can compute maps.

    Raises:
        UsageError: If it does not run the ONNX model of a bundle.
    """
    if not isinstance(backend, GraphBackend):
        raise UsageError(
            f"The backend {backend.name} computes no maps",
            "The backends onnxruntime and openvino compute maps from the bundle's model.onnx",
            "Use --backend onnxruntime, which needs a bundle with model.onnx, or run reslink explain",
        )
    return backend


def explained_class(labels: Labels, prediction: Prediction, target: str | None = None) -> str:
    """Returns the class to explain: ``target`` if given, else the positive class of two, else the predicted class.

    Of several labels at once it is the most probable one.
    """
    if not labels.exclusive and prediction.probabilities is not None:
        return target or max(prediction.probabilities, key=prediction.probabilities.__getitem__)
    return target or (labels.names[1] if labels.binary else prediction.label or labels.names[0])


def onnx_maps(classifier: Classifier, pixels: Pixels, target: str) -> Maps:
    """Returns the maps of one slice by name (a key of ``display.TITLES``), at the resolution of the network.

    Args:
        classifier: With a backend that :func:`require_map_backend` accepts.
        pixels: (planes, S, S) uint8.
        target: The class that the class activation map explains.

    Raises:
        UsageError: If the backend computes no maps.
    """
    backend = require_map_backend(classifier.backend)
    names = [name for name in (*ATTENTION_LAYERS, CAM) if name in backend.names]
    outputs = dict(zip(names, backend.run(pixels[None], names), strict=True))
    maps: Maps = {name: outputs[name][0, 0] for name in ATTENTION_LAYERS if name in outputs}
    if CAM in outputs:
        maps[CLASS_ACTIVATION] = _class_map(outputs[CAM][0], classifier.labels.index(target))
    return maps


def _class_map(maps: NDArray[np.float32], index: int) -> NDArray[np.float32]:
    """Returns the class activation map of one class; a single logit explains the positive class of two."""
    if len(maps) > 1:
        return np.asarray(maps[index])
    return np.asarray(maps[0] if index == 1 else -maps[0])
