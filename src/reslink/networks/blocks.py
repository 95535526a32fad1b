"""Building blocks of ResLink: stem, residual block, downsampling, stage and context."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class Stem(nn.Module):
    """Stem: 7×7 convolution of stride 2, BN, ReLU and 3×3 max-pooling of stride 2.

    Args:
        in_channels: Channels of the input.
        dim: Channels of the output.
        order: ``norm_first`` as in the paper (conv, BN, ReLU, pool). ``pool_first`` pools before BN and ReLU, which then
            process a quarter of the pixels.
    """

    def __init__(self, in_channels: int, dim: int, order: Literal["norm_first", "pool_first"] = "norm_first") -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, dim, 7, stride=2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(dim)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, dim, H/4, W/4) for x (B, in_channels, H, W)."""
        if self.order == "pool_first":
            return F.relu(self.norm(self.pool(self.conv(x))))
        pooled: Tensor = self.pool(F.relu(self.norm(self.conv(x))))
        return pooled


class ResidualBlock(nn.Module):
    """Residual block: x + dropout(ReLU(BN(conv(x)))).

    Dropout drops whole channels (Tompson et al. 2015, arXiv 1411.4280), since neighboring pixels of a feature map are
    correlated.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; if they differ, the shortcut is a 1×1 convolution.
        residual: Whether to add the shortcut; False is for ablation.
        drop_rate: Probability of dropping a channel in training.
    """

    def __init__(self, in_channels: int, out_channels: int, *, residual: bool = True, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.drop = nn.Dropout2d(drop_rate)
        self.shortcut: nn.Module | None = None
        if residual:
            same_channels = in_channels == out_channels
            self.shortcut = nn.Identity() if same_channels else nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, out_channels, H, W) for x (B, in_channels, H, W)."""
        branch: Tensor = self.drop(F.relu(self.norm(self.conv(x))))
        return branch if self.shortcut is None else self.shortcut(x) + branch


class Downsample(nn.Module):
    """Downsampling: 3×3 convolution of stride 2, BN and ReLU.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, out_channels, H/2, W/2) for x (B, in_channels, H, W)."""
        return F.relu(self.norm(self.conv(x)))


class Stage(nn.Sequential):
    """Stage: an optional ``Downsample`` followed by residual blocks.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        depth: Number of residual blocks.
        downsample: Whether the stage first halves the side.
        residual: See ``ResidualBlock``.
        drop_rate: See ``ResidualBlock``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, depth: int, *, downsample: bool, residual: bool, drop_rate: float
    ) -> None:
        layers: list[nn.Module] = [Downsample(in_channels, out_channels)] if downsample else []
        width = out_channels if downsample else in_channels
        for _ in range(depth):
            layers.append(ResidualBlock(width, out_channels, residual=residual, drop_rate=drop_rate))
            width = out_channels
        super().__init__(*layers)


class Context(nn.Module):
    """Context: a coarser stage, upsampled and added to its input: x + up(BN(conv(stage(x)))).

    Each pixel then also depends on its surroundings, while the feature map keeps its stride. This is a feature pyramid with one
    level (Lin et al. 2017, arXiv 1612.03144) and not part of the ResLink paper.

    Args:
        channels: Channels of input and output.
        dim: Channels of the coarser stage, which has half the side.
        depth: Number of residual blocks in the coarser stage.
        residual: See ``ResidualBlock``.
        drop_rate: See ``ResidualBlock``.
    """

    def __init__(self, channels: int, dim: int, depth: int = 2, *, residual: bool = True, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.stage = Stage(channels, dim, depth, downsample=True, residual=residual, drop_rate=drop_rate)
        self.lateral = nn.Conv2d(dim, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, channels, H, W) for x (B, channels, H, W)."""
        coarse = self.norm(self.lateral(self.stage(x)))  # (B, channels, H/2, W/2)
        return x + F.interpolate(coarse, size=x.shape[-2:], mode="nearest")
