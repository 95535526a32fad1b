"""Attention weights α of a trained network on its test cases: in head and lesion regions, and at area borders."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslink.files import csv_writer, write_atomic
from reslink.inference.classifier import Classifier
from reslink.networks.area_attention import AreaAttention, AreaGate, record_attention_weights
from reslink.training.batch_loader import normalize, to_unit
from reslink.training.data import Indices, TrainingData

BATCH = 32
Columns = dict[str, Tensor]


def measure_attention(classifier: Classifier, training_data: TrainingData, path: Path) -> None:
    """Writes a table with one row per test case.

    Columns for each attention layer: ``<layer> inside head``, ``outside head``, ``inside lesion`` and ``outside lesion``
    (inside the head) contain the mean of α in the region, empty if the region is empty; ``<layer> step at borders`` and
    ``step within areas`` contain the mean absolute difference of α between neighboring pixels of two areas, and of one.
    ``shifted p_<class>``: probabilities with the grid of areas shifted by half an area in both directions.

    Args:
        classifier: The trained network.
        training_data: Its data; the test split is measured.
        path: The CSV file.

    Raises:
        StorageError: If it cannot be written.
    """
    rows = training_data.indices("test")
    batches = [_measure_batch(classifier, training_data, rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
    columns = {name: torch.cat([batch[name] for batch in batches]).tolist() for name in batches[0]}
    stream = io.StringIO()
    writer = csv_writer(stream)
    writer.writerow(columns)
    writer.writerows(["" if value != value else repr(value) for value in row] for row in zip(*columns.values(), strict=True))
    write_atomic(path, stream.getvalue())


@torch.inference_mode()
def _measure_batch(classifier: Classifier, training_data: TrainingData, rows: Indices) -> Columns:
    device, preprocess = classifier.device, classifier.bundle.preprocess
    x = normalize(to_unit(training_data.cache.batch(rows), device), preprocess)
    head = training_data.cache.batch_heads(rows).to(device).float()
    lesion = training_data.cache.batch_masks(rows)
    columns: Columns = {}
    with record_attention_weights(classifier.network) as attention_weights:
        classifier.network(x)
    for name, alpha in attention_weights.items():
        layer = name.removesuffix("_attention")
        columns |= {f"{layer} {key}": value for key, value in _region_means(alpha, head, lesion).items()}
        columns |= {f"{layer} {key}": value for key, value in _step_means(alpha, _area_size(classifier.network, name)).items()}
    with shifted_areas(classifier.network):
        logits = classifier.network(x).float().cpu().numpy().astype("float64")
    shifted = torch.from_numpy(classifier.bundle.decision.probabilities(logits))
    columns |= {f"shifted p_{label}": shifted[:, k] for k, label in enumerate(classifier.labels.names)}
    return {name: value.double().cpu() for name, value in columns.items()}


def _area_size(network: nn.Module, name: str) -> int:
    attention = network.get_submodule(name)
    assert isinstance(attention, AreaAttention)  # noqa: S101  (record_attention_weights yields only these)
    return attention.gate.area_size


def _region_means(alpha: Tensor, head: Tensor, lesion: Tensor | None) -> Columns:
    """Returns means of α (B, 1, h, w) in regions, (B,) each, NaN where a region is empty."""
    size = (alpha.shape[-2], alpha.shape[-1])
    inside = F.adaptive_avg_pool2d(head, size)
    means = {"inside head": _weighted_mean(alpha, inside), "outside head": _weighted_mean(alpha, 1 - inside)}
    if lesion is not None:
        lesion_share = F.adaptive_avg_pool2d(lesion.to(alpha.device).float(), size)
        has_lesion = lesion_share.sum(dim=(1, 2, 3)) > 0
        outside = _weighted_mean(alpha, (inside - lesion_share).clamp(min=0))
        means["inside lesion"] = _weighted_mean(alpha, lesion_share)
        means["outside lesion"] = torch.where(has_lesion, outside, torch.nan)
    return means


def _weighted_mean(alpha: Tensor, weight: Tensor) -> Tensor:
    total = weight.sum(dim=(1, 2, 3))
    return torch.where(total > 0, (alpha * weight).sum(dim=(1, 2, 3)) / total, torch.nan)


def _step_means(alpha: Tensor, area_size: int) -> Columns:
    """Returns mean |differences| of α between neighboring pixels across an area border and within an area, (B,) each."""
    across: list[Tensor] = []
    within: list[Tensor] = []
    for axis in (2, 3):
        step = alpha.diff(dim=axis).abs().movedim(axis, 1).flatten(2)
        border = torch.arange(1, alpha.shape[axis], device=alpha.device) % area_size == 0
        across.append(step[:, border].flatten(1))
        within.append(step[:, ~border].flatten(1))
    return {"step at borders": torch.cat(across, 1).mean(1), "step within areas": torch.cat(within, 1).mean(1)}


@contextlib.contextmanager
def shifted_areas(network: nn.Module) -> Iterator[None]:
    """Shifts the grid of areas of every attention layer by half an area, down and to the right, inside the block.

    The image does not move. Zero rows and columns before the map make the first areas partial, like the last areas of a
    map whose size is not a multiple of the area size. Areas of one pixel cannot be shifted and stay in place.
    """
    handles = []
    for module in network.modules():
        if isinstance(module, AreaGate):
            handles.append(module.register_forward_pre_hook(_pad_input))
            handles.append(module.register_forward_hook(_crop_output))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pad_input(gate: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    shift = _half_area(gate)
    return (F.pad(inputs[0], (shift, 0, shift, 0)),)


def _crop_output(gate: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    shift = _half_area(gate)
    return output[..., shift:, shift:]


def _half_area(gate: nn.Module) -> int:
    return gate.area_size // 2 if isinstance(gate, AreaGate) else 0
