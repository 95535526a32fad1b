"""The network of a public course notebook on the Kaggle CT set, with the components that the ResLink paper describes.

The notebook is of April 2025; whether the authors of the paper wrote it is not proven. Widths, dropout, and place and layers of
the attention are those of the notebook. The inside of a residual block is ours, see :class:`NotebookBlock`. Public code
with the same layers is written in Keras, so BatchNorm has the defaults of Keras.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslink.networks.area_attention import AreaAttention, pad_to_areas
from reslink.networks.blocks import Downsample, ResidualBlock, Stem
from reslink.networks.external_config import ExternalConfig
from reslink.networks.network import Network, weight_groups

WIDTHS = (32, 64, 128)
HIDDEN_CHANNELS = 32
DROP_RATE = 0.3
NORM_MOMENTUM, NORM_EPSILON = 0.01, 1e-3
"""Defaults of Keras; its momentum of 0.99 is 0.01 in torch. With torch's 0.1 the running statistics come from the last few
batches, and the validation accuracy on head CT jumped between 0.50 and 0.93 from epoch to epoch."""


class NotebookGate(nn.Module):
    """Attention weights α: 1×1 convolution, ReLU, BN, 3×3 convolution, sigmoid. Each area is padded with zeros on its own.

    Args:
        channels: Channels C of the feature map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, HIDDEN_CHANNELS, 1)
        self.norm = nn.BatchNorm2d(HIDDEN_CHANNELS)
        self.expand = nn.Conv2d(HIDDEN_CHANNELS, 1, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Returns the attention weights α, (B, 1, H, W) in (0, 1), of features (B, C, H, W)."""
        height, width = features.shape[-2:]
        side = max(1, height // 4)
        hidden = pad_to_areas(self.norm(F.relu(self.reduce(features))), side)
        rows, columns = hidden.shape[-2] // side, hidden.shape[-1] // side
        areas = hidden.reshape(-1, HIDDEN_CHANNELS, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
        logits = self.expand(areas.reshape(-1, HIDDEN_CHANNELS, side, side))
        logits = (
            logits.reshape(-1, rows, columns, side, side).permute(0, 1, 3, 2, 4).reshape(-1, 1, rows * side, columns * side)
        )
        return torch.sigmoid(logits)[..., :height, :width]


class NotebookAttention(AreaAttention):
    """Area attention with the gate of the notebook; the side of an area is a quarter of the height of the feature map.

    Args:
        channels: Channels C of the feature map.
    """

    def __init__(self, channels: int) -> None:
        nn.Module.__init__(self)
        self.gate = NotebookGate(channels)  # type: ignore[assignment]


class NotebookBlock(nn.Module):
    """Residual block whose branch ends in area attention: x + attention(ReLU(BN(conv(x)))).

    Args:
        channels: Channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = ResidualBlock(channels, channels, residual=False)
        self.attention = NotebookAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, channels, H, W) for x (B, channels, H, W)."""
        attended: Tensor = self.attention(self.branch(x))
        return x + attended


class NotebookResLink(Network):
    """The network of the notebook.

    Args:
        config: Its settings.
    """

    def __init__(self, config: ExternalConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config.in_channels, WIDTHS[0])
        self.first_attention = NotebookAttention(WIDTHS[0])
        stages: list[nn.Module] = [NotebookBlock(WIDTHS[0])]
        for before, after in itertools.pairwise(WIDTHS):
            stages.append(nn.Sequential(Downsample(before, after), nn.Dropout(DROP_RATE), NotebookBlock(after)))
        self.stages = nn.Sequential(*stages)
        self.final_attention = NotebookAttention(WIDTHS[-1])
        self.head = nn.Linear(WIDTHS[-1], config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum, module.eps = NORM_MOMENTUM, NORM_EPSILON

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (B, num_classes) of x (B, C, H, W)."""
        return self.forward_with_features(x)[0]

    def forward_with_features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """See :class:`reslink.networks.network.Network`."""
        maps: Tensor = self.final_attention(self.stages(self.first_attention(self.stem(x))))
        features = maps.mean(dim=(2, 3))
        return self.head(features), features, maps

    @property
    def dense(self) -> nn.Linear | None:
        """See :class:`reslink.networks.network.Network`."""
        return self.head

    @property
    def explanation_layer(self) -> nn.Module | None:
        """See :class:`reslink.networks.network.Network`."""
        return self.final_attention

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """See :class:`reslink.networks.network.Network`."""
        gates = [module.gate for module in self.modules() if isinstance(module, AreaAttention)]
        outer = {id(self.stem.conv.weight), id(self.head.weight), *(id(gate.expand.weight) for gate in gates)}
        return weight_groups(self, outer, weight_decay)
