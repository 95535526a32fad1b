"""ResLink: a residual network with area attention after the stem and before the classifier.

Paper: ResLink, arXiv 2508.17259. The order of the layers is that of the paper: 224×224×3 input, stem, area attention, residual
blocks, downsampling, final area attention, global average pooling, dropout and a dense layer.

Differences from the paper: it does not state widths, depths, area sizes and dropout rates; ``VARIANTS`` lists ours. The context
stage and the ``pool_first`` stem are additions.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from reslink.networks.area_attention import AreaAttention
from reslink.networks.blocks import Context, Stage, Stem
from reslink.networks.config import VARIANTS, ResLinkConfig, variant_config
from reslink.networks.network import Network

__all__ = ["VARIANTS", "ResLink", "ResLinkConfig", "build_network", "variant_config"]


class ResLink(Network):
    """The ResLink network.

    Args:
        config: The architecture.

    Attributes:
        stem: ``Stem`` with output (B, stem_dim, H/4, W/4).
        first_attention: ``AreaAttention`` after the stem, or identity.
        stages: Residual stages; the output of the last one is (B, dims[-1], H/stride, W/stride).
        context: ``Context`` after the last stage, or identity.
        final_attention: ``AreaAttention`` before pooling, or identity; the target layer for Grad-CAM.
        head: Dropout and dense layer.
    """

    minimum_size = 64

    def __init__(self, config: ResLinkConfig) -> None:
        super().__init__()
        self.config = config
        self.num_features = config.dims[-1]
        self.stem = Stem(config.in_channels, config.stem_dim, config.stem_order)
        self.first_attention = _attention(config, "first", config.stem_dim)
        widths = (config.stem_dim, *config.dims)
        self.stages = nn.Sequential(
            *(
                Stage(widths[i], dim, depth, downsample=i > 0, residual=config.residual, drop_rate=config.drop_rate)
                for i, (dim, depth) in enumerate(zip(config.dims, config.depths, strict=True))
            )
        )
        self.context = (
            Context(self.num_features, config.context_dim, residual=config.residual, drop_rate=config.drop_rate)
            if config.context_dim
            else nn.Identity()
        )
        self.final_attention = _attention(config, "final", self.num_features)
        self.head = nn.Sequential(nn.Dropout(config.head_drop_rate), nn.Linear(self.num_features, config.num_classes))
        self.apply(_init_weights)

    def forward_features(self, x: Tensor) -> Tensor:
        """Returns the final feature map (B, num_features, H/stride, W/stride) of x (B, C, H, W), H and W at least 64.

        Raises:
            ValueError: If the input has the wrong number of channels or is too small.
        """
        if x.ndim != 4 or x.shape[1] != self.config.in_channels or min(x.shape[-2:]) < self.minimum_size:
            raise ValueError(
                f"ResLink got a tensor of shape {tuple(x.shape)}; it needs (B, {self.config.in_channels}, H, W) with "
                f"H and W at least {self.minimum_size}. Preprocess images with the Preprocess of the bundle"
            )
        x = self.first_attention(self.stem(x))  # (B, stem_dim, H/4, W/4)
        x = self.context(self.stages(x))  # (B, num_features, H/stride, W/stride)
        features: Tensor = self.final_attention(x)
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        """Returns logits (B, num_classes) of a feature map (B, num_features, h, w)."""
        logits: Tensor = self.head(_global_average(features))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (B, num_classes) of x (B, C, H, W)."""
        return self.forward_head(self.forward_features(x))

    def forward_with_features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """See :class:`reslink.networks.network.Network`."""
        maps = self.forward_features(x)
        averages = _global_average(maps)
        return self.head(averages), averages, maps

    @property
    def dense(self) -> nn.Linear | None:
        """See :class:`reslink.networks.network.Network`."""
        return cast(nn.Linear, self.head[-1])

    @property
    def explanation_layer(self) -> nn.Module | None:
        """See :class:`reslink.networks.network.Network`."""
        return self.final_attention

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the dense layer with a newly initialized one for another number of classes."""
        self.config = self.config.model_copy(update={"num_classes": num_classes})
        self.head[-1] = nn.Linear(self.num_features, num_classes)
        _init_weights(self.head[-1])

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Returns optimizer parameter groups: weight decay on convolution and dense weights, none on norms and biases.

        The first group, marked ``hidden``, has the convolutions between the stem and the output layers (the last convolution of
        each attention gate, and the dense layer).
        """
        output_weights = {id(m.gate.expand.weight) for m in self.modules() if isinstance(m, AreaAttention)}
        not_hidden = output_weights | {id(self.stem.conv.weight)}
        hidden = [p for p in self.parameters() if p.ndim == 4 and id(p) not in not_hidden]
        decayed = [p for p in self.parameters() if p.ndim == 2 or id(p) in not_hidden]
        undecayed = [p for p in self.parameters() if p.ndim == 1]
        return [
            {"params": hidden, "weight_decay": weight_decay, "hidden": True},
            {"params": decayed, "weight_decay": weight_decay, "hidden": False},
            {"params": undecayed, "weight_decay": 0.0, "hidden": False},
        ]


def _global_average(features: Tensor) -> Tensor:
    """Returns the mean of each channel, (B, C).

    The gradient of this form is channels-last, that of the mean over the last two dimensions is not. With channels-last
    weights, the backward pass then needs no change of layout.
    """
    return features.permute(0, 2, 3, 1).mean(dim=(1, 2))


def _attention(config: ResLinkConfig, position: Literal["first", "final"], channels: int) -> nn.Module:
    enabled = config.attention in ("both", position)
    return AreaAttention(channels, config.area_size) if enabled else nn.Identity()


def _init_weights(module: nn.Module) -> None:
    """He initialization for convolutions (He et al. 2015, arXiv 1502.01852), small normal weights for the dense layer."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
    elif isinstance(module, AreaAttention):  # initial weights near 0.5 suppress no area
        nn.init.normal_(module.gate.expand.weight, std=0.1)


def build_network(config: ResLinkConfig, seed: int) -> ResLink:
    """Returns a new network with initial weights that depend only on the seed; the global random state is not changed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return ResLink(config)
