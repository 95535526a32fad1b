"""Gated attention pooling over the slices of a series."""

from __future__ import annotations

import pytest
import torch

from reslink.networks.build import build_network
from reslink.networks.reslink import ResLinkConfig
from reslink.networks.series_pooling import SeriesForward, pool, slice_outputs

CONFIG = ResLinkConfig(stem_dim=8, dims=(8, 16), depths=(1, 1), in_channels=1)


def test_the_logits_of_a_series_are_those_of_its_weighted_features():
    """As in the paper: the dense layer on the sum of the features, weighted by attention."""
    network = build_network(CONFIG, 0, case="series").eval()
    x = torch.randn(5, 1, 64, 64)
    with torch.no_grad():
        logits, scores = slice_outputs(network, x)
        features = network.forward_with_features(x)[1]
        weights = torch.cat([scores[:2].softmax(0), scores[2:].softmax(0)])
        expected = torch.stack([network.dense(weights[:2] @ features[:2]), network.dense(weights[2:] @ features[2:])])
        assert torch.allclose(pool(logits, scores, [2, 3]), expected, atol=1e-5)
        assert torch.allclose(SeriesForward(network)(x, (2, 3)), expected, atol=1e-5)


def test_the_order_of_the_slices_does_not_matter_but_their_series_does():
    logits, scores = torch.randn(4, 2), torch.randn(4)
    order = torch.tensor([1, 0, 3, 2])
    assert torch.allclose(pool(logits, scores, [2, 2]), pool(logits[order], scores[order], [2, 2]), atol=1e-6)
    assert not torch.allclose(pool(logits, scores, [2, 2]), pool(logits[[0, 2, 1, 3]], scores[[0, 2, 1, 3]], [2, 2]))


def test_the_slice_network_is_that_without_pooling():
    alone, pooled = build_network(CONFIG, 3).state_dict(), build_network(CONFIG, 3, case="series").state_dict()
    assert {name for name in pooled if name not in alone} == {
        f"pooling.{name}" for name in ("value.weight", "value.bias", "gate.weight", "gate.bias", "score.weight")
    }
    assert all(torch.equal(alone[name], pooled[name]) for name in alone)


def test_a_network_without_pooling_has_no_logits_of_series():
    with pytest.raises(ValueError, match="no pooling over slices"):
        slice_outputs(build_network(CONFIG, 0), torch.zeros(1, 1, 64, 64))
