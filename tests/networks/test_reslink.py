"""The network contract, over every variant and every ablation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reslink.networks.area_attention import AreaAttention
from reslink.networks.blocks import Downsample, ResidualBlock
from reslink.networks.reslink import VARIANTS, ResLink, build_network, variant_config

ABLATIONS = [
    {},
    {"attention": "none"},
    {"attention": "first"},
    {"attention": "final"},
    {"residual": False},
    {"drop_rate": 0.0, "head_drop_rate": 0.0},
]


@pytest.mark.parametrize("changes", ABLATIONS, ids=str)
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_forward_is_finite_and_backward_reaches_every_parameter(variant: str, changes: dict[str, object]) -> None:
    network = build_network(variant_config(variant, num_classes=4, **changes), seed=0)
    logits = network(torch.randn(4, 3, 96, 80))
    assert logits.shape == (4, 4)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_each_option_removes_exactly_its_layers(variant: str) -> None:
    def count(kind: type[nn.Module], **changes: object) -> int:
        return sum(isinstance(m, kind) for m in ResLink(variant_config(variant, **changes)).modules())

    assert [count(AreaAttention, attention=a) for a in ("both", "first", "final", "none")] == [2, 1, 1, 0]
    first = ResLink(variant_config(variant, attention="first"))
    assert isinstance(first.first_attention, AreaAttention)
    assert isinstance(first.final_attention, nn.Identity)
    plain = ResLink(variant_config(variant, residual=False))
    blocks = [m for m in plain.modules() if isinstance(m, ResidualBlock)]
    assert blocks
    assert all(block.shortcut is None for block in blocks)
    no_drop = ResLink(variant_config(variant, drop_rate=0.0, head_drop_rate=0.0))
    assert {m.p for m in no_drop.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)} == {0.0}


@pytest.mark.parametrize("variant", sorted(VARIANTS))
@pytest.mark.parametrize("size", [(64, 64), (65, 101), (224, 224)])
def test_features_have_the_stated_stride_at_any_size(variant: str, size: tuple[int, int]) -> None:
    network = build_network(variant_config(variant), seed=0).eval()
    features = network.forward_features(torch.randn(1, 3, *size))
    stride = network.config.stride
    assert features.shape == (1, network.num_features, -(-size[0] // stride), -(-size[1] // stride))
    torch.testing.assert_close(network.forward_head(features), network.head[-1](features.mean((2, 3))))


def test_paper_variant_has_the_layers_of_the_paper() -> None:
    network = ResLink(VARIANTS["reslink_paper"])
    x = torch.randn(2, 3, 224, 224)
    assert (network.stem.conv.kernel_size, network.stem.conv.stride) == ((7, 7), (2, 2))
    after_stem = network.stem(x)
    assert after_stem.shape[-2:] == (56, 56)
    torch.testing.assert_close(
        after_stem, network.stem.pool(torch.relu(network.stem.norm(network.stem.conv(x)))), atol=1e-4, rtol=1e-4
    )
    order = [name for name, _ in network.named_children()]
    assert order == ["stem", "first_attention", "stages", "context", "final_attention", "head"]
    assert [type(m) for m in network.head] == [nn.Dropout, nn.Linear]


def test_network_with_zeroed_residual_branches_is_stem_downsampling_attention_and_head() -> None:
    network = build_network(VARIANTS["reslink_paper"], seed=0).eval()
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.norm.weight)
    x = torch.randn(2, 3, 64, 64)
    features = network.first_attention(network.stem(x))
    for stage in network.stages:
        for layer in stage:
            if isinstance(layer, Downsample):
                features = layer(features)
    torch.testing.assert_close(network(x), network.forward_head(network.final_attention(features)))


def test_reset_classifier_changes_only_the_dense_layer() -> None:
    network = build_network(VARIANTS["reslink_small"], seed=0).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.reset_classifier(7)
    assert network.config.num_classes == 7
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 7)
    for name, value in network.state_dict().items():
        assert name.startswith("head.1") or torch.equal(value, before[name])


def test_build_depends_on_its_seed_alone() -> None:
    state = torch.random.get_rng_state()
    first, second, other = (build_network(VARIANTS["reslink_small"], seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.ndim == 1 or not torch.equal(a, c), name


@pytest.mark.parametrize("shape", [(1, 3, 63, 64), (1, 1, 64, 64), (3, 64, 64)])
def test_input_of_another_shape_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"got a tensor of shape .* needs \(B, 3, H, W\)"):
        build_network(VARIANTS["reslink_small"], 0)(torch.zeros(shape))


def test_norms_and_biases_have_no_weight_decay_and_hidden_weights_their_own_group() -> None:
    network = build_network(VARIANTS["reslink_paper"], 0)
    groups = network.parameter_groups(0.05)
    assert [(g["weight_decay"], g["hidden"]) for g in groups] == [(0.05, True), (0.05, False), (0.0, False)]
    names = {id(p): name for name, p in network.named_parameters()}
    assert sorted(names[id(p)] for g in groups for p in g["params"]) == sorted(names.values())
    hidden, decayed, plain = ({names[id(p)] for p in g["params"]} for g in groups)
    assert {name.split(".")[-2] for name in hidden} == {"conv", "reduce"}
    assert decayed == {
        "stem.conv.weight", "first_attention.gate.expand.weight", "final_attention.gate.expand.weight", "head.1.weight"
    }  # fmt: skip
    assert all(name.endswith(".bias") or ".norm." in name for name in plain)


def test_the_gradient_of_the_last_map_has_its_layout() -> None:
    network = build_network(VARIANTS["reslink_small"], 0).to(memory_format=torch.channels_last)
    maps = torch.randn(2, network.num_features, 7, 7).contiguous(memory_format=torch.channels_last).requires_grad_()
    layouts: list[bool] = []
    copied = maps * 1  # the gradient of a leaf gets the layout of the leaf
    copied.register_hook(lambda gradient: layouts.append(gradient.is_contiguous(memory_format=torch.channels_last)))
    network.forward_head(copied).sum().backward()
    assert layouts == [True]
    assert torch.equal(network.eval().forward_head(maps), network.head(maps.mean(dim=(2, 3))))
