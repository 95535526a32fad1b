"""The twin of the weights: the same network as one ONNX graph, ``model.onnx``, which runs without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from reslink.bundles.record import TwinRecord
from reslink.errors import BundleError
from reslink.files import sha256
from reslink.imaging.preprocess import Preprocess

PIXELS: Final = "pixels"
"""The input: (B, planes, S, S) uint8, what ``Preprocess.pixels`` returns for each slice."""

LOGITS: Final = "logits"
"""(B, K) float32, or (B, 1)."""

FEATURES: Final = "features"
"""(B, D) float32, pooled, what the dense layer sees."""

CAM: Final = "cam"
"""(B, K, h, w) float32, class activation maps; their mean over a map and the bias of the dense layer make the logit."""


def source_of(weights_sha256: str, architecture: Mapping[str, Any], preprocess: Preprocess) -> str:
    """Returns the SHA-256 of all that a twin is made from; another one means that the twin is stale.

    Args:
        weights_sha256: Of ``model.safetensors``.
        architecture: Of the bundle.
        preprocess: Of the bundle; what the graph holds of it is its input's shape and the normalisation.
    """
    seen = {key: getattr(preprocess, key) for key in ("planes", "size", "channels", "mean", "std")}
    everything = {"weights": weights_sha256, "architecture": dict(architecture), "input": seen}
    return sha256(json.dumps(everything, sort_keys=True, separators=(",", ":")))


def record_of(content: bytes, file: str, source: str) -> TwinRecord:
    """Returns what ``bundle.json`` says of a twin."""
    return TwinRecord(file=file, sha256=sha256(content), bytes=len(content), source=source)


def check_fresh(path: Path, record: TwinRecord, source: str) -> None:
    """Refuses a twin that was made from other weights or settings than those of its bundle.

    Raises:
        BundleError: If it was.
    """
    if record.source != source:
        raise _unusable(path, "it was made from other weights or settings than those of this bundle")


def read(path: Path, record: TwinRecord) -> bytes:
    """Returns the graph; the bytes that are checked are the bytes that are returned.

    Raises:
        BundleError: If it is missing or is not the one that was saved.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    found = sha256(content)
    if found != record.sha256:
        raise _unusable(path, f"its SHA-256 is {found[:12]}…, but bundle.json says {record.sha256[:12]}…")
    return content


def _unusable(path: Path, fault: str) -> BundleError:
    return BundleError(
        f"{path} cannot be used: {fault}",
        "The ONNX graph of a bundle is the one that was made from its weights",
        "Copy the whole bundle again, or train again",
    )
