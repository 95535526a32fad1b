"""Area attention: local attention with cost linear in the number of pixels.

Paper: ResLink, arXiv 2508.17259. A feature map F is divided into non-overlapping areas of a×a pixels. Each area passes through
a small conv-BN-ReLU-conv and a sigmoid, which gives the attention weights α. The output is F ⊙ α. No information crosses the
border of an area.

Differences from the paper, which leaves the layer shapes open: one convolution with kernel a and stride a reads each area as a
whole, without copying the map into areas. A 1×1 convolution then computes the a·a weights of the area, and a pixel shuffle
(Shi et al. 2016, arXiv 1609.05158) arranges them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MEMBER: Final = re.compile(r"^members\.\d+\.")
"""Prefix of the modules of a member of an ensemble (``networks.ensemble``)."""


class AreaGate(nn.Module):
    """Computes the attention weights α of a feature map: one weight per pixel, shared by all channels.

    Args:
        channels: Channels C of the feature map.
        area_size: Side a of an area, in pixels of the feature map.
        hidden_channels: Channels between the two convolutions.
    """

    def __init__(self, channels: int, area_size: int, hidden_channels: int) -> None:
        super().__init__()
        self.area_size = area_size
        self.reduce = nn.Conv2d(channels, hidden_channels, area_size, stride=area_size, bias=False)
        self.norm = nn.BatchNorm2d(hidden_channels)
        self.expand = nn.Conv2d(hidden_channels, area_size * area_size, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Returns the attention weights α, (B, 1, H, W) in (0, 1), of features (B, C, H, W)."""
        height, width = features.shape[-2:]
        padded = pad_to_areas(features, self.area_size)  # (B, C, a·h, a·w)
        hidden = F.relu(self.norm(self.reduce(padded)))  # (B, hidden, h, w), one vector per area
        logits = F.pixel_shuffle(self.expand(hidden), self.area_size)  # (B, 1, a·h, a·w)
        return torch.sigmoid(logits)[..., :height, :width]


def pad_to_areas(features: Tensor, area_size: int) -> Tensor:
    """Pads features (B, C, H, W) with zeros at the bottom and right to whole areas."""
    height, width = features.shape[-2:]
    bottom, right = -height % area_size, -width % area_size
    return F.pad(features, (0, right, 0, bottom)) if bottom or right else features


class AreaAttention(nn.Module):
    """Multiplies a feature map by attention weights that each area computes from its own pixels: F ⊙ α.

    Args:
        channels: Channels C of the feature map.
        area_size: Side a of an area in pixels, at least 1.
        hidden_channels: Channels between the two convolutions of the gate; C / 4, clipped to 8 to 32, if None.
    """

    def __init__(self, channels: int, area_size: int = 7, hidden_channels: int | None = None) -> None:
        super().__init__()
        hidden = hidden_channels or min(32, max(8, channels // 4))
        self.gate = AreaGate(channels, area_size, hidden)

    def forward(self, features: Tensor) -> Tensor:
        """Returns F ⊙ α, (B, C, H, W), for features F (B, C, H, W)."""
        attended: Tensor = features * self.gate(features)
        return attended


def attention_layers(network: nn.Module) -> dict[str, list[AreaAttention]]:
    """Returns the area attentions of a network by name; those of the members of an ensemble share a name."""
    layers: dict[str, list[AreaAttention]] = {}
    for name, module in network.named_modules():
        if isinstance(module, AreaAttention):
            layers.setdefault(_MEMBER.sub("", name), []).append(module)
    return layers


@contextlib.contextmanager
def record_attention_weights(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Records the attention weights of every forward pass inside the ``with`` block.

    Args:
        network: Any module that contains ``AreaAttention`` modules.

    Yields:
        A dictionary of module name to the attention weights (B, 1, H, W) of the latest forward pass, the mean over the members
        of an ensemble. They are part of the autograd graph and can be used in a loss.
    """
    recorded: dict[str, Tensor] = {}
    handles = []
    for name, modules in attention_layers(network).items():
        parts: list[Tensor] = []
        for member, module in enumerate(modules):

            def keep(
                _m: nn.Module, _x: object, weights: Tensor, name: str = name, member: int = member, parts: Any = parts
            ) -> None:
                parts[member:] = [weights]
                recorded[name] = weights if member == 0 else torch.stack(parts).mean(dim=0)

            handles.append(module.gate.register_forward_hook(keep))
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
