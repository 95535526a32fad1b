"""The bundles of a service: each with its network in a thread, and what it says about a slice."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from reslink.bundles.bundle import Bundle
from reslink.bundles.onnx_graph import CAM
from reslink.bundles.pretrained import read_first
from reslink.bundles.storage import called
from reslink.errors import BundleError, UsageError, nearest
from reslink.explain import display
from reslink.explain.graph_maps import Maps, about, graph_maps
from reslink.explain.overlay import overlay, unit_range
from reslink.inference.backends import OnnxRuntimeBackend, OpenVinoBackend, load_backend
from reslink.inference.classifier import Classifier, Prediction
from reslink.serving.http.batching import Batcher, Pixels
from reslink.serving.http.limits import Limits
from reslink.serving.http.worker import Look

BACKENDS: Final = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Hosted:
    """A bundle in the service.

    Attributes:
        name: What requests call it.
        classifier: The loaded bundle.
        way: The place of its preprocessing among those of the service.
        batcher: The thread that owns its network.
    """

    name: str
    classifier: Classifier
    way: int
    batcher: Batcher[Any]

    async def predict(self, pixels: Pixels) -> Prediction:
        """Returns the answer to one slice, (planes, S, S) uint8."""
        return cast(Prediction, await self.batcher.answer(pixels))

    async def explain(self, pixels: Pixels, target: str | None) -> tuple[Prediction, str, Maps]:
        """Returns the answer to one slice, the class that the class activation speaks for, and the maps of the graph.

        Args:
            pixels: (planes, S, S) uint8.
            target: A class; if not given, the positive of two, the predicted of more.

        Raises:
            UsageError: If there is no such class.
        """
        if target is not None and target not in self.classifier.labels.names:
            names = self.classifier.labels.names
            raise UsageError(
                f"There is no class {target!r}", f"The classes of {self.name} are {', '.join(names)}", nearest(target, names)
            )
        return cast(tuple[Prediction, str, Maps], await self.batcher.alone(lambda: self._explain(pixels, target)))

    def _explain(self, pixels: Pixels, target: str | None) -> tuple[Prediction, str, Maps]:
        answer = self.classifier.predict_pixels(pixels[None])[0]
        spoken_for = about(self.classifier.labels, answer, target)
        return answer, spoken_for, graph_maps(self.classifier, pixels, spoken_for)

    def about(self) -> dict[str, Any]:
        """Returns what ``/v1/models`` says of it."""
        bundle, decision = self.classifier.bundle, self.classifier.bundle.decision
        return {
            "name": self.name,
            "classes": list(bundle.labels.names),
            "positive": bundle.labels.names[1] if bundle.labels.binary else None,
            "weights_sha256": bundle.weights_sha256,
            "backend": self.classifier.backend.name,
            "input": [bundle.preprocess.channels, bundle.preprocess.size, bundle.preprocess.size],
            "window": bundle.preprocess.window,
            "decision": {
                "threshold": decision.threshold,
                "threshold_source": decision.threshold_source,
                "calibrated": decision.fitted_on is not None,
                "coverage": None if decision.conformal is None else decision.conformal.coverage,
                "ood_gate": decision.ood is not None,
            },
            "maps": {name: title for name, title in display.TITLES.items() if name in self._maps()},
            "read_first": read_first(bundle.provenance, gated=decision.ood is not None),
            "licence": str(bundle.provenance.get("licence", "not stated")),
            "intended_use": str(bundle.provenance.get("intended_use", "")),
        }

    def _maps(self) -> set[str]:
        names = cast(OnnxRuntimeBackend | OpenVinoBackend, self.classifier.backend).names
        return {display.CLASS_ACTIVATION if name == CAM else name for name in names}


def load(
    bundles: Sequence[str],
    limits: Limits,
    backend: str = "onnxruntime",
    threads: int = 1,
    measure: Callable[[str, int, float], None] = lambda _name, _size, _seconds: None,
) -> tuple[list[Hosted], list[str]]:
    """Loads bundles; imports no torch.

    Args:
        bundles: Folders or names of shipped bundles, each with an ONNX graph.
        limits: Of the service.
        backend: One of ``BACKENDS``.
        threads: Threads of each network.
        measure: Called with the model's name, the size of each batch and the seconds that it took.

    Returns:
        The bundles in order, and their different preprocessings as JSON.

    Raises:
        BundleError: If one cannot be used, or has no graph.
        UsageError: If the backend is not installed.
    """
    hosted: list[Hosted] = []
    ways: list[str] = []
    for bundle, name in zip(bundles, names_of(bundles), strict=True):
        loaded = with_graph(bundle)
        classifier = Classifier(loaded, backend=load_backend(backend, loaded, threads))
        way = loaded.preprocess.model_dump_json()
        if way not in ways:
            ways.append(way)
        batcher = Batcher(
            classifier.predict_pixels,
            limits.batch,
            limits.gather_seconds,
            lambda size, seconds, name=name: measure(name, size, seconds),  # type: ignore[misc]
        )
        hosted.append(Hosted(name, classifier, ways.index(way), batcher))
    return hosted, ways


def with_graph(bundle: str) -> Bundle:
    """Returns a bundle that a service can run.

    Raises:
        BundleError: If it cannot be used, or has no ONNX graph.
    """
    loaded = Bundle.load(bundle)
    if loaded.onnx_model is None:
        raise BundleError(
            f"{bundle} has no model.onnx",
            "The service runs the ONNX graph of a bundle, which reslink train writes where the extra 'export' is installed",
            'Run pip install "reslink[export]" and train again',
        )
    return loaded


def names_of(bundles: Sequence[str]) -> list[str]:
    """Returns what requests call bundles: the name of the folder, or of the run that it lies in; numbered where equal."""
    found: list[str] = []
    for bundle in bundles:
        base = called(Path(bundle))
        name, count = base, 1
        while name in found:
            count += 1
            name = f"{base}-{count}"
        found.append(name)
    return found


def drawn(look: Look, name: str, heat: NDArray[np.float32], target: str) -> dict[str, Any]:
    """Returns a map as an answer holds it.

    Args:
        look: The slice as its bundle sees it.
        name: A key of ``shown.TITLES``.
        heat: The map in the network's square, at any resolution.
        target: The class that it speaks for, if it is one that does.

    Returns:
        Its numbers, ``strength`` (a grey PNG, base64, as large as the image: 255 is strongest) and ``overlay`` (a colour PNG).
    """
    found = display.shown_map(name, heat, look.place, target)
    strength = np.rint(255 * unit_range(found.drawn, found.least)).astype(np.uint8)
    return {
        "name": name,
        "title": found.title,
        "note": found.note,
        **found.numbers,
        "strength": png(strength),
        "overlay": png(overlay(look.grey, found.drawn, least=found.least)),
    }


def png(pixels: NDArray[np.uint8]) -> str:
    """Returns pixels as a PNG in base64."""
    buffer = io.BytesIO()
    Picture.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return base64.b64encode(buffer.getvalue()).decode()
