"""What the watch looks at: the gates of the attention layers, and BatchNorm's memory against a large batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslink.networks.area_attention import record_gates


@dataclass(frozen=True)
class GateSign:
    """What the gates of one attention layer look like on validation images.

    Attributes:
        layer: Name of the layer.
        mean: Mean of all gates.
        spread: Their standard deviation.
        inside: Mean inside the head; None where there is no inside.
        outside: Mean outside the head; None where there is no outside.
        area_outside: Share of the map outside the head.
    """

    layer: str
    mean: float
    spread: float
    inside: float | None
    outside: float | None
    area_outside: float

    @property
    def mass_outside(self) -> float:
        """Share of the attention's mass outside the head."""
        return (self.outside or 0.0) * self.area_outside / max(self.mean, 1e-9)


@dataclass(frozen=True)
class BatchNormSign:
    """How far BatchNorm's running statistics are from those of a large batch.

    Attributes:
        strayed: Share of channels whose running variance is off by a factor of four, or whose mean by a deviation.
        channels: Channels looked at.
    """

    strayed: float
    channels: int


@torch.no_grad()
def gate_signs(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> list[GateSign]:
    """Returns what each attention layer does on some images.

    Args:
        network: In eval mode.
        batches: Pairs of images (B, C, S, S) and head masks (B, 1, h, w) in 0 to 1.
    """
    gates: dict[str, list[Tensor]] = {}
    inside: dict[str, list[Tensor]] = {}
    for x, heads in batches:
        with record_gates(network) as recorded:
            network(x)
        for name, value in recorded.items():
            gates.setdefault(name, []).append(value.mean(dim=1).flatten().float())
            inside.setdefault(name, []).append(_pooled(heads, value).flatten())
    return [_gate_sign(name, torch.cat(gates[name]), torch.cat(inside[name])) for name in gates]


def _pooled(mask: Tensor, like: Tensor) -> Tensor:
    height, width = like.shape[-2:]
    return F.adaptive_avg_pool2d(mask, (height, width))


def _gate_sign(layer: str, gates: Tensor, head: Tensor) -> GateSign:
    rest = 1 - head
    return GateSign(
        layer,
        mean=float(gates.mean()),
        spread=float(gates.std()),
        inside=float((gates * head).sum() / head.sum()) if head.sum() > 0 else None,
        outside=float((gates * rest).sum() / rest.sum()) if rest.sum() > 0 else None,
        area_outside=float(rest.mean()),
    )


@torch.no_grad()
def batch_norm_sign(network: nn.Module, x: Tensor) -> BatchNormSign:
    """Compares what BatchNorm layers remember with what one large batch shows.

    Each layer sees what it would see in prediction, so that a layer is not blamed for the one before it.

    Args:
        network: In eval mode; left as it was.
        x: (B, C, S, S), the larger B the better.
    """
    with _strayed_channels(network) as strayed:
        network(x)
    channels = torch.cat(strayed) if strayed else torch.zeros(0)
    return BatchNormSign(float(channels.float().mean()) if len(channels) else 0.0, len(channels))


@contextlib.contextmanager
def _strayed_channels(network: nn.Module) -> Iterator[list[Tensor]]:
    found: list[Tensor] = []

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
            found.append(_strayed(inputs[0].float(), norm.running_mean, norm.running_var))

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(look) for norm in norms]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _strayed(features: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
    """(C,) whether variance is off by a factor of four or the mean by a deviation; dead channels do not count."""
    variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)
    floor = 1e-3 * variance.mean() + 1e-12
    off = ((running_var + floor) / (variance + floor)).log2().abs() > 2
    return off | ((running_mean - mean).abs() > (variance + floor).sqrt())
