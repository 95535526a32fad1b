"""The graph of a bundle in int8, and what that costs in accuracy on held-out images; used by prediction.py.

Static quantisation by ONNX Runtime: quantise and dequantise nodes, one scale a channel of the weights, activations calibrated
on images of the validation part. Graphs of this kind run in ONNX Runtime and in OpenVINO.
"""

from __future__ import annotations

import csv
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from reslink.bundles.bundle import Bundle
from reslink.bundles.onnx_graph import CAM, PIXELS
from reslink.imaging.reading import read_image
from reslink.inference.backends import Backend, Floats, OnnxRuntimeBackend, OpenVinoBackend, Pixels
from reslink.metrics.differences import Answers, differences
from reslink.metrics.intervals import Estimate

ALLOWED = 0.005
"""What int8 may cost in accuracy."""

CALIBRATION_IMAGES = 128


def quantised(bundle: str, data: Path, splits: Path) -> bytes:
    """Returns the graph in int8, calibrated on images of the validation part."""
    loaded = Bundle.load(bundle)
    rows = _rows(splits, "validation")
    rows = rows[:: max(1, len(rows) // CALIBRATION_IMAGES)][:CALIBRATION_IMAGES]
    pixels = _pixels(loaded, data, rows)
    with tempfile.TemporaryDirectory(prefix="reslink-int8-") as made:
        plain, folded, out = (Path(made) / name for name in ("plain.onnx", "folded.onnx", "int8.onnx"))
        plain.write_bytes(_two_outputs(loaded.onnx()))
        logging.getLogger().setLevel(logging.ERROR)
        quant_pre_process(plain, folded, skip_symbolic_shape=True)
        quantize_static(
            folded,
            out,
            _Batches(pixels),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "Add", "Mul", "MaxPool"],
        )
        return out.read_bytes()


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no annotations
    def __init__(self, pixels: Pixels) -> None:
        self._rest: Iterator[Pixels] = iter(np.array_split(pixels, -(-len(pixels) // 8)))

    def get_next(self) -> dict[str, Pixels] | None:
        batch = next(self._rest, None)
        return None if batch is None else {PIXELS: batch}


def _two_outputs(graph: bytes) -> bytes:
    """Leaves the maps out, which prediction does not look at."""
    model = onnx.load_from_string(graph)
    for output in [output for output in model.graph.output if output.name == CAM or "attention" in output.name]:
        model.graph.output.remove(output)
    return bytes(model.SerializeToString())


def _rows(splits: Path, part: str) -> list[dict[str, str]]:
    with splits.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == part]
    if not rows:
        raise SystemExit(f"{splits} has no {part} part. A run of reslink train has one. Give its splits.csv.")
    return rows


def _pixels(bundle: Bundle, data: Path, rows: list[dict[str, str]]) -> Pixels:
    return np.stack([bundle.preprocess.pixels(read_image(data / row["sample_id"]).slices()[0]) for row in rows])


def report(bundle: str, graph: bytes, data: Path, splits: Path) -> None:
    """Prints the accuracy in float and in int8 on the test part, and the paired difference with its interval over groups."""
    loaded = Bundle.load(bundle)
    rows = _rows(splits, "test")
    pixels, groups = _pixels(loaded, data, rows), [row["group"] for row in rows]
    truth = np.array([loaded.labels.names.index(row["label"]) for row in rows])
    plain = _answers(loaded, OnnxRuntimeBackend(loaded.onnx(), 1), pixels)
    print(f"\nint8 on {len(rows)} test images ({len(set(groups))} groups): int8 less float, 95 % interval over groups\n")
    print("| runtime | accuracy float | int8 | difference | AUROC | other labels | within 0.5 points | probability |")
    print("|---|--:|--:|--:|--:|--:|---|---|")
    for name, kind in (("ONNX Runtime", OnnxRuntimeBackend), ("OpenVINO", OpenVinoBackend)):
        small = _answers(loaded, kind(graph, 1), pixels)
        found = differences(truth, small, plain, groups, loaded.labels.names)
        accuracies = [float((one.y_pred == truth).mean()) for one in (plain, small)]
        told = [_told(found[figure]) for figure in ("accuracy", "auroc")]
        fits = "yes" if accuracies[0] - accuracies[1] <= ALLOWED else "no"
        changed = int((small.y_pred != plain.y_pred).sum())
        moved = np.abs(small.y_prob - plain.y_prob).max(axis=1)
        moves = f"median {np.median(moved):.4f}, 95 % up to {np.quantile(moved, 0.95):.3f}, at most {moved.max():.3f}"
        print(f"| {name} | {accuracies[0]:.4f} | {accuracies[1]:.4f} | {told[0]} | {told[1]} | {changed} | {fits} | {moves} |")


def _told(found: Estimate) -> str:
    if found.estimate is None or found.ci_low is None:
        return found.method
    return f"{found.estimate:+.4f} ({found.ci_low:+.4f} to {found.ci_high:+.4f})"


def _answers(bundle: Bundle, backend: Backend, pixels: Pixels) -> Answers:
    logits: Floats = np.concatenate([backend.logits(part) for part in np.array_split(pixels, -(-len(pixels) // 32))])
    probabilities = bundle.decision.probabilities(logits)
    return Answers(probabilities, bundle.decision.predict(probabilities))
