"""Attention maps of area attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from reslink.explain.attention import attention_maps
from reslink.networks.reslink import build_network, variant_config


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_first_and_final_of_a_reslink(x):
    network = build_network(variant_config("reslink_small"), seed=0)
    maps = attention_maps(network, x)
    assert list(maps) == ["first_attention", "final_attention"]
    assert maps["first_attention"].shape == (2, 16, 16)
    assert maps["final_attention"].shape == (2, 4, 4)
    for heat in maps.values():
        assert heat.dtype == np.float32
        assert (heat > 0).all()
        assert (heat < 1).all()


def test_they_are_the_factors_of_the_features(x):
    network = build_network(variant_config("reslink_small"), seed=0).eval()
    features = network.stages(network.first_attention(network.stem(x)))
    ratio = (network.final_attention(features) / features).detach().numpy()
    expected = np.nanmean(np.where(np.abs(features.detach().numpy()) > 1e-4, ratio, np.nan), axis=1)
    np.testing.assert_allclose(attention_maps(network, x)["final_attention"], expected, rtol=1e-4)


def test_evaluation_mode_is_used_and_restored(x):
    network = build_network(variant_config("reslink_small"), seed=0)
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    once, again = attention_maps(network, x), attention_maps(network, x[:1])
    np.testing.assert_allclose(once["final_attention"][:1], again["final_attention"], atol=1e-6)
    assert network.training
    assert all(torch.equal(kept[name], value) for name, value in network.state_dict().items())
    assert not any(m._forward_hooks for m in network.modules())


@pytest.mark.parametrize(("attention", "names"), [("first", ["first_attention"]), ("final", ["final_attention"]), ("none", [])])
def test_layers_that_are_switched_off_have_no_map(x, attention, names):
    assert list(attention_maps(build_network(variant_config("reslink_small", attention=attention), seed=0), x)) == names


def test_any_module_that_contains_area_attention(x):
    network = nn.Sequential(build_network(variant_config("reslink_small"), seed=0), nn.Softmax(dim=1))
    assert list(attention_maps(network, x)) == ["0.first_attention", "0.final_attention"]
