"""Attention statistics: shifted areas, and steps of the attention weights at area borders."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reslink.experiments.runner.attention_on_test_cases import _step_means, shifted_areas
from reslink.networks.area_attention import AreaAttention, AreaGate


def test_shifting_the_areas_equals_padding_the_map() -> None:
    """The reference pads the map by hand; afterwards the areas are back in place."""
    torch.random.fork_rng()
    gate = AreaGate(3, 4, 8).eval()
    attention = AreaAttention(3, 4, 8).eval()
    attention.gate = gate
    features = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    padded = torch.zeros(1, 3, 12, 12)
    padded[..., 2:10, 2:10] = features
    before = attention(features)
    with shifted_areas(attention), torch.no_grad():
        shifted = attention(features)
    assert torch.allclose(shifted, features * gate(padded)[..., 2:10, 2:10], atol=1e-6)
    assert not torch.allclose(shifted, before)
    assert torch.equal(attention(features), before)


def test_areas_of_one_pixel_cannot_be_shifted() -> None:
    network = nn.Sequential(AreaAttention(3, 1, 8)).eval()
    features = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with shifted_areas(network):
        assert torch.equal(network(features), network[0](features))


def test_steps_at_borders() -> None:
    """A map that is constant in each area has steps at borders only."""
    alpha = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.5], [0.9, 0.9, 0.3, 0.3], [0.9, 0.9, 0.3, 0.3]])
    means = _step_means(alpha[None, None], 2)
    assert means["step within areas"].item() == 0
    assert means["step at borders"].item() == pytest.approx((0.4 * 2 + 0.6 * 2 + 0.8 * 2 + 0.2 * 2) / 8)
