"""The adapter: layers that it finds, and networks that it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reslink.errors import UsageError
from reslink.explain.attribution import default_layers, grad_cam, has_feature_map
from reslink.networks.adapter import AdaptedNetwork, check_training
from reslink.networks.external_config import ExternalConfig


def config(**fields: Any) -> ExternalConfig:
    plain = {"name": "nets.build", "source": "entry_point", "entry_point": "nets.py:build", "in_channels": 1}
    return ExternalConfig(**{**plain, "num_classes": 3, "size": 64, **fields})


def convolutions() -> nn.Sequential:
    """The activation is one module that is called twice."""
    activation = nn.ReLU(inplace=True)
    return nn.Sequential(nn.Conv2d(1, 4, 3, 4), nn.BatchNorm2d(4), activation, nn.Conv2d(4, 8, 3, 2), activation)


class Pooled(nn.Module):
    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.body, self.out = convolutions(), nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x).mean((2, 3)))


class Flattened(Pooled):
    """Features are not the mean of a map."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.out = nn.AdaptiveMaxPool2d(1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.pool(self.body(x)).flatten(1))


class Scaled(Pooled):
    """The dense layer does not return the logits."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Tokens(nn.Module):
    """A transformer without attention: patches, tokens, mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mix, self.out = nn.Conv2d(1, 8, 8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.mix(self.patches(x).flatten(2).transpose(1, 2))
        return self.out(tokens.mean(1))


class ConvolutionHead(nn.Module):
    """A network without a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = convolutions(), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x)).mean((2, 3))


@pytest.mark.parametrize(
    ("network", "dense", "explanation", "pooled"),
    [
        (Pooled, "out", "body", True),
        (Flattened, "out", "body", False),
        (Scaled, "out", "body", False),
        (Tokens, "out", None, False),
        (ConvolutionHead, None, "out", False),
    ],
)
def test_the_layers_are_found(
    network: Callable[[], nn.Module], dense: str | None, explanation: str | None, pooled: bool
) -> None:
    adapted = AdaptedNetwork(network().train(), config())
    assert adapted.network.training, "the mode is unchanged"
    assert (adapted.layers.dense, adapted.layers.explanation, adapted.layers.pooled) == (dense, explanation, pooled)
    x = torch.rand(4, 1, 64, 64)
    with torch.no_grad():
        logits, features, maps = adapted.eval().forward_with_features(x)
        torch.testing.assert_close(logits, adapted(x))
        if adapted.dense is not None and network is not Scaled:
            torch.testing.assert_close(adapted.dense(features), logits)
    assert (maps is not None) is pooled
    if maps is not None:
        torch.testing.assert_close(maps.mean((2, 3)), features)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in adapted.modules())
    assert has_feature_map(adapted) is (explanation is not None)


def test_grad_cam_explains_the_layer_that_is_found_or_named() -> None:
    adapted = AdaptedNetwork(Pooled(), config()).eval()
    assert list(default_layers(adapted)) == [adapted.network.body]
    x = torch.rand(2, 1, 64, 64)
    assert grad_cam(adapted, x, 1).shape == (2, 64, 64)
    named = AdaptedNetwork(adapted.network, config(explanation_layer="body.0"))
    assert list(default_layers(named)) == [adapted.network.body[0]]
    assert not named.layers.pooled
    with pytest.raises(UsageError, match="AdaptedNetwork has no convolution for Grad-CAM"):
        default_layers(AdaptedNetwork(Tokens(), config()))


@pytest.mark.parametrize(
    ("layer", "message"), [("boddy", "which is not a module"), ("out", r"whose output has the shape \(2, 3\)")]
)
def test_an_explanation_layer_without_a_feature_map(layer: str, message: str) -> None:
    with pytest.raises(UsageError, match=rf"model\.explanation_layer is '{layer}', {message}.*Choose one such as body"):
        AdaptedNetwork(Pooled(), config(explanation_layer=layer))


class Faulty(Pooled):
    def __init__(self, change: Callable[[Tensor], object], *, only_in_training: bool = False) -> None:
        super().__init__()
        self.change, self.only_in_training = change, only_in_training

    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return logits if self.only_in_training and not self.training else self.change(logits)


def _fail(_: Tensor) -> Tensor:
    raise RuntimeError("view size is not compatible")


FAULTS = [
    (lambda y: (y, y), "returns a tuple"),
    (lambda y: {"logits": y}, "returns a dict"),
    (lambda y: y[:, :2], r"returns the shape \(2, 2\) for 2 images and num_classes 3"),
    (lambda y: y[:, :, None, None], r"returns the shape \(2, 3, 1, 1\)"),
    (lambda y: y / 0, "returns logits that are not finite"),
    (_fail, "fails on images of 1×64×64 .RuntimeError: view size"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS)
def test_a_network_that_does_not_return_logits(change: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(UsageError, match=f"The network nets.build {message}"):
        AdaptedNetwork(Faulty(change), config())
    in_training = AdaptedNetwork(Faulty(change, only_in_training=True), config())
    with pytest.raises(UsageError, match=f"The network nets.build {message}"):
        check_training(in_training)


def test_a_network_without_weights() -> None:
    class Weightless(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)).expand(-1, 3)

    with pytest.raises(UsageError, match="has no weights that can be trained"):
        check_training(AdaptedNetwork(Weightless(), config()))


def test_the_check_changes_neither_weights_nor_random_state() -> None:
    adapted = AdaptedNetwork(Pooled(), config())
    before, state = {k: v.clone() for k, v in adapted.state_dict().items()}, torch.get_rng_state()
    check_training(adapted)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in adapted.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_muon_gets_the_hidden_weights_only() -> None:
    adapted = AdaptedNetwork(Pooled(), config())
    names = {id(parameter): name for name, parameter in adapted.named_parameters()}
    hidden, decayed, plain = ([names[id(p)] for p in group["params"]] for group in adapted.parameter_groups(0.1))
    assert hidden == ["network.body.3.weight"]
    assert decayed == ["network.body.0.weight", "network.out.weight"]
    assert sorted([*hidden, *decayed, *plain]) == sorted(names.values())
    assert all(name.endswith("bias") or name.startswith("network.body.1") for name in plain)
