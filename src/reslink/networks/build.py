"""Builds networks from their settings: ResLink's, MONAI's, the one of a public notebook, and your own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reslink.errors import UsageError
from reslink.files import optional_import
from reslink.labels import CaseKind
from reslink.networks import reslink
from reslink.networks.adapter import AdaptedNetwork, evaluating
from reslink.networks.config import ResLinkConfig
from reslink.networks.ensemble import Ensemble
from reslink.networks.entry_points import Builder
from reslink.networks.external_config import EnsembleConfig, ExternalConfig
from reslink.networks.gated_attention import GatedAttention
from reslink.networks.network import Network
from reslink.networks.notebook import NotebookResLink


def build_network(
    config: ResLinkConfig | ExternalConfig | EnsembleConfig,
    seed: int,
    builder: Builder | None = None,
    case: CaseKind = "slice",
) -> Network:
    """Returns a new network with initial weights that depend only on the seed; the global random state is not changed.

    Args:
        config: Its settings.
        seed: Seed of the initial weights.
        builder: Builds the network of an entry point; not used for the other networks.
        case: ``series`` adds the pooling over the slices of a series; the other weights do not change.

    Raises:
        UsageError: If MONAI is not installed, the builder is missing or fails, or the network does not return logits.
    """
    if isinstance(config, EnsembleConfig):
        return Ensemble([build_network(config.member, seed, builder) for _ in range(config.count)])
    if isinstance(config, ResLinkConfig):
        network: Network = reslink.build_network(config, seed)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = _external_network(config, builder)
    if case == "series":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network.pooling = GatedAttention(_feature_count(network, config))
    return network


def _external_network(config: ExternalConfig, builder: Builder | None) -> Network:
    if config.source == "notebook":
        return NotebookResLink(config)
    return AdaptedNetwork(monai_network(config) if config.source == "monai" else _own_network(config, builder), config)


def _feature_count(network: Network, config: ResLinkConfig | ExternalConfig) -> int:
    if network.dense is not None:
        return network.dense.in_features
    size = config.size if isinstance(config, ExternalConfig) else 64
    with evaluating(network):
        return network.forward_with_features(torch.zeros(1, config.in_channels, size, size))[1].shape[1]


def _own_network(config: ExternalConfig, builder: Builder | None) -> nn.Module:
    if builder is None:
        raise UsageError(
            f"The network {config.name} is built by {config.entry_point}, which is not part of reslink",
            "reslink runs your own code only if you pass it with the call",
            f"Pass {config.entry_point} with --network",
        )
    arguments = f"({config.in_channels}, {config.num_classes}{''.join(f', {k}={v!r}' for k, v in config.options.items())})"
    try:
        network = builder(config.in_channels, config.num_classes, **config.options)
    except Exception as error:  # the code of the user may raise anything
        raise UsageError(
            f"The network {config.name} cannot be built with {arguments} ({type(error).__name__}: {error})",
            "It is built by a callable (in_channels, num_classes, **options), with the options of model.options",
            "Correct the callable or the options",
        ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"The network {config.name} is a {type(network).__name__}",
            "Its callable returns a torch.nn.Module",
            f"Return the module from {config.entry_point}",
        )
    return network


def monai_network(config: ExternalConfig) -> nn.Module:
    """Returns a network of MONAI for images, from scratch."""
    nets: Any = optional_import("monai.networks.nets", "monai")
    name, options = config.name, dict(config.options)
    network: nn.Module
    if name.startswith("densenet"):
        network = getattr(nets, name)(2, config.in_channels, config.num_classes, **options)
    elif name.startswith("resnet"):  # MONAI's default is a stem for volumes, without stride
        options = {"conv1_t_stride": 2, **options, "no_max_pool": bool(options.get("no_max_pool", False))}
        network = getattr(nets, name)(
            spatial_dims=2, n_input_channels=config.in_channels, num_classes=config.num_classes, **options
        )
    elif name == "seresnet50":
        network = nets.SEResNet50(spatial_dims=2, in_channels=config.in_channels, num_classes=config.num_classes, **options)
    elif name.startswith("efficientnet"):
        network = nets.EfficientNetBN(
            name.replace("_", "-"),
            pretrained=False,
            spatial_dims=2,
            in_channels=config.in_channels,
            num_classes=config.num_classes,
        )
        network.set_swish(memory_efficient=False)  # type: ignore[operator]  # the same function, which ONNX can represent
    else:
        network = _VisionTransformer(nets, config)
    return network


class _VisionTransformer(nn.Module):
    """MONAI's ViT, which also returns its hidden states, and only its logits."""

    def __init__(self, nets: Any, config: ExternalConfig) -> None:
        super().__init__()
        options = {"patch_size": 16, "hidden_size": 192, "mlp_dim": 768, "num_layers": 12, "num_heads": 3, **config.options}
        try:
            self.vit: nn.Module = nets.ViT(
                config.in_channels,
                config.size,
                classification=True,
                num_classes=config.num_classes,
                post_activation=None,
                spatial_dims=2,
                **options,
            )
        except ValueError as error:
            raise UsageError(
                f"The options of vit do not fit: {error}",
                "hidden_size is a multiple of num_heads, and preprocess.size a multiple of patch_size",
                "Change model.options",
            ) from error

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (B, num_classes) of x (B, C, H, W)."""
        logits: Tensor = self.vit(x)[0]
        return logits
