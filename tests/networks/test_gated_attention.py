"""The score of a slice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reslink.networks.gated_attention import GatedAttention


def test_the_scores_are_those_of_equation_9():
    with torch.random.fork_rng(devices=[]):
        attention, h = GatedAttention(5).requires_grad_(False), torch.randn(4, 5)
    value, gate = attention.value, attention.gate
    expected = [
        sum(
            float(attention.score.weight[0, j])
            * np.tanh(float(value.weight[j] @ row + value.bias[j]))
            / (1 + np.exp(-float(gate.weight[j] @ row + gate.bias[j])))
            for j in range(128)
        )
        for row in h
    ]
    assert attention(h).detach().numpy() == pytest.approx(expected, abs=1e-5)
