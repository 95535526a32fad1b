"""The model-randomization check passes for maps of the model and fails for maps of the image."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from reslink.errors import UsageError
from reslink.explain.randomization_check import randomization_check
from reslink.networks.reslink import build_network, variant_config


@pytest.fixture
def images() -> torch.Tensor:
    """(6, 3, 96, 96): blobs on a dark background."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(6, 1, 6, 6, generator=generator)
    x = nn.functional.interpolate(coarse, size=(96, 96), mode="bicubic").clamp(min=0.2) - 0.2
    x[:, :, :, :12] = 0
    return x.repeat(1, 3, 1, 1)


def edges(_network: nn.Module, x: torch.Tensor) -> np.ndarray:
    """An edge detector, which does not depend on the network."""
    return np.abs(np.gradient(x[:, 0].numpy(), axis=2)).astype(np.float32)


def test_passes_for_a_network_that_uses_one_region(patch_net, images):
    check = randomization_check(patch_net, images, "integrated_gradients")
    assert check.passed, check.table()
    assert [name for name, _ in check.rows] == ["head", "norm", "features"]
    assert check.n == 6
    assert "passed" in check.table()
    json.dumps(check.as_dict(), allow_nan=False)


def test_fails_for_an_edge_detector(patch_net, images):
    check = randomization_check(patch_net, images, edges)
    assert not check.passed
    assert check.method == "edges"
    assert [value for _, value in check.rows] == pytest.approx([1.0] * 3)
    assert "show the image" in check.verdict


def test_fails_for_constant_maps(patch_net, images):
    check = randomization_check(patch_net, images, lambda _net, x: np.ones((len(x), 4, 4), np.float32))
    assert not check.passed
    assert "constant" in check.verdict
    assert check.n == 0


def test_attention_changes_only_once_its_own_layer_is_randomized(images):
    network = build_network(variant_config("reslink_small", num_classes=1), seed=0)
    check = randomization_check(network, images, "final_attention")
    correlation = dict(check.rows)
    assert list(correlation) == ["head.1", "final_attention", "stages.2", "stages.1", "first_attention", "stem"]
    assert correlation["head.1"] == pytest.approx(1.0)
    assert abs(correlation["final_attention"]) < 0.9
    assert check.passed


def test_the_network_is_unchanged_and_the_result_depends_on_the_seed(patch_net, images):
    kept = {name: value.clone() for name, value in patch_net.state_dict().items()}
    torch_state = torch.random.get_rng_state()
    first, second = (randomization_check(patch_net, images, seed=s).rows for s in (1, 1))
    assert first == second
    assert randomization_check(patch_net, images, seed=2).rows != first
    assert all(torch.equal(kept[name], value) for name, value in patch_net.state_dict().items())
    assert torch.equal(torch_state, torch.random.get_rng_state())


def test_an_empty_background_does_not_count(images, patch_net):
    """Maps that agree only on the background are uncorrelated."""
    calls = []

    def maps(_network: nn.Module, x: torch.Tensor) -> np.ndarray:
        calls.append(1)
        noise = np.random.default_rng(len(calls)).random((len(x), 96, 96))
        return (noise * (x[:, 0].numpy() > 0)).astype(np.float32)

    check = randomization_check(patch_net, images, maps)
    assert max(abs(value) for _, value in check.rows) < 0.1


def test_unknown_maps_and_missing_layers_are_refused(patch_net, images):
    with pytest.raises(UsageError, match=r"no map 'gradcam'.*Did you mean 'grad_cam'"):
        randomization_check(patch_net, images, "gradcam")
    network = build_network(variant_config("reslink_small", attention="first"), seed=0)
    with pytest.raises(UsageError, match="no layer final_attention"):
        randomization_check(network, images, "final_attention")
    with pytest.raises(UsageError, match="no layer first_attention"):
        randomization_check(patch_net, images, "first_attention")
