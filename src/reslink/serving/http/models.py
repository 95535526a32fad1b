"""Models of the service: loaded bundles, each with a network thread, and rendering of their maps."""

from __future__ import annotations

import asyncio
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
from reslink.bundles.decision.decision import Decision
from reslink.bundles.onnx_graph import CAM
from reslink.bundles.pretrained import other_hospitals, other_hospitals_sentence, usage_notes
from reslink.bundles.storage import bundle_name
from reslink.errors import BundleError, UsageError, suggest
from reslink.explain import display
from reslink.explain.onnx_maps import Maps, explained_class, onnx_maps
from reslink.explain.overlay import overlay, unit_range
from reslink.files import install_command
from reslink.imaging.image import Stated
from reslink.inference.backends import GraphBackend, load_backend
from reslink.inference.classifier import Classifier
from reslink.inference.outputs import Outputs
from reslink.inference.prediction import Prediction
from reslink.serving.http.batching import Batcher, Pixels
from reslink.serving.http.limits import Limits
from reslink.serving.http.problems import needs_target
from reslink.serving.http.worker import DisplaySlice

BACKENDS: Final = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class ServedModel:
    """A bundle loaded by the service.

    Attributes:
        name: Name of the model in requests.
        classifier: The loaded bundle.
        preprocess_index: Index of its preprocessing in the list that the workers were started with.
        batcher: The thread that owns its network.
    """

    name: str
    classifier: Classifier
    preprocess_index: int
    batcher: Batcher[Any]

    @property
    def answers_series(self) -> bool:
        """Whether a case of the model is a series, so that it has no answer for a single image."""
        return self.classifier.bundle.case == "series"

    @property
    def scope(self) -> str:
        """What the model is for, and how it did on images of other hospitals."""
        return self.classifier.bundle.statement

    async def outputs(self, pixels: Pixels) -> Outputs:
        """Returns the outputs for one slice, (planes, S, S) uint8, of a series model."""
        return cast(Outputs, await self.batcher.predict(pixels))

    async def predict(self, pixels: Pixels, stated: Stated) -> Prediction:
        """Returns the prediction for one slice, (planes, S, S) uint8, with what its file states."""
        refused = await self.refusal(pixels, stated)
        return refused or cast(Prediction, await self.batcher.predict(pixels))

    async def refusal(self, pixels: Pixels, stated: Stated) -> Prediction | None:
        """Returns the prediction without a label for a slice that the model is not for; None for others."""
        reason = await asyncio.to_thread(self.classifier.refusal, pixels, stated)
        return None if reason is None else self.classifier.refused_prediction(reason, "")

    async def explain(self, pixels: Pixels, target: str | None) -> tuple[Prediction, str, Maps]:
        """Returns the prediction for one slice, the explained class, and the maps of the ONNX model.

        A series model has no prediction for a slice, but maps.

        Args:
            pixels: (planes, S, S) uint8.
            target: Class to explain; default: the positive class of two, the predicted class of more, or the most probable of
                several labels at once.

        Raises:
            UsageError: If the class does not exist.
            Problem: If no class is given, and there is no default.
        """
        names = self.classifier.labels.names
        if target is None and self.answers_series and not self.classifier.labels.binary:
            raise needs_target(self.name, names)
        if target is not None and target not in names:
            raise UsageError(
                f"The class {target!r} does not exist",
                f"The classes of {self.name} are {', '.join(names)}",
                suggest(target, names),
            )
        return cast(tuple[Prediction, str, Maps], await self.batcher.run_exclusive(lambda: self._explain(pixels, target)))

    def _explain(self, pixels: Pixels, target: str | None) -> tuple[Prediction, str, Maps]:
        prediction = Prediction("") if self.answers_series else self.classifier.predict_pixels(pixels[None])[0]
        explained = explained_class(self.classifier.labels, prediction, target)
        return prediction, explained, onnx_maps(self.classifier, pixels, explained)

    def description(self) -> dict[str, Any]:
        """Returns the entry of ``/v1/models``."""
        bundle, decision = self.classifier.bundle, self.classifier.bundle.decision
        return {
            "name": self.name,
            "case": bundle.case,
            "classes": list(bundle.labels.names),
            "positive": bundle.labels.names[1] if bundle.labels.binary else None,
            "weights_sha256": bundle.weights_sha256,
            "backend": self.classifier.backend.name,
            "input": [bundle.preprocess.channels, bundle.preprocess.size, bundle.preprocess.size],
            "window": bundle.preprocess.window,
            "images": str(bundle.scope),
            "modality": bundle.scope.modality,
            "decision": {
                "threshold": decision.threshold,
                "threshold_source": decision.threshold_source,
                "calibrated": decision.fitted_on is not None,
                "coverage": None if decision.conformal is None else decision.conformal.coverage,
                "ood_detector": decision.ood is not None,
                "by_label": [_label_rule(one) for one in decision.by_label] or None,
            },
            "maps": {name: title for name, title in display.TITLES.items() if name in self._map_names()},
            "usage_notes": [
                *usage_notes(bundle.provenance, has_ood_detector=decision.ood is not None),
                *([other_hospitals_sentence(bundle.ledger)] if other_hospitals(bundle.ledger) else []),
            ],
            "license": str(bundle.provenance.get("license", "not stated")),
            "intended_use": str(bundle.provenance.get("intended_use", "")),
        }

    def _map_names(self) -> set[str]:
        names = cast(GraphBackend, self.classifier.backend).names
        return {display.CLASS_ACTIVATION if name == CAM else name for name in names}


