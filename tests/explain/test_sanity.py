"""The model-randomisation check: passes for maps of the model, fails for maps of the image."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from reslink.errors import UsageError
from reslink.explain.sanity import randomisation_check
from reslink.networks.reslink import build, variant_config


@pytest.fixture
def images() -> torch.Tensor:
    """(6, 3, 96, 96): blobs on a dark background."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(6, 1, 6, 6, generator=generator)
    x = nn.functional.interpolate(coarse, size=(96, 96), mode="bicubic").clamp(min=0.2) - 0.2
    x[:, :, :, :12] = 0
    return x.repeat(1, 3, 1, 1)


def edges(_network: nn.Module, x: torch.Tensor) -> np.ndarray:
    """An edge detector: looks like an explanation, knows nothing of the network."""
    return np.abs(np.gradient(x[:, 0].numpy(), axis=2)).astype(np.float32)


def test_passes_for_grad_cam_of_a_network_that_looks_at_one_place(patch_net, images):
    check = randomisation_check(patch_net, images, "integrated_gradients")
    assert check.passed, check.table()
    assert [name for name, _ in check.rows] == ["head", "norm", "features"]
    assert check.n == 6
    assert "passed" in check.table()
    json.dumps(check.as_dict(), allow_nan=False)


def test_fails_for_an_edge_detector(patch_net, images):
    check = randomisation_check(patch_net, images, edges)
    assert not check.passed
    assert check.method == "edges"
    assert [value for _, value in check.rows] == pytest.approx([1.0] * 3)
    assert "show the image" in check.verdict


def test_fails_for_maps_that_are_flat_from_the_start(patch_net, images):
    check = randomisation_check(patch_net, images, lambda _net, x: np.ones((len(x), 4, 4), np.float32))
    assert not check.passed
    assert "flat" in check.verdict
    assert check.n == 0


def test_the_attention_of_a_reslink_changes_only_from_its_own_layer_on(images):
    network = build(variant_config("reslink_small", num_classes=1), seed=0)
    check = randomisation_check(network, images, "final_attention")
    correlation = dict(check.rows)
    assert list(correlation) == ["head.1", "final_attention", "stages.2", "stages.1", "first_attention", "stem"]
    assert correlation["head.1"] == pytest.approx(1.0)
    assert abs(correlation["final_attention"]) < 0.9
    assert check.passed


def test_the_network_is_not_changed_and_the_seed_decides(patch_net, images):
    kept = {name: value.clone() for name, value in patch_net.state_dict().items()}
    torch_state = torch.random.get_rng_state()
    first, second = (randomisation_check(patch_net, images, seed=s).rows for s in (1, 1))
    assert first == second
    assert randomisation_check(patch_net, images, seed=2).rows != first
    assert all(torch.equal(kept[name], value) for name, value in patch_net.state_dict().items())
    assert torch.equal(torch_state, torch.random.get_rng_state())


def test_an_empty_background_does_not_make_maps_alike(images, patch_net):
    """Two maps that agree on the background alone are not correlated."""
    calls = []

    def maps(_network: nn.Module, x: torch.Tensor) -> np.ndarray:
        calls.append(1)
        noise = np.random.default_rng(len(calls)).random((len(x), 96, 96))
        return (noise * (x[:, 0].numpy() > 0)).astype(np.float32)

    check = randomisation_check(patch_net, images, maps)
    assert max(abs(value) for _, value in check.rows) < 0.1


def test_unknown_maps_and_missing_layers_are_named(patch_net, images):
    with pytest.raises(UsageError, match=r"no map 'gradcam'.*Did you mean 'grad_cam'"):
        randomisation_check(patch_net, images, "gradcam")
    network = build(variant_config("reslink_small", attention="first"), seed=0)
    with pytest.raises(UsageError, match="no layer final_attention"):
        randomisation_check(network, images, "final_attention")
    with pytest.raises(UsageError, match="no layer first_attention"):
        randomisation_check(patch_net, images, "first_attention")
