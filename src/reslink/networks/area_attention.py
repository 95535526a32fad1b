"""Area attention: a sigmoid gate computed area by area, local and linear in the size of the map.

Source: ResLink, arXiv 2508.17259. A feature map F is cut into non-overlapping a×a areas; each area passes through a light
conv–BN–ReLU–conv to a sigmoid, α; the output is F ⊙ α. Nothing is seen across the border of an area.

How it is computed here: a convolution with kernel a and stride a reads each area once, as a whole, without copying the map into
areas, and without a tap that could cross a border. A 1×1 convolution then gives the a·a gates of the area, which a pixel
shuffle (Shi et al. 2016, arXiv 1609.05158) lays out at their places.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AreaGate(nn.Module):
    """Computes the gates α of a feature map, one for each pixel, shared by its channels.

    Args:
        channels: Channels C of the map.
        area_size: Side a of an area in pixels of the map.
        hidden_channels: Width of the area's description between the two convolutions.
    """

    def __init__(self, channels: int, area_size: int, hidden_channels: int) -> None:
        super().__init__()
        self.area_size = area_size
        self.reduce = nn.Conv2d(channels, hidden_channels, area_size, stride=area_size, bias=False)
        self.norm = nn.BatchNorm2d(hidden_channels)
        self.expand = nn.Conv2d(hidden_channels, area_size * area_size, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Returns α, (B, 1, H, W) in (0, 1), for features (B, C, H, W)."""
        height, width = features.shape[-2:]
        described = F.relu(self.norm(self.reduce(whole_areas(features, self.area_size))))
        gates = F.pixel_shuffle(self.expand(described), self.area_size)
        return torch.sigmoid(gates)[..., :height, :width]


def whole_areas(features: Tensor, area_size: int) -> Tensor:
    """Returns a map (B, C, H, W) whose last areas are filled with zeros below and on the right; no pixel moves."""
    height, width = features.shape[-2:]
    bottom, right = -height % area_size, -width % area_size
    return F.pad(features, (0, right, 0, bottom)) if bottom or right else features


class AreaAttention(nn.Module):
    """Multiplies a feature map by gates that each area computes from itself alone: F ⊙ α.

    Args:
        channels: Channels C of the map.
        area_size: Side a of an area, at least 1.
        hidden_channels: Width between the two convolutions of the gate; by default C / 4, from 8 to 32.
    """

    def __init__(self, channels: int, area_size: int = 7, hidden_channels: int | None = None) -> None:
        super().__init__()
        hidden = hidden_channels or min(32, max(8, channels // 4))
        self.gate = AreaGate(channels, area_size, hidden)

    def forward(self, features: Tensor) -> Tensor:
        """Returns F ⊙ α, same shape as ``features`` (B, C, H, W)."""
        gated: Tensor = features * self.gate(features)
        return gated


@contextlib.contextmanager
def record_gates(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Keeps the gates of every forward pass that runs inside the block; results are unchanged.

    Args:
        network: Any module that holds ``AreaAttention`` modules.

    Yields:
        A dictionary from the module's name in the network to the gates (B, 1, H, W) of the latest forward pass, attached to
        its graph, so that a loss can be put on them.
    """
    recorded: dict[str, Tensor] = {}
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, AreaAttention):

            def keep(_module: nn.Module, _inputs: object, gates: Tensor, name: str = name) -> None:
                recorded[name] = gates

            handles.append(module.gate.register_forward_hook(keep))
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
