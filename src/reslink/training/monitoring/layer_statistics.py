"""Layer statistics for the diagnostics: attention weights, and BatchNorm's running statistics against a large batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslink.networks.area_attention import record_attention_weights


@dataclass(frozen=True)
class AttentionStatistics:
    """Attention weights of one layer on validation images.

    Attributes:
        layer: Name of the layer.
        mean: Mean of all attention weights.
        std: Their standard deviation.
        inside: Mean inside the head; None if no pixel is inside.
        outside: Mean outside the head; None if no pixel is outside.
        area_outside: Share of the map outside the head.
    """

    layer: str
    mean: float
    std: float
    inside: float | None
    outside: float | None
    area_outside: float

    @property
    def mass_outside(self) -> float:
        """Share of the total attention that is outside the head."""
        return (self.outside or 0.0) * self.area_outside / max(self.mean, 1e-9)


@dataclass(frozen=True)
class BatchNormStatistics:
    """How far BatchNorm's running statistics are from those of a large batch.

    Attributes:
        drifted: Share of channels whose running variance is off by a factor of four, or whose running mean is off by a
            standard deviation.
        channels: Number of channels.
    """

    drifted: float
    channels: int


@torch.no_grad()
def attention_statistics(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> list[AttentionStatistics]:
    """Returns the statistics of each attention layer on some images.

    Args:
        network: In eval mode.
        batches: Pairs of images (B, C, S, S) and head masks (B, 1, h, w) in 0 to 1.
    """
    weights: dict[str, list[Tensor]] = {}
    inside: dict[str, list[Tensor]] = {}
    for x, head_masks in batches:
        with record_attention_weights(network) as recorded:
            network(x)
        for name, value in recorded.items():
            weights.setdefault(name, []).append(value.mean(dim=1).flatten().float())
            inside.setdefault(name, []).append(_pool_to(head_masks, value).flatten())
    return [_statistics(name, torch.cat(weights[name]), torch.cat(inside[name])) for name in weights]


def _pool_to(mask: Tensor, like: Tensor) -> Tensor:
    height, width = like.shape[-2:]
    return F.adaptive_avg_pool2d(mask, (height, width))


def _statistics(layer: str, weights: Tensor, head: Tensor) -> AttentionStatistics:
    background = 1 - head
    return AttentionStatistics(
        layer,
        mean=float(weights.mean()),
        std=float(weights.std()),
        inside=float((weights * head).sum() / head.sum()) if head.sum() > 0 else None,
        outside=float((weights * background).sum() / background.sum()) if background.sum() > 0 else None,
        area_outside=float(background.mean()),
    )


@torch.no_grad()
def batch_norm_statistics(network: nn.Module, x: Tensor) -> BatchNormStatistics:
    """Compares the running statistics of the trained BatchNorm layers with those of one large batch.

    Each layer gets the same input as in prediction, so the drift of one layer does not count for the next.

    Args:
        network: In eval mode; not changed.
        x: (B, C, S, S), the larger B the better.
    """
    with _record_drift(network) as drifted:
        network(x)
    channels = torch.cat(drifted) if drifted else torch.zeros(0)
    return BatchNormStatistics(float(channels.float().mean()) if len(channels) else 0.0, len(channels))


@contextlib.contextmanager
def _record_drift(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collects one (C,) tensor per BatchNorm layer while the network runs."""
    drifted: list[Tensor] = []

    def record(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
            drifted.append(_drifted(inputs[0].float(), norm.running_mean, norm.running_var))

    norms = [
        module
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d) and all(parameter.requires_grad for parameter in module.parameters())
    ]
    handles = [norm.register_forward_pre_hook(record) for norm in norms]
    try:
        yield drifted
    finally:
        for handle in handles:
            handle.remove()


def _drifted(features: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
    """Returns (C,) whether the variance is off by a factor of four or the mean by a deviation; never for dead channels."""
    variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)
    floor = 1e-3 * variance.mean() + 1e-12
    variance_off = ((running_var + floor) / (variance + floor)).log2().abs() > 2
    return variance_off | ((running_mean - mean).abs() > (variance + floor).sqrt())
