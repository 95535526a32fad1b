"""The bundle: a trained model on disk with everything that is needed to use it. Only this module writes weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from reslink.bundles import onnx_graph, storage, weights, zoo
from reslink.bundles.card.card import model_card
from reslink.bundles.decision.arrays import DecisionArrays
from reslink.bundles.decision.decision import Decision
from reslink.bundles.fingerprints import DIGEST, TrainingImages
from reslink.bundles.lineage import Ancestor, fingerprint_files, read_lineage
from reslink.bundles.pretrained import OutsideEvaluation, other_hospitals_sentence, pretrained_info
from reslink.bundles.record import (
    BUNDLE_JSON,
    DECISION,
    FINGERPRINTS,
    MODEL_CARD,
    ONNX_MODEL,
    SCHEMA_VERSION,
    WEIGHTS,
    BundleRecord,
    FileRecord,
    OnnxRecord,
    read_record,
)
from reslink.bundles.scope import Scope
from reslink.bundles.series_pooling import SeriesPooling
from reslink.errors import BundleError, UsageError
from reslink.files import install_command, replace_folder, sha256, write_atomic
from reslink.imaging.input_statistics import min_brain_share
from reslink.imaging.preprocess import Preprocess
from reslink.labels import CaseKind, Labels
from reslink.networks.entry_points import Builder, as_builder
from reslink.networks.external_config import member_architecture
from reslink.notebook import html_table

if TYPE_CHECKING:
    from torch import nn

    from reslink.networks.network import Network


__all__ = ["SCHEMA_VERSION", "Bundle"]

_NOT_STORED: Final = ("failed", "refused", "excluded", "leaked", "bundle", "usage_notes", "data_notes", "data", "date")
"""Entries of ``evaluation.json`` that are not stored in a bundle."""


@dataclass(frozen=True)
class Bundle:
    """A trained network with its preprocessing, labels, decision, metrics and provenance.

    On disk a bundle is a folder with ``model.safetensors``, ``bundle.json`` and ``MODEL_CARD.md``. It can also hold
    ``fingerprints.safetensors`` (of the training images), ``ancestor_N.safetensors`` (the same of its ancestors),
    ``decision.safetensors`` and ``model.onnx``. Loading a bundle does not import torch; :meth:`network` does, and :meth:`save`,
    which checks the weights against the architecture.

    Attributes:
        architecture: The fields of ``ResLinkConfig`` and ``name``, the name of the variant; those of ``ExternalConfig``; or the
            ``member`` and ``count`` of an ensemble. ``case: series`` if a case is a series: the weights then hold the pooling
            over its slices.
        preprocess: From an image to the input of the network.
        labels: The classes in the order of the network's outputs; with two, the last one is the positive class. Or several
            labels at once (``labels.exclusive`` is false).
        decision: From logits to probabilities and a label.
        scope: The images that the bundle is for.
        metrics: The content of ``evaluation.json``; empty before an evaluation.
        provenance: ``data`` (a dictionary: name, digest, counts), ``versions``, ``license`` (of the weights),
            ``intended_use``, ``recipe``, ``seed``; no path, host or user name.
        training_images: Fingerprints of the training images; None if unknown.
        lineage: The ancestors of a fine-tuned network, from its parent back to the first one; empty if trained from scratch.
        weights_sha256: SHA-256 of ``model.safetensors``; None before the bundle is saved.
        onnx_model: The record of ``model.onnx``, the same network for other runtimes than torch; None if there is none.
        folder: Folder of the bundle; None before it is saved.
        builder: Builds your own network, of which the folder holds only the weights; None for other networks.
    """

    architecture: dict[str, Any]
    preprocess: Preprocess
    labels: Labels
    decision: Decision = field(default_factory=Decision)
    scope: Scope = field(default_factory=Scope)
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    training_images: TrainingImages | None = field(default=None, compare=False, repr=False)
    lineage: tuple[Ancestor, ...] = field(default=(), compare=False)
    weights_sha256: str | None = None
    onnx_model: OnnxRecord | None = None
    folder: Path | None = None
    builder: Builder | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        _check_fit(self)

    def __repr__(self) -> str:
        return f"Bundle({', '.join(f'{name}: {value}' for name, value in self._properties().items() if value is not None)})"

    def _repr_html_(self) -> str:
        return html_table("Bundle", self._properties())

    def _properties(self) -> dict[str, str | None]:
        """Returns name and value of what a person wants to know first."""
        threshold = self.decision.threshold
        return {
            "name": self.name or (None if self.folder is None else self.folder.name),
            "network": self.architecture.get("name"),
            "case": self.case if self.case == "series" else None,
            "classes": " / ".join(self.labels.names),
            "images": str(self.scope),
            "input": f"{self.preprocess.channels}×{self.preprocess.size}×{self.preprocess.size}",
            "threshold": None if threshold is None else f"{threshold:.3f}",
            "prediction sets": "no" if self.decision.conformal is None else f"coverage {self.decision.conformal.coverage:g}",
            "OOD detector": "no" if self.decision.ood is None else "yes",
            "ONNX model": "no" if self.onnx_model is None else "yes",
        }

    def save(self, folder: str | Path, tensors: Mapping[str, weights.TensorLike]) -> Bundle:
        """Writes the bundle to a folder atomically and replaces an older bundle there, including its ONNX model.

        Equal weights give a byte-identical ``model.safetensors``, without any time, host or path.

        Args:
            folder: The folder to write; missing, empty, or an older bundle.
            tensors: The weights by name, arrays or torch tensors, such as ``network.state_dict()``. Floating-point numbers
                are stored as float32, half-precision numbers unchanged.

        Returns:
            The same bundle with ``weights_sha256`` and ``folder`` set, without an ONNX model (see :meth:`with_onnx`).

        Raises:
            BundleError: If a weight is not finite, or a name or shape does not fit the architecture.
            UsageError: If the folder has other content, or belongs to the shipped models.
            StorageError: If it cannot be written; the previous content is then kept.
        """
        target = Path(folder)
        arrays = weights.to_arrays(tensors)
        weights.check_finite(arrays)
        weights.check_shapes({name: array.shape for name, array in arrays.items()}, self.architecture, self.builder)
        content = weights.to_bytes(arrays)
        saved = replace(self, weights_sha256=sha256(content), onnx_model=None, folder=target)
        _write(saved, content, None)
        return saved

    @classmethod
    def load(cls, folder: str | Path, network: str | Builder | nn.Module | None = None) -> Bundle:
        """Loads a bundle and compares the checksum of its weights, without reading them into memory. Imports no torch.

        A bundle never runs code. One with your own network is used through its ONNX model, unless you pass the network.

        Args:
            folder: A bundle, a run that holds one in ``bundle/``, or the name of a shipped bundle, such as ``ct``.
            network: Your own network, as for :func:`reslink.train`; not needed for other networks.

        Returns:
            The checked bundle.

        Raises:
            BundleError: If this is not a bundle, has another schema version, or its parts do not fit each other.
        """
        path = storage.find_bundle(folder)
        record = read_record(path / BUNDLE_JSON)
        weights.check_file(path / WEIGHTS, record.weights.sha256)
        if record.onnx is not None:
            source = onnx_graph.source_digest(record.weights.sha256, record.architecture, record.preprocess)
            onnx_graph.check_source(path / ONNX_MODEL, record.onnx, source)
            onnx_graph.read_graph(path / ONNX_MODEL, record.onnx)
        fingerprints, decision_arrays = record.fingerprints, record.decision_arrays
        arrays = DecisionArrays.read(path / DECISION, decision_arrays.sha256) if decision_arrays else None
        return cls(
            architecture=record.architecture,
            preprocess=record.preprocess,
            labels=Labels(tuple(record.labels), record.exclusive),
            decision=record.decision.model_copy(update={"arrays": arrays}),
            scope=record.scope,
            metrics=record.metrics,
            provenance=record.provenance,
            training_images=TrainingImages.read(path / FINGERPRINTS, fingerprints.sha256) if fingerprints else None,
            lineage=read_lineage(path, record.lineage),
            weights_sha256=record.weights.sha256,
            onnx_model=record.onnx,
            folder=path,
            builder=None if network is None else as_builder(network),
        )

    def with_metrics(self, metrics: Mapping[str, Any]) -> Bundle:
        """Returns the bundle with the metrics of an evaluation; if saved, also updates ``bundle.json`` and the model card.

        Args:
            metrics: The content of ``evaluation.json``; replaces the previous metrics. Lists of cases are left out, because
                file names can identify patients and bundles are passed on. The name of the bundle, its usage notes, the name
                of the data set, the remarks on it and the date are left out as well.
        """
        kept = {key: value for key, value in metrics.items() if key not in _NOT_STORED}
        evaluated = replace(self, metrics=kept)
        if self.folder is not None:
            zoo.check_not_shipped(self.folder)
            _write_texts(evaluated, self.folder, (self.folder / WEIGHTS).stat().st_size)
        return evaluated

    @property
    def name(self) -> str | None:
        """Name of its folder, or of the run that holds it in ``bundle/``; None before it is saved."""
        return None if self.folder is None else storage.bundle_name(self.folder)

    @property
    def ledger(self) -> list[OutsideEvaluation]:
        """The evaluations that a shipped bundle, or a calibrated copy of one, records; empty for other bundles.

        Raises:
            BundleError: If the description of a shipped bundle is invalid.
        """
        info = pretrained_info(self.provenance)
        return [] if info is None else info.ledger

    @property
    def statement(self) -> str:
        """What goes with every answer: the images that the bundle is for, and how it did on those of other hospitals."""
        return f"{self.scope.sentence} {other_hospitals_sentence(self.ledger)}"

    @property
    def case(self) -> CaseKind:
        """What gets one answer: ``slice``, or ``series``."""
        return weights.case_of(self.architecture)

    def require_slices(self, what: str, advice: str = "") -> None:
        """Checks that a case is a slice, for what would otherwise answer for single slices of a series.

        Args:
            what: The command or function, which begins the message.
            advice: What to do instead; default: the commands that answer for series.

        Raises:
            UsageError: If a case is a series.
        """
        if self.case == "series":
            raise UsageError(
                f"{what} does not support {self.name or 'this bundle'}: its cases are series",
                f"{what} needs a bundle whose cases are slices; this one answers once for all slices of a series",
                advice
                or "Use reslink predict, evaluate, calibrate, explain, export, serve or dicom, or a bundle that was trained "
                "without --case series",
            )

    def pooling(self) -> SeriesPooling | None:
        """Returns the pooling over the slices of a series; None if a case is a slice.

        Raises:
            BundleError: If the bundle is not saved, or its weights have no pooling or changed since it was loaded.
        """
        if self.case == "slice":
            return None
        if self.folder is None or self.weights_sha256 is None:
            raise BundleError("The bundle has no weights yet", "The pooling is read from a saved bundle", "Call save() first")
        weights.check_file(self.folder / WEIGHTS, self.weights_sha256)
        return SeriesPooling.read(self.folder / WEIGHTS)

    @property
    def can_build_network(self) -> bool:
        """Whether :meth:`network` needs neither your own code nor a package that is not installed."""
        source = member_architecture(self.architecture).get("source")
        if source == "monai":
            return find_spec("monai") is not None
        return source != "entry_point" or self.builder is not None

    @property
    def checks_modality(self) -> bool:
        """Whether the modality detector is used: the bundle has a modality, and its preprocessing isolates the head."""
        return self.scope.modality is not None and self.preprocess.isolate_head

    @property
    def seen_images(self) -> tuple[TrainingImages, ...]:
        """The known fingerprints of the images that the weights were trained on: by this network, and by its ancestors."""
        images = (self.training_images, *(ancestor.training_images for ancestor in self.lineage))
        return tuple(known for known in images if known is not None)

    @property
    def knows_seen_images(self) -> bool:
        """Whether the training images of this network and of every ancestor are known."""
        return len(self.seen_images) == 1 + len(self.lineage)

    def lineage_of_child(self) -> tuple[Ancestor, ...]:
        """Returns the ancestors of a network that starts from the weights of this bundle.

        Raises:
            BundleError: If the bundle is not saved.
        """
        if self.folder is None or self.weights_sha256 is None:
            raise BundleError("The bundle has no weights yet", "A network starts from a saved bundle", "Call save() first")
        own = Ancestor.make(
            self.training_images,
            name=self.name if zoo.is_shipped(self.folder) else None,
            weights_sha256=self.weights_sha256,
            license=str(self.provenance.get("license", "not stated")),
            labels=list(self.labels.names),
            data_digest=(self.provenance.get("data") or {}).get("digest"),
        )
        return (own, *self.lineage)

    @property
    def calibration_images(self) -> TrainingImages | None:
        """Fingerprints of the calibration images, with no ``cleared`` entries; None without a fitted decision."""
        arrays = self.decision.arrays
        if arrays is None or "images" not in arrays.by_name:
            return None
        return TrainingImages(arrays.by_name["images"], np.zeros((0, DIGEST), np.uint8))

    def with_decision(self, decision: Decision, folder: str | Path | None = None) -> Bundle:
        """Returns the bundle with another decision, written to a folder atomically.

        The metrics of the earlier decision are removed.

        Args:
            decision: The decision.
            folder: Missing, empty, or an older bundle. If not given, the bundle's own folder, whose content is replaced.

        Raises:
            BundleError: If the bundle is not saved, or the decision does not fit it.
            UsageError: If the folder has other content.
            StorageError: If it cannot be written; the previous content is then kept.
        """
        if self.folder is None:
            raise BundleError("The bundle has no weights yet", "A decision is added to a saved bundle", "Call save() first")
        decided = replace(self, decision=decision, metrics={}, folder=Path(folder or self.folder))
        _write(decided, (self.folder / WEIGHTS).read_bytes(), self.onnx() if self.onnx_model else None)
        return decided

    def with_onnx(self, content: bytes, folder: str | Path | None = None) -> Bundle:
        """Returns the bundle with its network as an ONNX graph too, written to a folder atomically.

        Args:
            content: The result of ``reslink.export.onnx.to_onnx`` for this bundle.
            folder: Missing, empty, or an older bundle. If not given, the bundle's own folder, whose content is replaced.

        Raises:
            BundleError: If the bundle is not saved, or its weights changed since it was loaded.
            UsageError: If the folder has other content.
            StorageError: If it cannot be written; the previous content is then kept.
        """
        if self.folder is None or self.weights_sha256 is None:
            raise BundleError("The bundle has no weights yet", "A graph is added to a saved bundle", "Call save() first")
        weights.check_file(self.folder / WEIGHTS, self.weights_sha256)
        source = onnx_graph.source_digest(self.weights_sha256, self.architecture, self.preprocess)
        record = onnx_graph.make_record(content, ONNX_MODEL, source)
        extended = replace(self, onnx_model=record, folder=Path(folder or self.folder))
        _write(extended, (self.folder / WEIGHTS).read_bytes(), content)
        return extended

    def onnx(self) -> bytes:
        """Returns the ONNX graph: input ``pixels``; outputs ``logits``, ``features`` and maps (``bundles/onnx_graph.py``).

        Raises:
            BundleError: If the bundle has no graph, or the graph changed since the bundle was loaded.
        """
        if self.folder is None or self.onnx_model is None:
            raise BundleError(
                f"The bundle {self.folder or ''} has no {ONNX_MODEL}".replace("  ", " "),
                "Backends other than torch need this graph; reslink train writes it if the extra 'train' is installed",
                f"Use --backend torch, or run {install_command('train')} and train again",
            )
        return onnx_graph.read_graph(self.folder / ONNX_MODEL, self.onnx_model)

    def network(self, builder: Builder | None = None) -> Network:
        """Returns the network with its weights, in eval mode on the CPU. Imports torch; does not change its random state.

        Args:
            builder: Builds your own network, if :meth:`load` did not get it.

        Raises:
            BundleError: If the bundle is not saved, the weights changed since it was loaded, or they do not fit.
            UsageError: If the bundle has your own network and no builder, or MONAI is needed and not installed.
        """
        if self.folder is None or self.weights_sha256 is None:
            raise BundleError("The bundle has no weights yet", "A network is built from a saved bundle", "Call save() first")
        return weights.load_network(self.folder / WEIGHTS, self.weights_sha256, self.architecture, builder or self.builder)


def _write(bundle: Bundle, content: bytes, graph: bytes | None) -> None:
    """Replaces the folder of a bundle by its files, with the given weights and ONNX graph."""
    if bundle.folder is None:
        raise BundleError("The bundle has no folder", "A bundle is written to a folder", "Call save() first")
    zoo.check_not_shipped(bundle.folder)
    with replace_folder(bundle.folder, BUNDLE_JSON, "bundle") as new:
        write_atomic(new / WEIGHTS, content)
        if graph is not None:
            write_atomic(new / ONNX_MODEL, graph)
        for name, arrays in _array_files(bundle).items():
            write_atomic(new / name, arrays)
        _write_texts(bundle, new, len(content))


def _array_files(bundle: Bundle) -> dict[str, bytes]:
    """Returns the content of the array files beside the weights, by file name."""
    files = {FINGERPRINTS: bundle.training_images, DECISION: bundle.decision.arrays}
    own = {name: arrays.to_bytes() for name, arrays in files.items() if arrays is not None}
    return own | fingerprint_files(bundle.lineage)


def _write_texts(bundle: Bundle, folder: Path, weights_bytes: int) -> None:
    files = {
        name: FileRecord(file=name, sha256=sha256(content), bytes=len(content))
        for name, content in _array_files(bundle).items()
    }
    record = BundleRecord(
        schema_version=SCHEMA_VERSION,
        architecture=bundle.architecture,
        preprocess=bundle.preprocess,
        labels=list(bundle.labels.names),
        exclusive=bundle.labels.exclusive,
        decision=bundle.decision,
        scope=bundle.scope,
        weights=FileRecord(file=WEIGHTS, sha256=bundle.weights_sha256 or "", bytes=weights_bytes),
        onnx=bundle.onnx_model,
        fingerprints=files.get(FINGERPRINTS),
        decision_arrays=files.get(DECISION),
        lineage=list(bundle.lineage),
        metrics=bundle.metrics,
        provenance=bundle.provenance,
    )
    try:
        stated = record.model_dump(exclude={"exclusive"} if record.exclusive else None)
        text = json.dumps(stated, indent=2, allow_nan=False, ensure_ascii=False)
    except (ValueError, TypeError) as error:
        raise BundleError(
            f"The metrics or the provenance of the bundle cannot be stored ({error})",
            "They hold finite numbers, strings, lists and dictionaries",
            "Write null for an undefined metric",
        ) from error
    write_atomic(folder / MODEL_CARD, model_card(bundle))
    write_atomic(folder / BUNDLE_JSON, text + "\n")


def _check_fit(bundle: Bundle) -> None:
    """Checks that the parts of a bundle fit each other."""
    weights.case_of(bundle.architecture)
    bundle.decision.check_classes(len(bundle.labels))
    outputs, classes = bundle.architecture.get("num_classes"), len(bundle.labels)
    if bundle.labels.exclusive == bool(bundle.decision.by_label):
        raise BundleError(
            f"exclusive is {bundle.labels.exclusive}, but the decision has {len(bundle.decision.by_label)} decisions of labels",
            "Several labels at once have one decision each, and one class per image has none",
            "Use the bundle that belongs to these labels, or train again",
        )
    if bundle.decision.by_label and bundle.decision.flip_average:
        raise BundleError(
            "The decision has flip_average with several labels at once",
            "Mirror images are averaged for one class per image only",
            "Use the bundle that belongs to these labels, or calibrate again",
        )
    if outputs != classes and not (outputs == 1 and bundle.labels.binary):
        raise BundleError(
            f"architecture.num_classes is {outputs}, but there are {classes} labels: {', '.join(bundle.labels.names)}",
            "There is one output per label, or a single output for two labels",
            "Use the bundle that belongs to these labels, or train again",
        )
    if bundle.scope.min_brain_share is not None and min_brain_share(bundle.scope.modality, bundle.preprocess) is None:
        raise BundleError(
            f"scope.min_brain_share is {bundle.scope.min_brain_share:g} in a bundle for {bundle.scope}",
            "Brain is recognized in isolated heads on CT in a brain window",
            "Use the bundle that belongs to this scope, or calibrate again",
        )
    channels = bundle.architecture.get("in_channels")
    if channels != bundle.preprocess.channels:
        raise BundleError(
            f"architecture.in_channels is {channels}, but preprocess.channels is {bundle.preprocess.channels}",
            "Both are equal",
            "Use the bundle that belongs to this preprocessing, or train again",
        )
