"""Grad-CAM, integrated gradients and occlusion against planted decisions and values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reslink.errors import UsageError
from reslink.explain.attribution import default_layers, grad_cam, integrated_gradients, occlusion
from reslink.networks.reslink import build_network, variant_config

ROWS, COLUMNS = slice(40, 56), slice(72, 88)


def planted(network: nn.Module, x: Tensor, method: str, target: int = 1) -> np.ndarray:
    if method == "grad_cam":
        return grad_cam(network, x, target)
    if method == "integrated_gradients":
        return integrated_gradients(network, x, target, baseline=0.0)
    return occlusion(network, x, target, window=16, stride=8, baseline=0.0)


METHODS = ("grad_cam", "integrated_gradients", "occlusion")


@pytest.mark.parametrize("method", METHODS)
def test_peak_is_in_the_patch_that_determines_the_score(patch_net, patch_image, method):
    heat = planted(patch_net, patch_image, method)[0]
    assert heat.shape == (96, 96)
    assert heat.dtype == np.float32
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 40 <= row < 56
    assert 72 <= column < 88
    inside = np.clip(heat, 0, None)[ROWS, COLUMNS].sum() / np.clip(heat, 0, None).sum()
    assert inside > {"integrated_gradients": 0.99, "occlusion": 0.4, "grad_cam": 0.1}[method]


def test_integrated_gradients_are_zero_outside_the_patch(patch_net, patch_image):
    heat = integrated_gradients(patch_net, patch_image, 1)
    heat[:, ROWS, COLUMNS] = 0
    assert np.abs(heat).max() == 0


@pytest.mark.parametrize("method", METHODS)
def test_no_evidence_for_the_other_class_in_the_patch(patch_net, patch_image, method):
    heat = planted(patch_net, patch_image, method, target=0)[0]
    assert heat[ROWS, COLUMNS].max() <= 0


def test_a_single_logit_is_explained_like_two_logits(patch_image, make_patch_net):
    one, two = make_patch_net(1), make_patch_net(2)
    for method in METHODS:
        for target in (0, 1):
            np.testing.assert_allclose(
                planted(one, patch_image, method, target), planted(two, patch_image, method, target), atol=1e-6
            )


def test_integrated_gradients_of_a_linear_network_by_hand(linear_net, rng):
    x = torch.from_numpy(rng.normal(size=(3, 2, 16, 16)).astype(np.float32))
    targets = [2, 0, 1]
    weights = linear_net.weight.detach().numpy()[targets]
    expected = (weights * (x.numpy() - 0.5)).sum(axis=1)
    got = integrated_gradients(linear_net, x, targets, baseline=0.5, steps=5)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_integrated_gradients_starts_from_the_lowest_value_of_each_image(linear_net, rng):
    x = torch.from_numpy(rng.normal(size=(2, 2, 16, 16)).astype(np.float32))
    low = x.numpy().min(axis=(1, 2, 3), keepdims=True)
    expected = (linear_net.weight.detach().numpy()[1] * (x.numpy() - low)).sum(axis=1)
    np.testing.assert_allclose(integrated_gradients(linear_net, x, 1), expected, rtol=1e-4, atol=1e-4)


def test_occlusion_of_a_linear_network_by_hand(linear_net, rng):
    x = torch.from_numpy(rng.normal(size=(1, 2, 16, 16)).astype(np.float32))
    part = (linear_net.weight.detach().numpy()[1] * x.numpy()[0]).sum(axis=0)
    blocks = part.reshape(4, 4, 4, 4).sum(axis=(1, 3))
    got = occlusion(linear_net, x, 1, window=4, stride=4, baseline=0.0)[0]
    np.testing.assert_allclose(got, np.kron(blocks, np.ones((4, 4))), rtol=1e-4, atol=1e-4)


def test_grad_cam_by_hand(rng):
    """Compares with relu(sum_k mean(dY/dA_k) A_k), computed from the weights and activations."""
    layer = nn.Conv2d(1, 2, 3, padding=1)
    head = nn.Linear(2, 2)
    network = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
    x = torch.from_numpy(rng.normal(size=(2, 1, 12, 12)).astype(np.float32))
    activation = layer(x).detach().numpy()
    weight = head.weight.detach().numpy()[1] / 144
    expected = np.maximum(np.einsum("k,bkhw->bhw", weight, activation), 0)
    np.testing.assert_allclose(grad_cam(network, x, 1, layer=layer), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("attention", ["both", "first", "final", "none"])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_works_on_every_form_of_reslink(attention, classes):
    config = variant_config("reslink_small", attention=attention, num_classes=classes)
    network = build_network(config, seed=0)
    x = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    for heat in (
        grad_cam(network, x, 1),
        integrated_gradients(network, x, 1, steps=3),
        occlusion(network, x, 1, window=40, stride=40),
    ):
        assert heat.shape == (2, 64, 80)
        assert np.isfinite(heat).all()


class Broken(nn.Module):
    """Fails in its second part, after the hooked layer has run."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 3)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        self.norm(self.layer(x))
        raise RuntimeError("planted")


def state_of(network: nn.Module) -> list[tuple[bool, int, int, int]]:
    return [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in network.modules()]


@pytest.mark.parametrize("method", METHODS)
def test_the_network_is_unchanged(patch_net, patch_image, method):
    patch_net.train()
    patch_net.norm.eval()  # a frozen norm in a network that trains
    patch_net.head.register_forward_hook(lambda *_: None)
    before, weights = state_of(patch_net), {k: v.clone() for k, v in patch_net.state_dict().items()}
    planted(patch_net, patch_image, method)
    assert state_of(patch_net) == before
    assert all(torch.equal(weights[k], v) for k, v in patch_net.state_dict().items())
    assert all(p.grad is None for p in patch_net.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_the_network_is_restored_after_an_error(patch_image, method):
    network = Broken().train()
    network.norm.eval()
    before = state_of(network)
    with pytest.raises(RuntimeError, match="planted"):
        planted(network, patch_image, method)
    assert state_of(network) == before


def test_the_input_is_unchanged_and_inference_mode_works(patch_net, patch_image):
    kept = patch_image.clone()
    with torch.inference_mode():
        heat = grad_cam(patch_net, patch_image, 1)
    assert torch.equal(kept, patch_image)
    assert not patch_image.requires_grad
    assert heat[0].max() > 0


def test_frozen_weights_can_be_explained(patch_net, patch_image):
    patch_net.requires_grad_(False)
    assert grad_cam(patch_net, patch_image, 1)[0].max() > 0


def test_nan_becomes_no_evidence(patch_net, patch_image):
    patch_net.head.weight.data.fill_(float("nan"))
    for method in METHODS:
        assert np.isfinite(planted(patch_net, patch_image, method)).all()


def test_an_unknown_class_is_refused(patch_net, patch_image):
    with pytest.raises(UsageError, match=r"Class 2 does not exist.*classes 0 to 1"):
        grad_cam(patch_net, patch_image, 2)
    with pytest.raises(UsageError, match="Class -1 does not exist"):
        occlusion(patch_net, patch_image, [-1, 0])


def test_a_network_without_a_convolution_asks_for_a_layer(linear_net):
    with pytest.raises(UsageError, match="LinearNet has no convolution"):
        default_layers(linear_net)


def test_the_stride_must_cover_the_image(patch_net, patch_image):
    with pytest.raises(UsageError, match="stride 40 does not fit the window 32"):
        occlusion(patch_net, patch_image, 1, window=32, stride=40)
