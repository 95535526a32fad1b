"""What a timed step does and counts, and the kinds of attention that stand beside area attention."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from reslink.networks.reslink import variant_config


@pytest.mark.parametrize("name", ["reslink_small", "resnet18"])
def test_a_training_step_counts_three_times_its_forward_pass(train_step: ModuleType, name: str) -> None:
    network = train_step.network(name, 64)
    hows = [train_step.How(2, 64, bf16=False, compiled=False, predict=predict) for predict in (False, True)]
    train, predict = (train_step.step_flops(network, how) for how in hows)
    assert 2.5 * predict < train <= 3 * predict, "the gradient of the images is not asked for"


def test_a_step_learns_and_a_forward_pass_does_not(train_step: ModuleType) -> None:
    for predict in (False, True):
        how = train_step.How(2, 64, bf16=False, compiled=False, predict=predict)
        network = train_step.network("reslink_small", 64)
        before = [p.detach().clone() for p in network.parameters()]
        train_step.one_step(network, *train_step.batch(how), how)()
        same = [torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
        assert all(same) is predict


def test_every_network_is_compared_with_the_first(train_step: ModuleType) -> None:
    how = train_step.How(1, 64, bf16=False, compiled=False, predict=True)
    found = train_step.measure(["densenet121", "reslink_small"], 1, how)
    assert found["densenet121"]["ratio"] == 1
    assert found["reslink_small"]["ratio"] > 0
    assert found["limit"]["gflops"] > 0


def test_every_kind_of_attention_keeps_shape_and_learns(attention: ModuleType) -> None:
    config = variant_config("reslink_small", area_size=4)
    for kind in attention.KINDS:
        network = attention.swapped(kind, config)
        loss = network(torch.randn(2, 3, 64, 64)).square().sum()
        loss.backward()
        assert all(p.grad is not None for p in network.parameters()), kind


def test_where_memory_is_not_told_the_option_that_leaves_it_out_is_named(train_step: ModuleType) -> None:
    assert train_step._resident("VmRSS") > 1
    with pytest.raises(SystemExit, match=r"VmNone.*--no-memory"):
        train_step._resident("VmNone")


def test_what_a_process_of_its_own_says_reaches_the_user(train_step: ModuleType) -> None:
    how = train_step.How(1, 40, bf16=False, compiled=False, predict=True)
    with pytest.raises(SystemExit, match="the side is 40; it is at least 46"):
        train_step.peak_memory_of_child("kaggle_cnn", 1, how)
