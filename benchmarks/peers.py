"""The networks that reslink is compared with, each from scratch, and their optimizer.

MONAI's networks are those of ``reslink train --network``. The Kaggle CNN
starts from the initial weights of Keras. Norms and biases have no weight decay, as in reslink.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reslink.networks.build import monai_network
from reslink.networks.external_config import ExternalConfig

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05
WARMUP = 0.05
"""Warm-up of the learning rate as a share of the run."""

KAGGLE_WIDTHS = (32, 64, 128, 128)
KAGGLE_SMALLEST = 46
"""Smallest side; below it the fourth pooling has an empty output."""


class KaggleCNN(nn.Module):
    """The CNN of the usual Kaggle notebook: four stages of 3×3 convolution, ReLU and 2×2 max-pool, then dense layers.

    As in Keras the convolutions do not pad, weights are drawn as by Glorot & Bengio 2010 (uniform) and biases are 0.

    Args:
        in_channels: Channels of the input.
        num_classes: Number of logits K.
        size: Side of the square input, at least ``KAGGLE_SMALLEST``.

    Raises:
        ValueError: If the side is too small.
    """

    def __init__(self, in_channels: int, num_classes: int, size: int) -> None:
        super().__init__()
        if size < KAGGLE_SMALLEST:
            raise ValueError(f"the side is {size}; it must be at least {KAGGLE_SMALLEST}; choose a larger --size")
        stages: list[nn.Module] = []
        side = size
        for before, after in zip((in_channels, *KAGGLE_WIDTHS), KAGGLE_WIDTHS, strict=False):
            stages += [nn.Conv2d(before, after, 3), nn.ReLU(), nn.MaxPool2d(2)]
            side = (side - 2) // 2
        self.features = nn.Sequential(*stages)
        dense = nn.Linear(KAGGLE_WIDTHS[-1] * side * side, 512)
        self.head = nn.Sequential(nn.Flatten(), dense, nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                assert module.bias is not None, "each is made with a bias"
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (B, num_classes) of x (B, in_channels, size, size)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def _monai(name: str) -> Callable[[int, int, int], nn.Module]:
    """Returns the builder of a network of MONAI, as ``reslink train --network`` builds it."""
    return lambda channels, classes, size: monai_network(
        ExternalConfig(name=name, source="monai", in_channels=channels, num_classes=classes, size=size)
    )


PEERS: Mapping[str, Callable[[int, int, int], nn.Module]] = {
    "densenet121": _monai("densenet121"),
    "resnet18": _monai("resnet18"),
    "efficientnet_b0": _monai("efficientnet_b0"),
    "kaggle_cnn": KaggleCNN,
}
"""Builders by name; each takes channels, classes and side of the input."""

TITLES = {
    "densenet121": "DenseNet121 (MONAI)",
    "resnet18": "resnet18, conv1_t_stride=2 (MONAI)",
    "efficientnet_b0": "EfficientNetBN b0 (MONAI)",
    "kaggle_cnn": "CNN of Kaggle notebooks",
}


def build_peer(name: str, channels: int, classes: int, size: int, seed: int = 0) -> nn.Module:
    """Returns a new peer with weights that depend on the seed only; the global random state is not changed.

    Args:
        name: One of ``PEERS``.
        channels: Channels of the input.
        classes: Number of logits K.
        size: Side of the square input.
        seed: Seed of the initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return PEERS[name](channels, classes, size)


def adamw(network: nn.Module, lr: float = LEARNING_RATE, weight_decay: float = WEIGHT_DECAY) -> torch.optim.AdamW:
    """Returns AdamW with weight decay on convolution and dense weights, but not on norms and biases."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, fused=True)
