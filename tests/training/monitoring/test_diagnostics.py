"""Each sign of a training that goes wrong: fires on a planted fault, silent otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from reslink.networks.reslink import ResLinkConfig, build
from reslink.training.monitoring import diagnostics
from reslink.training.monitoring.diagnostics import Divergence
from reslink.training.monitoring.layer_statistics import BatchNormSign, GateSign, batch_norm_sign, gate_signs
from reslink.training.recipe.recipe import Recipe
from reslink.training.trainer import train

TINY = ResLinkConfig(in_channels=1, stem_dim=8, dims=(8, 16), depths=(0, 1), area_size=4)


def gate(mean: float, spread: float, inside: float | None = None, outside: float | None = None) -> GateSign:
    return GateSign("final_attention", mean, spread, inside, outside, 0.4)


def images(n: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 1, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("mean", "spread", "code"),
    [
        (0.99, 0.01, "gates-bright-final_attention"),
        (0.01, 0.01, "gates-dead-final_attention"),
        (0.97, 0.10, None),  # bright but for a few places: it attends to something
        (0.04, 0.15, None),  # dark but for a few places
        (0.50, 0.01, None),
    ],
)
def test_gates_that_are_the_same_everywhere(mean: float, spread: float, code: str | None) -> None:
    finding = diagnostics.gates_uniform(gate(mean, spread), 3)
    assert (finding.code if finding else None) == code
    assert finding is None or (finding.epoch == 3 and f"{mean:.3f}" in finding.message)


@pytest.mark.parametrize(("bias", "code"), [(8.0, "gates-bright"), (-8.0, "gates-dead"), (0.0, None)])
def test_gates_of_a_network_with_a_planted_fault(bias: float, code: str | None) -> None:
    network = build(TINY, 0).eval()
    nn.init.constant_(network.final_attention.gate.expand.bias, bias)
    signs = {sign.layer: sign for sign in gate_signs(network, [(images(), torch.ones(16, 1, 56, 56))])}
    assert set(signs) == {"first_attention", "final_attention"}
    finding = diagnostics.gates_uniform(signs["final_attention"], 1)
    assert (finding.code if finding else None) == (f"{code}-final_attention" if code else None)
    assert diagnostics.gates_uniform(signs["first_attention"], 1) is None


@pytest.mark.parametrize(
    ("inside", "outside", "fires"), [(0.2, 0.8, True), (0.5, 0.6, False), (0.8, 0.2, False), (None, 0.9, False)]
)
def test_attention_outside_the_head(inside: float | None, outside: float, fires: bool) -> None:
    finding = diagnostics.attention_outside(gate(0.4, 0.2, inside, outside), 1)
    assert (finding is not None) == fires
    assert finding is None or "attention_supervision.weight" in finding.advice


def test_gate_signs_know_inside_from_outside() -> None:
    """A network whose first gates open where the image is dark, and heads that are bright."""
    x = torch.zeros(4, 1, 64, 64)
    x[:, :, 16:48, 16:48] = 1
    gates = torch.nn.functional.avg_pool2d(1 - x, 4) * 0.8 + 0.1

    class Fixed(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
            return gates

    network = build(TINY, 0).eval()
    network.first_attention.gate = Fixed()
    first = next(s for s in gate_signs(network, [(x, x)]) if s.layer == "first_attention")
    assert (first.inside, first.outside) == (pytest.approx(0.1), pytest.approx(0.9))
    assert first.area_outside == pytest.approx(0.75)
    assert first.mass_outside == pytest.approx(0.75 * 0.9 / (0.75 * 0.9 + 0.25 * 0.1))
    finding = diagnostics.attention_outside(first, 1)
    assert finding is not None
    assert finding.code == "attention-outside-first_attention"


def epochs(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"train_accuracy": train, "val_accuracy": validation} for train, validation in pairs]


@pytest.mark.parametrize(
    ("rows", "n", "fires"),
    [
        (epochs((0.7, 0.7), (0.99, 0.70), (1.0, 0.71)), 400, True),
        (epochs((0.99, 0.70)), 400, False),  # one epoch says little
        (epochs((0.95, 0.94), (0.99, 0.70)), 400, False),
        (epochs((0.99, 0.70), (1.0, 0.95)), 400, False),
        (epochs((0.99, 0.80), (1.0, 0.80)), 20, False),  # 4 of 20 wrong may be chance
        (epochs((0.99, 0.95), (1.0, 0.95)), 400, False),
    ],
)
def test_the_gap_between_training_and_validation(rows: list[dict[str, float]], n: int, fires: bool) -> None:
    finding = diagnostics.train_validation_gap(rows, n, len(rows))
    assert (finding is not None) == fires
    assert finding is None or "1.000 on training images and 0.710 on validation" in finding.message


@pytest.mark.parametrize(
    ("strayed", "batch", "steps", "fires"),
    [(0.5, 32, 200, True), (0.5, 32, 10, False), (0.05, 32, 200, False), (0.05, 4, 10, True)],
)
def test_batch_statistics(strayed: float, batch: int, steps: int, fires: bool) -> None:
    finding = diagnostics.batch_statistics(BatchNormSign(strayed, 100), batch, steps, 1)
    assert (finding is not None) == fires
    assert finding is None or f"{strayed:.0%} of 100 channels" in finding.message


@pytest.mark.parametrize("fault", [None, "variance", "mean"])
def test_batch_statistics_of_a_network_with_a_planted_fault(fault: str | None) -> None:
    network = build(TINY, 0).train()
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
    sign = batch_norm_sign(network, images(64, 99))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert sign.channels > 20
    assert (sign.strayed > diagnostics.STRAYED_CHANNELS) == (fault is not None), sign


def test_a_loss_that_runs_away() -> None:
    watch = Divergence()
    healthy = [watch.add(0.7 - 0.01 * i + (0.9 if i % 7 == 0 else 0), 0.001, 1) for i in range(40)]
    assert healthy == [None] * 40
    found = [watch.add(0.5 * 1.3**i, 0.1, 2) for i in range(20)]
    fired = [finding for finding in found if finding]
    assert fired
    assert fired[0].code == "learning-rate-diverges"
    assert "learning rate 0.1" in fired[0].message


def test_divergence_is_remembered_over_an_interruption() -> None:
    one, other = Divergence(), Divergence()
    for i in range(15):
        one.add(1.0 + i / 100, 0.1, 1)
    other.restore(one.state())
    for loss in (3.0, 4.0, 5.0, 6.0, 7.0):
        assert (one.add(loss, 0.1, 1) is None) == (other.add(loss, 0.1, 1) is None)
    assert one.state() == other.state()


def test_a_run_at_a_wild_learning_rate_says_so(
    toy: object, recipe: Callable[..., Recipe], tmp_path: object, cache: object, listener: object
) -> None:
    wild = recipe(
        "model.variant=reslink_small",  # whose sums no norm holds
        "optimizer.name=sgd",
        "optimizer.lr=20",
        "optimizer.schedule=constant",
        "trainer.epochs=4",
        "optimizer.warmup=0.5",
        "optimizer.clip_norm=0",
        "optimizer.weight_decay=0",
    )
    result = train(toy, wild, tmp_path / "run", cache=cache, progress=listener)
    assert "learning-rate-diverges" in {finding.code for finding in result.findings}
    assert any(text.startswith("learning-rate-diverges: The loss rose from") for text in listener.messages)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"kind": "finding", "code": "learning-rate-diverges"' in lines


def test_small_batches_are_named_with_evidence(
    toy: object, recipe: Callable[..., Recipe], tmp_path: object, cache: object
) -> None:
    result = train(toy, recipe("trainer.batch_size=2", "trainer.epochs=1"), tmp_path / "run", cache=cache)
    found = {finding.code: finding for finding in result.findings}
    assert "2 images a step" in found["unstable-batch-statistics"].message
    silent = recipe("trainer.batch_size=2", "trainer.epochs=1", "diagnostics.enabled=false")
    assert train(toy, silent, tmp_path / "silent", cache=cache).findings == ()


@pytest.mark.parametrize("seed", range(5))
def test_healthy_runs_are_silent(
    seed: int, toy: object, recipe: Callable[..., Recipe], tmp_path: object, cache: object, listener: object
) -> None:
    averaged = ("trainer.ema=0.998", "optimizer.schedule=cosine") if seed % 2 else ()
    made = recipe(f"seed={seed}", "trainer.epochs=12", *averaged)
    result = train(toy, made, tmp_path / "run", cache=cache, progress=listener)
    assert result.findings == ()
    assert listener.messages == []
