"""Settings that a recipe takes over from the parent of a fine-tuned network. Imports no torch."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any, Final

from reslink.bundles import zoo
from reslink.bundles.record import BUNDLE_JSON, ONNX_MODEL, WEIGHTS, BundleRecord, read_record
from reslink.bundles.storage import find_bundle
from reslink.errors import BundleError, UsageError
from reslink.networks.config import VARIANTS
from reslink.networks.external_config import ENSEMBLE

Tree = dict[str, Any]

_OF_THE_DATA: Final = ("name", "num_classes", "in_channels", "case")
"""Fields of an architecture that are not settings of the section ``model``."""


def inherit(tree: Tree, parent: str, weights_sha256: str | None) -> Tree:
    """Returns the settings of a recipe, with those of the parent where the recipe states none.

    Args:
        tree: The settings that the recipe states; not changed.
        parent: The setting ``init.parent``.
        weights_sha256: SHA-256 that the recipe states for the weights of the parent.

    Raises:
        BundleError: If there is no such bundle, it has no weights, or its weights are others than the recipe states.
        UsageError: If the recipe states another network variant, or channels to which the weights cannot be converted.
    """
    record = read_record(find_parent(parent) / BUNDLE_JSON)
    if weights_sha256 is not None and weights_sha256 != record.weights.sha256:
        raise BundleError(
            f"The weights of {parent} have the SHA-256 {record.weights.sha256[:12]}…; the recipe states {weights_sha256[:12]}…",
            "A recipe with init.weights_sha256 starts from these weights",
            "Give that parent with --init, or remove init.weights_sha256 from the recipe",
        )
    result = copy.deepcopy(tree)
    result["init"] = result.get("init", {}) | {"weights_sha256": record.weights.sha256}
    result["preprocess"] = _merge(record.preprocess.model_dump(mode="json"), result.get("preprocess"))
    result["model"] = _merge(_network_settings(record, parent, result.get("model") or {}), result.get("model"))
    _check_variant(result["model"]["variant"], record, parent)
    _check_channels(result["preprocess"], record, parent)
    return result


def _merge(inherited: Tree, stated: Tree | None) -> Tree:
    return inherited | {key: value for key, value in (stated or {}).items() if value is not None}


def _network_settings(record: BundleRecord, parent: str, stated: Tree) -> Tree:
    architecture = record.architecture
    if architecture.get("source") == ENSEMBLE:
        raise UsageError(
            f"The network of {parent} is an ensemble of {architecture.get('count')} networks",
            "A parent is a single network",
            "Start from the bundle of one member, or from the network that reslink cv --distill trains",
        )
    if architecture.get("source") == "entry_point" and not stated.get("entry_point"):
        raise UsageError(
            f"The network of {parent} is built by {architecture.get('entry_point')}, which is not part of reslink",
            "A bundle never runs code; you give your own network with the command",
            f"Pass {architecture.get('entry_point')} with --network",
        )
    if "source" in architecture:
        return {key: architecture.get(key) for key in ("options", "explanation_layer")} | {"variant": architecture.get("name")}
    if architecture.get("name") not in VARIANTS:
        raise UsageError(
            f"The network of {parent} is {architecture.get('name')!r}",
            f"A parent is one of {', '.join(VARIANTS)}",
            "Choose another parent",
        )
    fields = {key: value for key, value in architecture.items() if key not in _OF_THE_DATA}
    return {"variant": architecture["name"], **fields}


def _check_variant(variant: str, record: BundleRecord, parent: str) -> None:
    if variant != record.architecture["name"]:
        raise UsageError(
            f"The recipe's model.variant is {variant}, but the network of {parent} is {record.architecture['name']}",
            "Weights are taken over by a network of the same variant",
            "Leave out model.variant, or choose a parent of that variant",
        )


def _check_channels(preprocess: Tree, record: BundleRecord, parent: str) -> None:
    """Refuses one channel for a parent whose channels show three windows: their sum means nothing for one window."""
    if record.preprocess.planes > 1 and preprocess["channels"] == 1:
        raise UsageError(
            f"The recipe's preprocess.channels is 1, but the channels of {parent} are {record.preprocess.planes} windows",
            "Weights are converted between 1 channel and 3 equal channels",
            "Leave out preprocess.channels and preprocess.window, or choose another parent",
        )


def find_parent(parent: str) -> Path:
    """Returns the folder of a parent: a shipped model, a bundle, or a run.

    Raises:
        BundleError: If there is none, or it has an ONNX model but no weights.
    """
    path = Path(parent)
    only_onnx = path.suffix == ".onnx" or any(
        (folder / ONNX_MODEL).is_file() and not (folder / WEIGHTS).is_file() for folder in (path, path / "bundle")
    )
    if only_onnx and parent not in zoo.names():
        raise BundleError(
            f"{parent} is an ONNX model without {WEIGHTS}",
            "--init takes over weights: it needs a bundle with them, or the name of a shipped model",
            "Give the whole folder of the bundle, such as RUN/bundle",
        )
    return find_bundle(parent)


def parent_setting(parent: str | Path) -> str:
    """Returns the setting ``init.parent`` for a parent; a ``Path`` is never the name of a shipped model."""
    return f".{os.sep}{parent}" if isinstance(parent, Path) and len(parent.parts) == 1 else str(parent)


def publishable_path(parent: str) -> str:
    """Returns the parent for the files of a run, which hold no absolute path: a relative path, or else only its name."""
    path = Path(parent)
    if not path.is_absolute():
        return parent
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


def publishable_entry_point(entry_point: str) -> str:
    """Returns an entry point for the files of a run; see :func:`publishable_path`."""
    module, _, attribute = entry_point.rpartition(":")
    return f"{publishable_path(module)}:{attribute}" if module.endswith(".py") else entry_point
