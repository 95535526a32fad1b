"""Quantizes the ONNX model of a bundle to int8 and measures the cost in accuracy; used by prediction.py.

Static quantization by ONNX Runtime: quantize and dequantize nodes, one scale per channel of the weights, activations
calibrated on images of the validation split. ONNX Runtime and OpenVINO run such models.
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
from reslink.inference.backends import Backend, Floats, GraphBackend, Pixels
from reslink.metrics.differences import Predictions, metric_differences
from reslink.metrics.intervals import Estimate

ALLOWED = 0.005
"""Largest acceptable loss of accuracy."""

CALIBRATION_IMAGES = 128


def quantized(bundle: str, data: Path, splits: Path) -> bytes:
    """Returns the int8 model, calibrated on images of the validation split."""
    loaded = Bundle.load(bundle)
    rows = _rows(splits, "validation")
    rows = rows[:: max(1, len(rows) // CALIBRATION_IMAGES)][:CALIBRATION_IMAGES]
    pixels = _pixels(loaded, data, rows)
    with tempfile.TemporaryDirectory(prefix="reslink-int8-") as work:
        plain, folded, out = (Path(work) / name for name in ("plain.onnx", "folded.onnx", "int8.onnx"))
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
    """Removes the outputs of the maps, which prediction does not use."""
    model = onnx.load_from_string(graph)
    for output in [output for output in model.graph.output if output.name == CAM or "attention" in output.name]:
        model.graph.output.remove(output)
    return bytes(model.SerializeToString())


def _rows(splits: Path, split: str) -> list[dict[str, str]]:
    with splits.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == split]
    if not rows:
        raise SystemExit(
            f"{splits} has no {split} split. --splits takes splits.csv of a run of reslink train. Choose another file."
        )
    return rows


def _pixels(bundle: Bundle, data: Path, rows: list[dict[str, str]]) -> Pixels:
    return np.stack([bundle.preprocess.pixels(read_image(data / row["sample_id"]).slices()[0]) for row in rows])


def report(bundle: str, graph: bytes, data: Path, splits: Path) -> None:
    """Prints the accuracy in fp32 and int8 on the test split, and the paired difference with its interval over groups."""
    loaded = Bundle.load(bundle)
    rows = _rows(splits, "test")
    pixels, groups = _pixels(loaded, data, rows), [row["group"] for row in rows]
    truth = np.array([loaded.labels.names.index(row["label"]) for row in rows])
    plain = _answers(loaded, GraphBackend("onnxruntime", loaded.onnx(), 1), pixels)
    print(f"\nint8 on {len(rows)} test images ({len(set(groups))} groups): int8 minus fp32, 95 % interval over groups\n")
    print("| runtime | accuracy fp32 | int8 | difference | AUROC | changed labels | within 0.5 points | probability |")
    print("|---|--:|--:|--:|--:|--:|---|---|")
    for name, runtime in (("ONNX Runtime", "onnxruntime"), ("OpenVINO", "openvino")):
        small = _answers(loaded, GraphBackend(runtime, graph, 1), pixels)
        differences = metric_differences(truth, small, plain, groups, loaded.labels.names)
        accuracies = [float((one.y_pred == truth).mean()) for one in (plain, small)]
        shown = [_with_interval(differences[metric]) for metric in ("accuracy", "auroc")]
        fits = "yes" if accuracies[0] - accuracies[1] <= ALLOWED else "no"
        changed = int((small.y_pred != plain.y_pred).sum())
        moved = np.abs(small.y_prob - plain.y_prob).max(axis=1)
        moves = f"median {np.median(moved):.4f}, 95 % up to {np.quantile(moved, 0.95):.3f}, at most {moved.max():.3f}"
        print(
            f"| {name} | {accuracies[0]:.4f} | {accuracies[1]:.4f} | {shown[0]} | {shown[1]} | {changed} | {fits} | {moves} |"
        )


def _with_interval(difference: Estimate) -> str:
    if difference.estimate is None or difference.ci_low is None:
        return difference.method
    return f"{difference.estimate:+.4f} ({difference.ci_low:+.4f} to {difference.ci_high:+.4f})"


def _answers(bundle: Bundle, backend: Backend, pixels: Pixels) -> Predictions:
    logits: Floats = np.concatenate([backend.logits(batch) for batch in np.array_split(pixels, -(-len(pixels) // 32))])
    probabilities = bundle.decision.probabilities(logits)
    return Predictions(probabilities, bundle.decision.predict(probabilities))
