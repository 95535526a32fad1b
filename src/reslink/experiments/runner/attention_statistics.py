"""What the gates α of a trained network do on its test cases: inside and outside head and lesion, and at area borders."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslink.files import write_atomic
from reslink.inference.classifier import Classifier
from reslink.networks.area_attention import AreaAttention, AreaGate, record_gates
from reslink.training.data import Indices, Materials
from reslink.training.sampling import normalise, to_unit

BATCH = 32
Columns = dict[str, Tensor]


def measure_attention(classifier: Classifier, materials: Materials, path: Path) -> None:
    """Writes a table with a line for each test case.

    Columns for each attention layer: ``<layer> inside head``, ``outside head``, ``inside lesion`` and ``outside lesion``
    (inside the head) hold the mean of α there, empty where there is no such region; ``<layer> step at borders`` and
    ``step within areas`` the mean absolute difference of α between neighbouring pixels of two areas, and of one area.
    ``shifted p_<class>``: probabilities with the grid of areas moved by half an area in both directions.

    Args:
        classifier: The trained network.
        materials: Its data; the test part is measured.
        path: The CSV file.

    Raises:
        StorageError: If it cannot be written.
    """
    rows = materials.indices("test")
    parts = [_batch(classifier, materials, rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
    columns = {name: torch.cat([part[name] for part in parts]).tolist() for name in parts[0]}
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if value != value else repr(value) for value in row] for row in zip(*columns.values(), strict=True))
    write_atomic(path, stream.getvalue())


@torch.inference_mode()
def _batch(classifier: Classifier, materials: Materials, rows: Indices) -> Columns:
    device, preprocess = classifier.device, classifier.bundle.preprocess
    x = normalise(to_unit(materials.cache.batch(rows), device), preprocess)
    head = materials.cache.batch_heads(rows).to(device).float()
    lesion = materials.cache.batch_masks(rows)
    columns: Columns = {}
    with record_gates(classifier.network) as gates:
        classifier.network(x)
    for name, alpha in gates.items():
        layer = name.removesuffix("_attention")
        columns |= {f"{layer} {key}": value for key, value in _regions(alpha, head, lesion).items()}
        columns |= {f"{layer} {key}": value for key, value in _steps(alpha, _area(classifier.network, name)).items()}
    with shifted_areas(classifier.network):
        logits = classifier.network(x).float().cpu().numpy().astype("float64")
    shifted = torch.from_numpy(classifier.bundle.decision.probabilities(logits))
    columns |= {f"shifted p_{label}": shifted[:, k] for k, label in enumerate(classifier.labels.names)}
    return {name: value.double().cpu() for name, value in columns.items()}


def _area(network: nn.Module, name: str) -> int:
    attention = network.get_submodule(name)
    assert isinstance(attention, AreaAttention)  # noqa: S101  (record_gates names nothing else)
    return attention.gate.area_size


def _regions(alpha: Tensor, head: Tensor, lesion: Tensor | None) -> Columns:
    """Means of α (B, 1, h, w) in regions, (B,) each, NaN where a region is empty."""
    size = (alpha.shape[-2], alpha.shape[-1])
    inside = F.adaptive_avg_pool2d(head, size)
    found = {"inside head": _mean(alpha, inside), "outside head": _mean(alpha, 1 - inside)}
    if lesion is not None:
        spot = F.adaptive_avg_pool2d(lesion.to(alpha.device).float(), size)
        has = spot.sum(dim=(1, 2, 3)) > 0
        rest = _mean(alpha, (inside - spot).clamp(min=0))
        found |= {"inside lesion": _mean(alpha, spot), "outside lesion": torch.where(has, rest, torch.nan)}
    return found


def _mean(alpha: Tensor, weight: Tensor) -> Tensor:
    total = weight.sum(dim=(1, 2, 3))
    return torch.where(total > 0, (alpha * weight).sum(dim=(1, 2, 3)) / total, torch.nan)


def _steps(alpha: Tensor, area: int) -> Columns:
    """Mean |difference| of α between neighbours across a border of two areas, and within an area, (B,) each."""
    across: list[Tensor] = []
    within: list[Tensor] = []
    for axis in (2, 3):
        step = alpha.diff(dim=axis).abs().movedim(axis, 1).flatten(2)
        border = torch.arange(1, alpha.shape[axis], device=alpha.device) % area == 0
        across.append(step[:, border].flatten(1))
        within.append(step[:, ~border].flatten(1))
    return {"step at borders": torch.cat(across, 1).mean(1), "step within areas": torch.cat(within, 1).mean(1)}


@contextlib.contextmanager
def shifted_areas(network: nn.Module) -> Iterator[None]:
    """Moves the grid of areas of every attention by half an area, down and to the right, while the block runs.

    The image stays where it is. Rows and columns of zeros before the map make the first areas partial, as the last ones
    are in a map whose side is no multiple of the area. An area of one pixel has no half and stays.
    """
    handles = []
    for module in network.modules():
        if isinstance(module, AreaGate):
            handles.append(module.register_forward_pre_hook(_padded))
            handles.append(module.register_forward_hook(_cut))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _padded(gate: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    shift = _half(gate)
    return (F.pad(inputs[0], (shift, 0, shift, 0)),)


def _cut(gate: nn.Module, _inputs: object, gates: Tensor) -> Tensor:
    shift = _half(gate)
    return gates[..., shift:, shift:]


def _half(gate: nn.Module) -> int:
    return gate.area_size // 2 if isinstance(gate, AreaGate) else 0
