"""The base class of all networks: what training, prediction, explanation and export need of one."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from reslink.networks.gated_attention import GatedAttention


class Network(nn.Module):
    """A classification network.

    Attributes:
        head_name: Name of the dense layer, or of the module that holds it; empty if there is none.
        pooling: Scores the slices of a series, if a case is a series; the network itself always sees slices.
    """

    head_name = "head"

    def __init__(self) -> None:
        super().__init__()
        self.pooling: GatedAttention | None = None

    @abstractmethod
    def forward_with_features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns logits (B, num_classes), pooled features (B, D), and the feature map (B, D, h, w) whose mean they are.

        The feature map is None if the features are not the mean of one.
        """

    @property
    @abstractmethod
    def dense(self) -> nn.Linear | None:
        """The dense layer from the features to the logits; None if there is none."""

    @property
    @abstractmethod
    def explanation_layer(self) -> nn.Module | None:
        """The module whose feature map Grad-CAM explains; None if there is none."""

    @property
    def explanation_layers(self) -> tuple[nn.Module, ...]:
        """The modules whose feature maps Grad-CAM explains together: one, none, or one per member of an ensemble."""
        return () if self.explanation_layer is None else (self.explanation_layer,)

    def class_maps(self, maps: Tensor) -> Tensor:
        """Returns class activation maps (B, K, h, w) of the feature maps that :meth:`forward_with_features` returns."""
        return F.conv2d(maps, cast(nn.Linear, self.dense).weight[:, :, None, None])

    @abstractmethod
    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Returns optimizer parameter groups; the weights of groups marked ``hidden`` can be optimized with Muon."""


def weight_groups(network: nn.Module, not_hidden: set[int], weight_decay: float) -> list[dict[str, Any]]:
    """Returns parameter groups: weight decay on convolution and dense weights, none on the others.

    Args:
        network: The network.
        not_hidden: Ids of the weights of the first and the output layers.
        weight_decay: Weight decay.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    weights = {id(layer.weight) for layer in layers}
    pooling = getattr(network, "pooling", None)
    not_hidden = not_hidden | ({id(p) for p in pooling.parameters()} if isinstance(pooling, GatedAttention) else set())
    hidden = {id(layer.weight) for layer in layers if getattr(layer, "groups", 1) == 1} - not_hidden
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if id(p) in hidden], "weight_decay": weight_decay, "hidden": True},
        {"params": [p for p in parameters if id(p) in weights - hidden], "weight_decay": weight_decay, "hidden": False},
        {"params": [p for p in parameters if id(p) not in weights], "weight_decay": 0.0, "hidden": False},
    ]
