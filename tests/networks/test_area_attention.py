"""Area attention: what each area sees, what it leaves alone, and how its gates are had."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reslink.networks.area_attention import AreaAttention, record_attention_weights
from reslink.networks.reslink import ResLink, ResLinkConfig


def _trained(channels: int, area: int) -> AreaAttention:
    """An attention in eval mode whose norm has seen data, so that its gates vary."""
    torch.random.default_generator.manual_seed(0)
    attention = AreaAttention(channels, area)
    nn.init.normal_(attention.gate.expand.weight)
    for _ in range(20):
        attention(torch.randn(8, channels, 3 * area, 3 * area))
    return attention.eval()


def _area_by_area(attention: AreaAttention, features: Tensor) -> Tensor:
    """The definition, written as a loop over areas: an independent oracle."""
    gate, a = attention.gate, attention.gate.area_size
    batch, channels, height, width = features.shape
    alpha = torch.zeros(batch, 1, height, width)
    for top in range(0, height, a):
        for left in range(0, width, a):
            area = torch.zeros(batch, channels, a, a)
            piece = features[:, :, top : top + a, left : left + a]
            area[:, :, : piece.shape[2], : piece.shape[3]] = piece
            vector = torch.einsum("bcij,hcij->bh", area, gate.reduce.weight)
            vector = (vector - gate.norm.running_mean) / torch.sqrt(gate.norm.running_var + gate.norm.eps)
            hidden = F.relu(vector * gate.norm.weight + gate.norm.bias)
            logits = hidden @ gate.expand.weight[:, :, 0, 0].T + gate.expand.bias
            grid = torch.sigmoid(logits).view(batch, a, a)
            alpha[:, 0, top : top + a, left : left + a] = grid[:, : piece.shape[2], : piece.shape[3]]
    return alpha


@pytest.mark.parametrize(("height", "width", "area"), [(14, 14, 7), (16, 13, 7), (4, 4, 7), (9, 10, 4), (5, 5, 1)])
def test_attention_weights_equal_the_definition_at_any_size(height: int, width: int, area: int) -> None:
    attention = _trained(6, area)
    features = torch.randn(2, 6, height, width)
    with record_attention_weights(attention) as gates:
        output = attention(features)
    alpha = gates[""]
    torch.testing.assert_close(alpha, _area_by_area(attention, features), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output, features * alpha)
    assert alpha.shape == (2, 1, height, width)
    assert 0 < alpha.min() < alpha.max() < 1


def test_no_information_crosses_the_border_of_an_area() -> None:
    attention = _trained(4, 7)
    features = torch.randn(1, 4, 21, 21)
    changed = features.clone()
    changed[:, :, 7:14, 7:14] += 5
    difference = (attention.gate(features) - attention.gate(changed)).abs()[0, 0]
    assert difference[7:14, 7:14].max() > 0.01
    difference[7:14, 7:14] = 0
    assert difference.max() == 0


def test_areas_share_their_weights() -> None:
    attention = _trained(4, 5)
    piece = torch.randn(1, 4, 5, 5)
    gates = attention.gate(piece.repeat(1, 1, 2, 3))
    torch.testing.assert_close(gates, gates[..., :5, :5].repeat(1, 1, 2, 3))


def test_recording_changes_no_result_keeps_the_graph_and_leaves_no_hook() -> None:
    torch.random.default_generator.manual_seed(0)
    network = ResLink(ResLinkConfig()).eval()
    x = torch.randn(2, 3, 64, 64)
    plain = network(x)
    with record_attention_weights(network) as gates:
        recorded = network(x)
    assert torch.equal(plain, recorded)
    assert {name: tuple(g.shape) for name, g in gates.items()} == {
        "first_attention": (2, 1, 16, 16),
        "final_attention": (2, 1, 4, 4),
    }
    gates["final_attention"].mean().backward()
    assert network.final_attention.gate.expand.weight.grad is not None
    before = gates["final_attention"]
    network(x)
    assert gates["final_attention"] is before
    assert not any(m._forward_hooks for m in network.modules())


def test_hooks_are_removed_when_the_forward_pass_fails() -> None:
    network = ResLink(ResLinkConfig())
    with pytest.raises(ValueError, match="needs"), record_attention_weights(network):
        network(torch.randn(1, 3, 8, 8))
    assert not any(m._forward_hooks for m in network.modules())
