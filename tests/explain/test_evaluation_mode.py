"""Evaluation mode is restored, and maps keep their values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from reslink.explain.evaluation_mode import evaluation_mode, gradient_input, resize_maps, to_numpy


def test_modes_hooks_and_gradients_are_restored() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    network[1].eval()  # a frozen norm in a network that trains
    network[0].register_forward_hook(lambda *_: None)

    def fail_inside() -> None:
        with torch.no_grad(), evaluation_mode(network):
            assert not any(module.training for module in network.modules())
            assert torch.is_grad_enabled()
            network[2].register_forward_hook(lambda *_: None)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert [module.training for module in network] == [True, False, True]
    assert [len(module._forward_hooks) for module in network] == [1, 0, 0]


def test_the_input_for_gradients_is_a_copy() -> None:
    network, x = nn.Conv2d(1, 1, 1), torch.rand(1, 1, 4, 4)
    inputs = gradient_input(x, network)
    network(inputs).sum().backward()
    assert torch.equal(inputs.grad, network.weight.detach().expand(1, 1, 4, 4))
    assert x.grad is None
    assert inputs.data_ptr() != x.data_ptr()


def test_non_finite_values_are_no_evidence() -> None:
    values = to_numpy(torch.tensor([[1.5, float("nan"), float("inf"), float("-inf")]], dtype=torch.float64, requires_grad=True))
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, [[1.5, 0, 0, 0]])


def test_maps_are_resized_with_aligned_pixel_areas() -> None:
    ramp = np.arange(4, dtype=np.float32)[None, None].repeat(4, axis=1)
    doubled = resize_maps(ramp, (4, 8))
    expected = np.interp((np.arange(8) + 0.5) / 2 - 0.5, np.arange(4), np.arange(4))
    np.testing.assert_allclose(doubled, np.broadcast_to(expected, (1, 4, 8)), atol=1e-6)
    assert resize_maps(ramp, (4, 4)) is ramp
