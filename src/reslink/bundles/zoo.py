"""The shipped bundles of the package: finds them by name and lists them with their metrics; they are read-only."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from reslink.bundles import weights
from reslink.bundles.pretrained import OutsideEvaluation, pretrained_info
from reslink.bundles.record import BUNDLE_JSON, MODEL_CARD, WEIGHTS, BundleRecord, read_record
from reslink.errors import BundleError, UsageError, suggest

SHIPPED = Path(str(resources.files("reslink.bundles") / "shipped"))
"""Folder of the shipped bundles; the name of each subfolder is the name of its bundle."""

HEADLINE: Final = ("accuracy", "sensitivity", "specificity", "auroc")


@dataclass(frozen=True)
class ShippedModel:
    """A shipped bundle of the package.

    Attributes:
        name: Its name, which every command accepts instead of a path.
        folder: Its folder.
        title: Its title.
        task: The classes that it tells apart, in words.
        usage_notes: What to read before using it.
        classes: The class names in the order of the outputs.
        modality: The kind of images that it is for, in words.
        scope: The images that it is for, in short.
        input_shape: Channels, height and width of the network's input.
        bytes: Size of the folder on disk.
        parameters: Number of trainable parameters.
        metrics: The metrics of ``HEADLINE`` that were measured: ``estimate``, ``ci_low``, ``ci_high`` (95 % interval), ``n``
            and ``method``.
        has_ood_detector: Whether it abstains from images unlike its calibration images.
        n_groups: Patients or duplicate groups among the evaluated images; None without an evaluation.
        license: License of the weights.
        ledger: Every evaluation on data of other hospitals, and on held-out parts of its own sources.
    """

    name: str
    folder: Path
    title: str
    task: str
    usage_notes: str
    classes: tuple[str, ...]
    modality: str
    scope: str
    input_shape: tuple[int, int, int]
    bytes: int
    parameters: int
    metrics: dict[str, dict[str, Any]]
    has_ood_detector: bool
    n_groups: int | None
    license: str
    ledger: tuple[OutsideEvaluation, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> ShippedModel:
        """Reads ``bundle.json`` and the header of the weights; loads neither weights nor torch.

        Raises:
            BundleError: If it is not a bundle of this version, or not a shipped one.
        """
        record = read_record(folder / BUNDLE_JSON)
        info = pretrained_info(record.provenance)
        if info is None:
            raise BundleError(
                f"{folder} is not a shipped bundle: its provenance has no entry 'pretrained'",
                "A shipped bundle states its task, the source of its data and its limitations",
                f"Build it: python benchmarks/make_bundles.py {folder.name} RUN",
            )
        size = record.preprocess.size
        return cls(
            name=folder.name,
            folder=folder,
            title=info.title,
            task=info.task,
            usage_notes=info.usage_notes,
            classes=tuple(record.labels),
            modality=info.modality,
            scope=str(record.scope),
            input_shape=(record.preprocess.channels, size, size),
            bytes=folder_size(folder),
            parameters=weights.count_parameters(folder / WEIGHTS),
            metrics=_headline_metrics(record),
            has_ood_detector=record.decision.ood is not None,
            n_groups=record.metrics.get("n_groups"),
            license=str(record.provenance.get("license", "not stated")),
            ledger=tuple(info.ledger),
        )

    def card(self) -> str:
        """Returns the text of its model card."""
        return (self.folder / MODEL_CARD).read_text(encoding="utf-8")

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        lists = {"classes": list(self.classes), "input_shape": list(self.input_shape)}
        return vars(self) | lists | {"folder": str(self.folder), "ledger": [entry.model_dump() for entry in self.ledger]}


def shipped(folder: Path | None = None) -> list[ShippedModel]:
    """Returns the shipped bundles by name; an empty list if the installation has none.

    Args:
        folder: Another folder of bundles.

    Raises:
        BundleError: If one of them cannot be used.
    """
    root = SHIPPED if folder is None else folder
    return [ShippedModel.read(root / name) for name in names(root)]


def names(folder: Path | None = None) -> list[str]:
    """Returns the sorted names of the shipped bundles, without opening them."""
    root = SHIPPED if folder is None else folder
    return sorted(file.parent.name for file in root.glob(f"[!.]*/{BUNDLE_JSON}"))


def onnx_digests() -> frozenset[str]:
    """Returns the SHA-256 of the ONNX models of the shipped bundles."""
    return _onnx_digests(SHIPPED)


@cache
def _onnx_digests(folder: Path) -> frozenset[str]:
    records = [json.loads((folder / name / BUNDLE_JSON).read_bytes()) for name in names(folder)]
    return frozenset(record["onnx"]["sha256"] for record in records if record.get("onnx"))


def model(name: str, folder: Path | None = None) -> ShippedModel:
    """Returns a shipped bundle by name.

    Raises:
        UsageError: If there is none of this name, with the nearest name.
    """
    available = names(folder)
    if name not in available:
        raise UsageError(
            f"No shipped model is named {name!r}",
            f"Shipped models: {_listed(available)}",
            _did_you_mean(name, available),
        )
    return ShippedModel.read((SHIPPED if folder is None else folder) / name)


def resolve(name_or_path: str | Path, folder: Path | None = None) -> Path:
    """Returns the folder of a shipped bundle for its name, or the given path.

    A string without a ``/`` is first looked up among the names: ``ct`` is the shipped bundle, ``./ct`` and ``ct/`` are
    the folder of that name. A string that is no such name is a path. A ``Path`` is always a path.

    Args:
        name_or_path: A name such as ``ct``, or a path.
        folder: Another folder of bundles to look in.

    Raises:
        BundleError: If a name is neither a shipped bundle nor an existing path, or the value is not a string or path.
    """
    if not isinstance(name_or_path, str | Path):
        raise BundleError(
            f"{type(name_or_path).__name__} was given as a bundle",
            f"A bundle is the path of a folder, or the name of a shipped model: {_listed(names(folder))}",
            "Give a string or a pathlib.Path",
        )
    path = Path(name_or_path)
    if isinstance(name_or_path, Path) or os.sep in name_or_path:
        return path
    available = names(folder)
    if name_or_path in available:
        if path.exists():
            warnings.warn(
                f"{name_or_path} is the shipped model; write ./{name_or_path} to use the folder of that name",
                stacklevel=2,
            )
        return (SHIPPED if folder is None else folder) / name_or_path
    if path.exists():
        return path
    raise BundleError(
        f"There is no folder {path}, and no shipped model of that name",
        f"A bundle is a folder with bundle.json and model.safetensors, or the name of a shipped model: {_listed(available)}",
        _did_you_mean(name_or_path, available),
    )


def is_shipped(target: Path) -> bool:
    """Returns whether a path is the folder of the shipped bundles, or inside it."""
    root, resolved = SHIPPED.resolve(), target.resolve()
    return resolved == root or root in resolved.parents


def check_not_shipped(target: Path) -> None:
    """Checks that a path is outside the folder of the shipped bundles, which are read-only.

    Raises:
        UsageError: If it is inside.
    """
    if is_shipped(target):
        raise UsageError(
            f"{target} belongs to the shipped models of reslink",
            "Shipped models are read-only: a changed one would no longer match its model card",
            "Choose another folder with --out",
        )


def folder_size(folder: Path) -> int:
    """Returns the size of all files of a bundle in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _headline_metrics(record: BundleRecord) -> dict[str, dict[str, Any]]:
    metrics = record.metrics.get("metrics", {})
    return {name: metrics[name] for name in HEADLINE if _is_defined(metrics.get(name))}


def _is_defined(metric: Any) -> bool:
    return isinstance(metric, Mapping) and metric.get("estimate") is not None


def _listed(available: list[str]) -> str:
    return ", ".join(available) or "none in this installation"


def _did_you_mean(name: str, available: list[str]) -> str:
    return suggest(name.lower(), available) if available else "Check the path, or run reslink train DATA --out RUN"
