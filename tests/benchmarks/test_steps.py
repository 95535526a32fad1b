"""Work and FLOPs of a timed step, and the kinds of attention that are compared with area attention."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from reslink.networks.reslink import variant_config


@pytest.mark.parametrize("name", ["reslink_small", "resnet18"])
def test_a_training_step_counts_three_times_its_forward_pass(train_step: ModuleType, name: str) -> None:
    network = train_step.network(name, 64)
    both = [train_step.StepSettings(2, 64, bf16=False, compiled=False, predict=predict) for predict in (False, True)]
    train, predict = (train_step.step_flops(network, settings) for settings in both)
    assert 2.5 * predict < train <= 3 * predict, "the gradient of the images is not computed"


def test_a_step_learns_and_a_forward_pass_does_not(train_step: ModuleType) -> None:
    for predict in (False, True):
        settings = train_step.StepSettings(2, 64, bf16=False, compiled=False, predict=predict)
        network = train_step.network("reslink_small", 64)
        before = [p.detach().clone() for p in network.parameters()]
        train_step.one_step(network, *train_step.batch(settings), settings)()
        same = [torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
        assert all(same) is predict


def test_every_network_is_compared_with_the_first(train_step: ModuleType) -> None:
    settings = train_step.StepSettings(1, 64, bf16=False, compiled=False, predict=True)
    results = train_step.measure(["densenet121", "reslink_small"], 1, settings)
    assert results["densenet121"]["ratio"] == 1
    assert results["reslink_small"]["ratio"] > 0
    assert results["limit"]["gflops"] > 0


def test_the_operators_of_a_step_do_all_its_work(step_operators: ModuleType, train_step: ModuleType) -> None:
    settings = train_step.StepSettings(2, 64, bf16=False, compiled=False)
    result = step_operators.measure("reslink_small", 2, settings)
    flops = train_step.step_flops(train_step.network("reslink_small", 64), settings)
    assert sum(row.flops for row in result["rows"].values()) == pytest.approx(flops)
    rows = {kind: row for kind, row in result["rows"].items() if kind not in ("change of type", step_operators.OTHER)}
    assert all(row.seconds > 0 and row.moved > 0 for row in rows.values())
    assert len(step_operators.table(result)) == len(result["rows"]) + 3


def test_every_kind_of_attention_keeps_shape_and_learns(attention: ModuleType) -> None:
    config = variant_config("reslink_small", area_size=4)
    for kind in attention.KINDS:
        network = attention.with_attention(kind, config)
        loss = network(torch.randn(2, 3, 64, 64)).square().sum()
        loss.backward()
        assert all(p.grad is not None for p in network.parameters()), kind


def test_missing_memory_fields_name_the_option_that_skips_memory(train_step: ModuleType) -> None:
    assert train_step._resident("VmRSS") > 1
    with pytest.raises(SystemExit, match=r"VmNone.*--no-memory"):
        train_step._resident("VmNone")


def test_the_message_of_a_child_process_reaches_the_user(train_step: ModuleType) -> None:
    settings = train_step.StepSettings(1, 40, bf16=False, compiled=False, predict=True)
    with pytest.raises(SystemExit, match="the side is 40; it must be at least 46"):
        train_step.peak_memory_of_child("kaggle_cnn", 1, settings)
