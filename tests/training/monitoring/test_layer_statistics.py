"""Statistics of attention and BatchNorm layers, on networks with a planted fault."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reslink.networks.reslink import ResLinkConfig, build_network
from reslink.training.monitoring import diagnostics
from reslink.training.monitoring.layer_statistics import attention_statistics, batch_norm_statistics

TINY = ResLinkConfig(in_channels=1, stem_dim=8, dims=(8, 16), depths=(0, 1), area_size=4)


def images(n: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 1, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("bias", "code"), [(8.0, "attention-saturated"), (-8.0, "attention-dead"), (0.0, None)])
def test_uniform_attention_of_a_network_with_a_planted_fault(bias: float, code: str | None) -> None:
    network = build_network(TINY, 0).eval()
    nn.init.constant_(network.final_attention.gate.expand.bias, bias)
    measured = attention_statistics(network, [(images(), torch.ones(16, 1, 56, 56))])
    by_layer = {statistics.layer: statistics for statistics in measured}
    assert set(by_layer) == {"first_attention", "final_attention"}
    finding = diagnostics.attention_uniform(by_layer["final_attention"], 1)
    assert (finding.code if finding else None) == (f"{code}-final_attention" if code else None)
    assert diagnostics.attention_uniform(by_layer["first_attention"], 1) is None


def test_attention_inside_and_outside_the_head() -> None:
    """The first attention of the network is high where the image is dark, and the heads are bright."""
    x = torch.zeros(4, 1, 64, 64)
    x[:, :, 16:48, 16:48] = 1
    weights = torch.nn.functional.avg_pool2d(1 - x, 4) * 0.8 + 0.1

    class Fixed(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
            return weights

    network = build_network(TINY, 0).eval()
    network.first_attention.gate = Fixed()
    first = next(s for s in attention_statistics(network, [(x, x)]) if s.layer == "first_attention")
    assert (first.inside, first.outside) == (pytest.approx(0.1), pytest.approx(0.9))
    assert first.area_outside == pytest.approx(0.75)
    assert first.mass_outside == pytest.approx(0.75 * 0.9 / (0.75 * 0.9 + 0.25 * 0.1))
    finding = diagnostics.attention_outside(first, 1)
    assert finding is not None
    assert finding.code == "attention-outside-first_attention"


def test_frozen_batch_norm_layers_are_not_measured() -> None:
    """They keep the statistics of another data set on purpose."""
    network = build_network(TINY, 0).eval()
    every = batch_norm_statistics(network, images())
    network.stem.norm.requires_grad_(False)
    assert every.channels - batch_norm_statistics(network, images()).channels == network.stem.norm.num_features


@pytest.mark.parametrize("fault", [None, "variance", "mean"])
def test_batch_statistics_of_a_network_with_a_planted_fault(fault: str | None) -> None:
    network = build_network(TINY, 0).train()
    with torch.no_grad():
        for step in range(60):
            network(images(32, step))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and fault == "variance":
                module.running_var *= 10
            if isinstance(module, nn.BatchNorm2d) and fault == "mean":
                module.running_mean += 2 * module.running_var.sqrt()
    network.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    statistics = batch_norm_statistics(network, images(64, 99))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert statistics.channels > 20
    assert (statistics.drifted > diagnostics.MAX_DRIFTED_CHANNELS) == (fault is not None), statistics
