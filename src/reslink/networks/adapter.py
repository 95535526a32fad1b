"""The adapter: gives any ``torch.nn.Module`` that returns logits the methods of :class:`reslink.networks.network.Network`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from reslink.errors import UsageError
from reslink.networks.external_config import ExternalConfig
from reslink.networks.network import Network, weight_groups

_IMAGES: Final = 2
"""Images of the probing forward pass."""


@dataclass(frozen=True)
class Layers:
    """Names of modules that the rest of the package needs.

    Attributes:
        dense: The last ``nn.Linear``, if it returns the logits from a vector of features.
        explanation: The module whose output is the last feature map before the head, for Grad-CAM.
        pooled: Whether the features are the mean of this map.
    """

    dense: str | None
    explanation: str | None
    pooled: bool


class AdaptedNetwork(Network):
    """Any network that returns logits.

    Its layers are found in one forward pass of random images: the dense layer, and the last feature map with more than one
    pixel. A map before tokens of a transformer does not count.

    Args:
        network: The network; its parameters keep their names, after ``network.``.
        config: Its settings.

    Raises:
        UsageError: If the network does not return finite logits (B, num_classes), or has no module ``explanation_layer``.
    """

    def __init__(self, network: nn.Module, config: ExternalConfig) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.layers = find_layers(network, config)
        self.head_name = "" if self.layers.dense is None else f"network.{self.layers.dense}"

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (B, num_classes) of x (B, C, H, W)."""
        logits: Tensor = self.network(x)
        return logits

    def forward_with_features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """See :class:`Network`; without a dense layer, the features are the mean of the last feature map, or the logits."""
        recorded: dict[str, Tensor] = {}
        handles = []
        if self.dense is not None:
            handles.append(self.dense.register_forward_pre_hook(lambda _, inputs: recorded.update(features=inputs[0])))
        if self.explanation_layer is not None:
            handles.append(self.explanation_layer.register_forward_hook(lambda _, __, y: recorded.update(maps=y)))
        try:
            logits: Tensor = self.network(x)
        finally:
            for handle in handles:
                handle.remove()
        maps = recorded.get("maps")
        if "features" in recorded:
            return logits, recorded["features"], maps if self.layers.pooled else None
        return logits, logits if maps is None else maps.mean(dim=(2, 3)), None

    @property
    def dense(self) -> nn.Linear | None:
        """See :class:`Network`."""
        return None if self.layers.dense is None else cast(nn.Linear, self.network.get_submodule(self.layers.dense))

    @property
    def explanation_layer(self) -> nn.Module | None:
        """See :class:`Network`."""
        return None if self.layers.explanation is None else self.network.get_submodule(self.layers.explanation)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """See :class:`Network`; the first convolution and the last dense layer are not hidden."""
        layers = [module for module in self.network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        outer = {id(layer.weight) for layer in (*layers[:1], self.dense or layers[-1])} if layers else set()
        return weight_groups(self, outer, weight_decay)


def find_layers(network: nn.Module, config: ExternalConfig) -> Layers:
    """Finds the dense layer and the last feature map of a network, and checks its logits; the network is unchanged.

    Raises:
        UsageError: As :class:`AdaptedNetwork`.
    """
    with evaluating(network), _record_calls(network, config.num_classes) as calls:
        logits = check_logits(_forward(network, config), config)
    named = config.explanation_layer
    if named is not None:
        _check_layer(named, calls, config)
    maps = [name for name, _ in calls.maps] if named is None else [named]
    means = dict(calls.maps) if calls.dense_output is not None and torch.equal(calls.dense_output, logits) else {}
    pooled = [name for name in maps if name in means and _agree(means[name], calls.features)]
    chosen = pooled or maps
    return Layers(calls.dense, chosen[-1] if chosen else None, bool(pooled))


def check_training(network: Network) -> None:
    """Checks that a network of yours can be trained: it has weights, and returns logits in training mode too.

    Raises:
        UsageError: If not.
    """
    if not isinstance(network, AdaptedNetwork):
        return
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise _fault(network.config, "has no weights that can be trained", "Create its layers in __init__")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        check_logits(_forward(copy.deepcopy(network.network).train(), network.config), network.config)


def check_logits(logits: object, config: ExternalConfig) -> Tensor:
    """Returns the output of the probing forward pass if it is a tensor of finite logits.

    Raises:
        UsageError: If it is not.
    """
    if not isinstance(logits, Tensor):
        kind = type(logits).__name__
        raise _fault(config, f"returns a {kind}", "Return only the logits; wrap a network that returns more")
    if logits.shape != (_IMAGES, config.num_classes):
        raise _fault(
            config,
            f"returns the shape {tuple(logits.shape)} for {_IMAGES} images and num_classes {config.num_classes}",
            "Use the argument num_classes for the last layer",
        )
    if not logits.isfinite().all():
        raise _fault(config, "returns logits that are not finite", "Check its initial weights and its normalization")
    return logits


class _Calls:
    """What the modules returned in one forward pass.

    Attributes:
        maps: Module and mean (B, C) of each feature map since the last tokens, in order.
        shapes: Shape of the last output of each module.
        dense: The last dense layer that returns one vector of logits per image.
        features: Its input.
        dense_output: Its output.
    """

    def __init__(self) -> None:
        self.maps: list[tuple[str, Tensor]] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dense: str | None = None
        self.features: Tensor | None = None
        self.dense_output: Tensor | None = None


@contextmanager
def _record_calls(network: nn.Module, num_classes: int) -> Iterator[_Calls]:
    calls = _Calls()

    def record(name: str, module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        if not isinstance(output, Tensor):
            return
        calls.shapes[name] = tuple(output.shape)
        if output.ndim == 3:
            calls.maps.clear()  # a transformer follows: earlier maps do not lead to the logits directly
        if output.ndim == 4 and min(output.shape[-2:]) > 1:
            calls.maps.append((name, output.mean(dim=(2, 3))))
        if isinstance(module, nn.Linear) and output.shape == (_IMAGES, num_classes) and inputs[0].ndim == 2:
            calls.dense, calls.features, calls.dense_output = name, inputs[0].clone(), output.clone()

    handles = [
        module.register_forward_hook(lambda m, i, o, name=name: record(name, m, i, o))
        for name, module in network.named_modules()
        if name
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _agree(pooled: Tensor, features: Tensor | None) -> bool:
    return features is not None and pooled.shape == features.shape and torch.allclose(pooled, features, rtol=1e-4, atol=1e-5)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Runs a network in evaluation mode without gradients, and restores its modes."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _forward(network: nn.Module, config: ExternalConfig) -> object:
    """Returns what a network returns for random images, in the memory layout of training and prediction."""
    shape = (_IMAGES, config.in_channels, config.size, config.size)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)
    try:
        return network(x)
    except Exception as error:  # the code of the user may raise anything
        size = "×".join(map(str, shape[1:]))
        what = f"fails on images of {size} ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
        raise _fault(config, what, "Correct it, or set preprocess.size or preprocess.channels") from error


def _check_layer(name: str, calls: _Calls, config: ExternalConfig) -> None:
    shape = calls.shapes.get(name)
    if shape is None or len(shape) != 4:
        maps = [module for module, sizes in calls.shapes.items() if len(sizes) == 4]
        raise UsageError(
            f"model.explanation_layer is {name!r}, "
            + ("which is not a module of the network" if shape is None else f"whose output has the shape {shape}"),
            f"It is a module of {config.name} whose output is a feature map (B, C, h, w)",
            f"Choose one such as {maps[-1]}" if maps else "Leave model.explanation_layer out",
        )


def _fault(config: ExternalConfig, what: str, next_step: str) -> UsageError:
    return UsageError(
        f"The network {config.name} {what}",
        "A network returns a tensor of logits, (images, num_classes), for images (images, in_channels, size, size)",
        next_step,
    )
