"""``model.onnx``: the network of a bundle as an ONNX graph, which runs without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from reslink.bundles.record import OnnxRecord
from reslink.bundles.verified_files import read_verified
from reslink.errors import unusable_bundle
from reslink.files import sha256
from reslink.imaging.preprocess import Preprocess

PIXELS: Final = "pixels"
"""The input: (B, planes, S, S) uint8, the result of ``Preprocess.pixels`` for each slice."""

LOGITS: Final = "logits"
"""(B, K) float32, or (B, 1)."""

FEATURES: Final = "features"
"""(B, D) float32, pooled, the input of the dense layer."""

CAM: Final = "cam"
"""(B, K, h, w) float32, class activation maps; the mean over a map plus the bias of the dense layer is the logit."""


def source_digest(weights_sha256: str, architecture: Mapping[str, Any], preprocess: Preprocess) -> str:
    """Returns the SHA-256 of everything that the graph is made from; another value means that the graph is out of date.

    Args:
        weights_sha256: SHA-256 of ``model.safetensors``.
        architecture: Architecture of the bundle.
        preprocess: Preprocessing of the bundle; the graph depends on its input shape and its normalization.
    """
    settings = {key: getattr(preprocess, key) for key in ("planes", "size", "channels", "mean", "std")}
    sources = {"weights": weights_sha256, "architecture": dict(architecture), "input": settings}
    return sha256(json.dumps(sources, sort_keys=True, separators=(",", ":")))


def make_record(content: bytes, file: str, source: str) -> OnnxRecord:
    """Returns the entry of a graph in ``bundle.json``."""
    return OnnxRecord(file=file, sha256=sha256(content), bytes=len(content), source=source)


def check_source(path: Path, record: OnnxRecord, source: str) -> None:
    """Checks that the graph was made from the weights and settings of its bundle.

    Raises:
        BundleError: If it was made from others.
    """
    if record.source != source:
        raise unusable_bundle(path, "it was made from other weights or settings than those of this bundle")


def read_graph(path: Path, record: OnnxRecord) -> bytes:
    """Returns the graph.

    Raises:
        BundleError: If it is missing or differs from the saved one.
    """
    return read_verified(path, record.sha256)