def _label_rule(decision: Decision) -> dict[str, Any]:
    """Returns the decision rule of one of several labels at once."""
    return {
        "threshold": decision.threshold,
        "threshold_source": decision.threshold_source,
        "coverage": None if decision.conformal is None else decision.conformal.coverage,
    }


def load(
    bundles: Sequence[str],
    limits: Limits,
    backend: str = "onnxruntime",
    threads: int = 1,
    on_batch: Callable[[str, int, float], None] = lambda _name, _size, _seconds: None,
) -> tuple[list[ServedModel], list[str]]:
    """Loads bundles, without torch.

    Args:
        bundles: Folders or names of shipped bundles, each with an ONNX model.
        limits: Limits of the service.
        backend: One of ``BACKENDS``.
        threads: Threads of each network.
        on_batch: Called with the name of the model, the size of each batch and its duration in seconds.

    Returns:
        The models in order, and their distinct preprocessings as JSON.

    Raises:
        BundleError: If a bundle cannot be used, or has no ONNX model.
        UsageError: If the backend is not installed.
    """
    models: list[ServedModel] = []
    preprocesses: list[str] = []
    for bundle, name in zip(bundles, model_names(bundles), strict=True):
        loaded = load_onnx_bundle(bundle)
        classifier = Classifier(loaded, backend=load_backend(backend, loaded, threads))
        preprocess = loaded.preprocess.model_dump_json()
        if preprocess not in preprocesses:
            preprocesses.append(preprocess)
        batcher = Batcher(
            _batch_function(classifier),
            limits.batch_size,
            limits.batch_wait_seconds,
            lambda size, seconds, name=name: on_batch(name, size, seconds),  # type: ignore[misc]
        )
        models.append(ServedModel(name, classifier, preprocesses.index(preprocess), batcher))
    return models, preprocesses


def _batch_function(classifier: Classifier) -> Callable[[Pixels], list[Any]]:
    """Returns what runs on a batch: predictions of slices, or their outputs where a case is a series."""
    if classifier.bundle.case == "slice":
        return classifier.predict_pixels

    def run(pixels: Pixels) -> list[Any]:
        outputs = classifier.outputs(pixels)
        return [outputs.row(i) for i in range(len(pixels))]

    return run


def load_onnx_bundle(bundle: str) -> Bundle:
    """Loads a bundle that the service can run.

    Raises:
        BundleError: If it cannot be used, or has no ONNX model.
    """
    loaded = Bundle.load(bundle)
    if loaded.onnx_model is None:
        raise BundleError(
            f"{bundle} has no model.onnx",
            "The service runs the ONNX model of a bundle, which reslink train writes if the extra 'train' is installed",
            f"Run {install_command('train')} and train again",
        )
    return loaded


def model_names(bundles: Sequence[str]) -> list[str]:
    """Returns the names of bundles in requests: the folder or run name, with a number if it occurs more than once."""
    names: list[str] = []
    for bundle in bundles:
        base = bundle_name(Path(bundle))
        name, count = base, 1
        while name in names:
            count += 1
            name = f"{base}-{count}"
        names.append(name)
    return names


def render_map(display_slice: DisplaySlice, name: str, heat: NDArray[np.float32], target: str) -> dict[str, Any]:
    """Returns the response entry of a map.

    Args:
        display_slice: The slice for display.
        name: A key of ``display.TITLES``.
        heat: The map over the network input, at any resolution.
        target: The class that the class activation map explains.

    Returns:
        Its statistics, ``strength`` (gray PNG in base64, of the size of the image; 255 is strongest) and ``overlay`` (color PNG
        in base64).
    """
    on_image = display.display_map(name, heat, display_slice.placement, target)
    rendered = display.clip_map(on_image, display_slice.visible)
    strength = np.rint(255 * unit_range(rendered.drawn, rendered.min_span)).astype(np.uint8)
    return {
        "name": name,
        "title": rendered.title,
        "note": rendered.note,
        **rendered.statistics,
        "strength": png(strength),
        "overlay": png(overlay(display_slice.gray, rendered.drawn, min_span=rendered.min_span)),
    }


def png(pixels: NDArray[np.uint8]) -> str:
    """Returns pixels as a PNG in base64."""
    buffer = io.BytesIO()
    Picture.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return base64.b64encode(buffer.getvalue()).decode()
