"""Where the network looks, from the maps that the ONNX graph of a bundle gives: no torch, so quick enough for every answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.onnx_graph import CAM
from reslink.errors import UsageError
from reslink.explain import display
from reslink.inference.backends import Backend, OnnxRuntimeBackend, OpenVinoBackend, Pixels

if TYPE_CHECKING:
    from reslink.inference.classifier import Classifier, Prediction
    from reslink.labels import Labels

Maps: TypeAlias = dict[str, NDArray[np.float32]]


def check_backend(backend: Backend) -> OnnxRuntimeBackend | OpenVinoBackend:
    """Returns a backend that gives maps.

    Raises:
        UsageError: If it does not run the graph of a bundle.
    """
    if not isinstance(backend, OnnxRuntimeBackend | OpenVinoBackend):
        raise UsageError(
            f"The backend {backend.name} gives no maps beside its answer",
            "The maps of an answer are outputs of the bundle's model.onnx, which onnxruntime and openvino run",
            "Take a bundle with model.onnx and --backend onnxruntime, or run reslink explain",
        )
    return backend


def about(labels: Labels, answer: Prediction, target: str | None = None) -> str:
    """Returns the class that maps speak for: the one asked for, else the positive one of two, else the predicted one."""
    return target or (labels.names[1] if labels.binary else answer.label or labels.names[0])


def graph_maps(classifier: Classifier, pixels: Pixels, target: str) -> Maps:
    """Returns the maps of one slice by name, a key of ``shown.TITLES`` each, at the resolution of the network.

    Args:
        classifier: On a backend that :func:`check_backend` takes.
        pixels: (planes, S, S) uint8.
        target: The class that the class activation map speaks for.

    Raises:
        UsageError: If the backend gives no maps.
    """
    backend = check_backend(classifier.backend)
    names = [name for name in (*display.LAYERS, CAM) if name in backend.names]
    found = dict(zip(names, backend.run(pixels[None], names), strict=True))
    maps: Maps = {name: found[name][0, 0] for name in display.LAYERS if name in found}
    if CAM in found:
        maps[display.CLASS_ACTIVATION] = _for_class(found[CAM][0], classifier.labels.index(target))
    return maps


def _for_class(maps: NDArray[np.float32], index: int) -> NDArray[np.float32]:
    """Returns the class activation map of a class; a single logit speaks for the positive of two classes."""
    if len(maps) > 1:
        return np.asarray(maps[index])
    return np.asarray(maps[0] if index == 1 else -maps[0])
