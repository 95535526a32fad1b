"""A bundle: the weights and all that must travel with them, in one folder; the only reader and writer of weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reslink.bundles import onnx_graph, storage, weights, zoo
from reslink.bundles.card.card import model_card
from reslink.bundles.decision.arrays import DecisionArrays
from reslink.bundles.decision.decision import Decision
from reslink.bundles.fingerprints import DIGEST, TrainingImages
from reslink.bundles.record import (
    BUNDLE_JSON,
    CARD,
    DECISION,
    FINGERPRINTS,
    SCHEMA_VERSION,
    TWIN,
    WEIGHTS,
    Record,
    TwinRecord,
    WeightsRecord,
    read_record,
)
from reslink.errors import BundleError
from reslink.files import sha256, write_atomic
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels

if TYPE_CHECKING:
    from reslink.networks.reslink import ResLink


__all__ = ["SCHEMA_VERSION", "Bundle"]


@dataclass(frozen=True)
class Bundle:
    """A trained network and what is needed to use and judge it.

    On disk a bundle is a folder of ``model.safetensors``, ``bundle.json``, ``MODEL_CARD.md`` and, where they are known,
    ``fingerprints.safetensors`` (of the training images), ``decision.safetensors`` and ``model.onnx``. Reading one imports
    no torch; only :meth:`network` does, and so does :meth:`save`, which checks the weights against the architecture.

    Attributes:
        architecture: The fields of ``ResLinkConfig`` and ``name``, the variant that they came from.
        preprocess: The one way from an image to the input of the network.
        labels: The classes in the order of the network's outputs; with two, the last one is the positive class.
        decision: How logits become probabilities and a class.
        metrics: What was measured, in the form of ``evaluation.json``; empty where nothing was.
        provenance: ``data`` (a dictionary: name, digest, counts), ``versions``, ``licence`` (of the weights),
            ``intended_use``, ``recipe``, ``seed``; no path, host or user name.
        training_images: Fingerprints of the images that it learned from; None where they are not known.
        weights_sha256: The SHA-256 of ``model.safetensors``; None before the bundle is saved.
        twin: What is known of ``model.onnx``, the same network for runtimes other than torch; None where there is none.
        folder: Where the bundle lies; None before it is saved.
    """

    architecture: dict[str, Any]
    preprocess: Preprocess
    labels: Labels
    decision: Decision = field(default_factory=Decision)
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    training_images: TrainingImages | None = field(default=None, compare=False, repr=False)
    weights_sha256: str | None = None
    onnx_model: TwinRecord | None = None
    folder: Path | None = None

    def __post_init__(self) -> None:
        _check_fit(self)

    def save(self, folder: str | Path, tensors: Mapping[str, weights.TensorLike]) -> Bundle:
        """Writes the bundle to a folder: whole or not at all. An older bundle there is replaced, and so is its twin.

        Equal weights give a byte-identical ``model.safetensors``, which holds no time, host or path.

        Args:
            folder: The folder to write; missing, empty, or an older bundle.
            tensors: The weights by name, arrays or torch tensors, such as ``network.state_dict()``. Floating-point
                numbers are stored as float32, those of half precision as they are.

        Returns:
            The same bundle with ``weights_sha256`` and ``folder`` set, without a twin: see :meth:`with_onnx`.

        Raises:
            BundleError: If a weight is not finite, a name or a shape does not fit the architecture (each is named),
                or the folder holds something else.
            StorageError: If it cannot be written; what stood there before still stands.
        """
        target = Path(folder)
        arrays = weights.to_arrays(tensors)
        weights.check_finite(arrays)
        weights.check_shapes({name: array.shape for name, array in arrays.items()}, self.architecture)
        content = weights.to_bytes(arrays)
        saved = replace(self, weights_sha256=sha256(content), onnx_model=None, folder=target)
        _write(saved, content, None)
        return saved

    @classmethod
    def load(cls, folder: str | Path) -> Bundle:
        """Reads a bundle; no weight is loaded, but their checksum is compared. Imports no torch.

        Args:
            folder: A bundle, a run that holds one in ``bundle/``, or the name of a shipped bundle, such as ``ct``.

        Returns:
            The bundle, checked.

        Raises:
            BundleError: If this is not a bundle, is one of a newer version, or its parts do not belong together.
        """
        path = storage.find_bundle(folder)
        record = read_record(path / BUNDLE_JSON)
        weights.check_file(path / WEIGHTS, record.weights.sha256)
        if record.onnx is not None:
            source = onnx_graph.source_of(record.weights.sha256, record.architecture, record.preprocess)
            onnx_graph.check_fresh(path / TWIN, record.onnx, source)
            onnx_graph.read(path / TWIN, record.onnx)
        kept, fitted = record.fingerprints, record.decision_arrays
        arrays = DecisionArrays.read(path / DECISION, fitted.sha256) if fitted else None
        return cls(
            architecture=record.architecture,
            preprocess=record.preprocess,
            labels=Labels(tuple(record.labels)),
            decision=record.decision.model_copy(update={"arrays": arrays}),
            metrics=record.metrics,
            provenance=record.provenance,
            training_images=TrainingImages.read(path / FINGERPRINTS, kept.sha256) if kept else None,
            weights_sha256=record.weights.sha256,
            onnx_model=record.onnx,
            folder=path,
        )

    def with_metrics(self, metrics: Mapping[str, Any]) -> Bundle:
        """Returns the bundle with what was measured, also written to ``bundle.json`` and the card where it is saved.

        Args:
            metrics: The form of ``evaluation.json``; replaces what stood there. ``failed``, ``excluded`` and ``linked`` are
                left out, as they hold file names, which may tell whose images they are, and a bundle is handed on; and so is
                what the bundle was called.
        """
        names = ("failed", "excluded", "linked", "bundle", "read_first")
        measured = replace(self, metrics={key: value for key, value in metrics.items() if key not in names})
        if self.folder is not None:
            zoo.refuse_shipped(self.folder)
            _write_texts(measured, self.folder, (self.folder / WEIGHTS).stat().st_size)
        return measured

    @property
    def name(self) -> str | None:
        """What its folder is called, or the run that it lies in; None where it is not saved. No path."""
        return None if self.folder is None else storage.called(self.folder)

    @property
    def calibration_images(self) -> TrainingImages | None:
        """The fingerprints of the images that the decision was fitted on, none of them cleared; None where there are none."""
        arrays = self.decision.arrays
        if arrays is None or "images" not in arrays.by_name:
            return None
        return TrainingImages(arrays.by_name["images"], np.zeros((0, DIGEST), np.uint8))

    def with_decision(self, decision: Decision, folder: str | Path | None = None) -> Bundle:
        """Returns the bundle with another decision, written to a folder: whole or not at all.

        What was measured with the earlier decision is left out.

        Args:
            decision: The decision.
            folder: Missing, empty, or an older bundle. If not given, the bundle's own folder, whose content is replaced.

        Raises:
            BundleError: If the bundle is not saved, the decision does not fit it, or the folder holds something else.
            StorageError: If it cannot be written; what stood there before still stands.
        """
        if self.folder is None:
            raise BundleError("The bundle has no weights yet", "A decision is added to a saved bundle", "Call save() first")
        decided = replace(self, decision=decision, metrics={}, folder=Path(folder or self.folder))
        _write(decided, (self.folder / WEIGHTS).read_bytes(), self.onnx() if self.onnx_model else None)
        return decided

    def with_onnx(self, content: bytes, folder: str | Path | None = None) -> Bundle:
        """Returns the bundle with its network as an ONNX graph too, written to a folder: whole or not at all.

        Args:
            content: What ``reslink.export.onnx.to_onnx`` makes of this bundle.
            folder: Missing, empty, or an older bundle. If not given, the bundle's own folder, whose content is replaced.

        Raises:
            BundleError: If the bundle is not saved, its weights changed since it was loaded, or the folder holds something
                else.
            StorageError: If it cannot be written; what stood there before still stands.
        """
        if self.folder is None or self.weights_sha256 is None:
            raise BundleError("The bundle has no weights yet", "A graph is added to a saved bundle", "Call save() first")
        weights.check_file(self.folder / WEIGHTS, self.weights_sha256)
        source = onnx_graph.source_of(self.weights_sha256, self.architecture, self.preprocess)
        doubled = replace(self, onnx_model=onnx_graph.record_of(content, TWIN, source), folder=Path(folder or self.folder))
        _write(doubled, (self.folder / WEIGHTS).read_bytes(), content)
        return doubled

    def onnx(self) -> bytes:
        """Returns the network as an ONNX graph: ``pixels`` in; ``logits``, ``features`` and maps out (``bundles/twin.py``).

        Raises:
            BundleError: If the bundle has none, or it changed since the bundle was loaded.
        """
        if self.folder is None or self.onnx_model is None:
            raise BundleError(
                f"The bundle {self.folder or ''} has no {TWIN}".replace("  ", " "),
                "Backends other than torch run this graph, which reslink train writes where the export packages are installed",
                'Use --backend torch, or run pip install "reslink[export]" and train again',
            )
        return onnx_graph.read(self.folder / TWIN, self.onnx_model)

    def network(self) -> ResLink:
        """Builds the network with its weights, in eval mode on the CPU. Imports torch; leaves its random state alone.

        Raises:
            BundleError: If the bundle is not saved, the weights changed since it was loaded, or they do not fit.
        """
        if self.folder is None or self.weights_sha256 is None:
            raise BundleError("The bundle has no weights yet", "A network is built from a saved bundle", "Call save() first")
        return weights.load_network(self.folder / WEIGHTS, self.weights_sha256, self.architecture)


def _write(bundle: Bundle, content: bytes, graph: bytes | None) -> None:
    """Writes a bundle to its folder, with its weights and its twin; nothing else stays there."""
    if bundle.folder is None:
        raise BundleError("The bundle has no folder", "A bundle is written to a folder", "Call save() first")
    with storage.replacing(bundle.folder) as part:
        write_atomic(part / WEIGHTS, content)
        if graph is not None:
            write_atomic(part / TWIN, graph)
        _write_arrays(bundle, part)
        _write_texts(bundle, part, len(content))


def _array_files(bundle: Bundle) -> dict[str, bytes]:
    """Returns the content of the files of arrays that a bundle has beside its weights, by file name."""
    parts = {FINGERPRINTS: bundle.training_images, DECISION: bundle.decision.arrays}
    return {name: part.to_bytes() for name, part in parts.items() if part is not None}


def _write_arrays(bundle: Bundle, folder: Path) -> None:
    for name, content in _array_files(bundle).items():
        write_atomic(folder / name, content)


def _write_texts(bundle: Bundle, folder: Path, weights_bytes: int) -> None:
    files = {
        name: WeightsRecord(file=name, sha256=sha256(content), bytes=len(content))
        for name, content in _array_files(bundle).items()
    }
    record = Record(
        schema_version=SCHEMA_VERSION,
        architecture=bundle.architecture,
        preprocess=bundle.preprocess,
        labels=list(bundle.labels.names),
        decision=bundle.decision,
        weights=WeightsRecord(file=WEIGHTS, sha256=bundle.weights_sha256 or "", bytes=weights_bytes),
        onnx=bundle.onnx_model,
        fingerprints=files.get(FINGERPRINTS),
        decision_arrays=files.get(DECISION),
        metrics=bundle.metrics,
        provenance=bundle.provenance,
    )
    try:
        text = json.dumps(record.model_dump(), indent=2, allow_nan=False, ensure_ascii=False)
    except (ValueError, TypeError) as error:
        raise BundleError(
            f"The metrics or the provenance of the bundle cannot be stored ({error})",
            "They hold finite numbers, texts, lists and dictionaries",
            "Write null where a figure is not defined",
        ) from error
    write_atomic(folder / CARD, model_card(bundle))
    write_atomic(folder / BUNDLE_JSON, text + "\n")


def _check_fit(bundle: Bundle) -> None:
    """Checks that the parts of a bundle belong together; names the field that does not."""
    bundle.decision.check_classes(len(bundle.labels))
    outputs, classes = bundle.architecture.get("num_classes"), len(bundle.labels)
    if outputs != classes and not (outputs == 1 and classes == 2):
        raise BundleError(
            f"architecture.num_classes is {outputs}, but there are {classes} labels: {', '.join(bundle.labels.names)}",
            "There is an output for each label, or a single one for two labels",
            "Use the bundle that belongs to these labels, or train again",
        )
    channels = bundle.architecture.get("in_channels")
    if channels != bundle.preprocess.channels:
        raise BundleError(
            f"architecture.in_channels is {channels}, but preprocess.channels is {bundle.preprocess.channels}",
            "Both are the same number",
            "Use the bundle that belongs to this preprocessing, or train again",
        )
