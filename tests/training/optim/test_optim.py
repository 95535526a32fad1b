"""Optimizers, learning rates and the moving average, against torch's own."""

from __future__ import annotations

import copy

import pytest
import torch

from reslink.networks.reslink import ResLink, ResLinkConfig, build_network
from reslink.training.optim import build as optim
from reslink.training.optim.muon import Muon, orthogonalize
from reslink.training.recipe.schema import OptimizerSettings

TINY = ResLinkConfig(in_channels=1, stem_dim=8, dims=(8, 16), depths=(0, 1), area_size=4)


def rates(steps: int, **settings: object) -> list[float]:
    return [optim.learning_rate(step, steps, OptimizerSettings(**settings)) for step in range(steps)]


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
def test_onecycle_is_torchs() -> None:
    dummy = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(dummy, 0.01, total_steps=101, pct_start=0.21, cycle_momentum=False)
    expected = []
    for _ in range(101):
        expected.append(dummy.param_groups[0]["lr"])
        dummy.step()
        if len(expected) < 101:
            schedule.step()
    # torch puts the top at 0.21 · 101 − 1 = 20.21 steps; ours at warmup · 101
    found = rates(101, lr=0.01, schedule="onecycle", warmup=20.21 / 101)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_cosine_and_constant_after_a_linear_warmup() -> None:
    cosine, constant = (rates(100, lr=0.1, schedule=name, warmup=0.1) for name in ("cosine", "constant"))
    assert cosine[:10] == constant[:10] == pytest.approx([0.1 * (i + 1) / 11 for i in range(10)])
    assert set(constant[10:]) == {0.1}
    dummy = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(dummy, 90)
    for rate in cosine[10:]:
        assert rate == pytest.approx(dummy.param_groups[0]["lr"], abs=1e-9)
        dummy.step()
        schedule.step()


@pytest.mark.parametrize("name", ["onecycle", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_rates_are_between_zero_and_the_peak(name: str, warmup: float, steps: int) -> None:
    assert all(0 <= rate <= 0.5 for rate in rates(steps, lr=0.5, schedule=name, warmup=warmup))


@pytest.mark.parametrize(("name", "kind"), [("muon", "Muon"), ("adamw", "AdamW"), ("adam", "Adam"), ("sgd", "SGD")])
def test_the_named_optimizer_with_its_settings(name: str, kind: str) -> None:
    network = build_network(TINY, 0)
    optimizer = optim.make_optimizer(network, OptimizerSettings(name=name, weight_decay=0.3, momentum=0.7))
    assert type(optimizer).__name__ == kind
    decay = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {decay[p] for p in network.parameters() if p.ndim > 1} == {0.3}
    assert {decay[p] for p in network.parameters() if p.ndim == 1} == {0.0}
    assert len(decay) == len(list(network.parameters()))
    assert optimizer.param_groups[0].get("momentum", 0.7) == 0.7


def _step(network: ResLink, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(seed))
    network.eval()(x.contiguous(memory_format=torch.channels_last)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def layout(value: torch.Tensor) -> list[tuple[int, int]]:
    """Size and stride of the dimensions that have more than one entry."""
    return [pair for pair in zip(value.shape, value.stride(), strict=True) if pair[0] > 1]


@pytest.mark.parametrize("name", ["muon", "adamw", "adam", "sgd"])
def test_a_restored_optimizer_continues_bit_by_bit(name: str) -> None:
    settings = OptimizerSettings(name=name, lr=0.01)
    network = build_network(TINY, 0).to(memory_format=torch.channels_last)
    optimizer = optim.make_optimizer(network, settings)
    for seed in range(3):
        _step(network, optimizer, seed)
    twin = copy.deepcopy(network)
    other = optim.make_optimizer(twin, settings)
    saved = {key: value.clone().contiguous() for key, value in optim.optimizer_tensors(optimizer).items()}
    optim.restore_optimizer(other, saved)
    for key, value in optim.optimizer_tensors(other).items():
        assert layout(value) == layout(optim.optimizer_tensors(optimizer)[key]), key
    for seed in range(3, 6):
        _step(network, optimizer, seed)
        _step(twin, other, seed)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9 has no Muon to compare with")
@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_muon_equals_torchs_on_a_matrix_and_treats_a_convolution_as_a_matrix(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    matrix, own = (torch.nn.Parameter(start.clone()) for _ in range(2))
    convolution = torch.nn.Parameter(start.clone().view(shape[0], -1, 1, 2))
    torchs = torch.optim.Muon([matrix], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    ours = Muon([{"params": [own, convolution], "weight_decay": 0.1, "hidden": True}], 0.02, fused=True)
    for _ in range(4):
        gradient = torch.randn(shape, generator=generator)
        matrix.grad, own.grad, convolution.grad = gradient.clone(), gradient.clone(), gradient.view_as(convolution).clone()
        torchs.step()
        ours.step()
    moved = (matrix - start).abs().max().item()
    # torch's iteration runs in bfloat16, ours in single precision
    torch.testing.assert_close(own, matrix, rtol=0, atol=0.03 * moved)
    torch.testing.assert_close(convolution.view(shape), own)


def test_orthogonalize_keeps_the_directions_and_equalizes_the_lengths() -> None:
    matrix = torch.randn(12, 40, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalize(matrix)
    values = torch.linalg.svdvals(found)
    assert 0.6 < values.min() < values.max() < 1.3
    assert torch.linalg.matrix_norm(found - u @ v) < 0.35 * torch.linalg.matrix_norm(found)


def test_muon_uses_adamw_for_norms_and_outputs() -> None:
    networks = [build_network(TINY, 0) for _ in range(2)]
    for network, name in zip(networks, ("muon", "adamw"), strict=True):
        _step(network, optim.make_optimizer(network, OptimizerSettings(name=name, lr=0.01)), 0)
    hidden = {id(p) for p in networks[0].parameter_groups(0)[0]["params"]}
    for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(a, b) == (id(a) not in hidden)


def test_the_average_follows_its_formula() -> None:
    layer = torch.nn.BatchNorm1d(1)
    average = optim.moving_average(layer, 0.5)
    expected = 0.0
    for n, value in enumerate([3.0, 5.0, -2.0, 8.0, 1.0, 1.0, 4.0]):
        with torch.no_grad():
            layer.weight.fill_(value)
            layer.running_mean.fill_(value)
        average.update_parameters(layer)
        keep = 0.0 if n == 0 else min(0.5, (1 + n) / (10 + n))
        expected = keep * expected + (1 - keep) * value
        assert float(average.module.weight.detach()) == pytest.approx(expected)
        assert float(average.module.running_mean) == pytest.approx(expected)


@pytest.mark.parametrize("smallest", [1e-1, 1e-3, 1e-6, 0.0])
def test_orthogonalize_follows_its_polynomial_for_small_and_missing_singular_values(smallest: float) -> None:
    generator = torch.Generator().manual_seed(2)
    u, _ = torch.linalg.qr(torch.randn(48, 48, generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(300, 48, generator=generator, dtype=torch.float64))
    values = torch.linspace(1, 0, 48, dtype=torch.float64) ** 3 * (1 - smallest) + smallest
    expected = values / values.norm()
    for _ in range(5):
        expected = expected * (3.4445 - 4.7750 * expected**2 + 2.0315 * expected**4)
    found = u.T @ orthogonalize(((u * values) @ v.T).float()).double() @ v
    torch.testing.assert_close(found.diagonal(), expected, rtol=0, atol=0.02)
    assert (found - found.diagonal().diag()).abs().max() < 0.02


@pytest.mark.parametrize("name", ["muon", "adamw", "adam", "sgd"])
def test_weights_with_a_factor_move_less_and_frozen_ones_not(name: str) -> None:
    network, plain = build_network(TINY, 0), build_network(TINY, 0)
    network.stem.requires_grad_(False)
    slow = {name for name, _ in network.named_parameters() if name.startswith("stages.")}
    settings = OptimizerSettings(name=name, lr=0.01, weight_decay=0.1)
    optimizer, other = optim.make_optimizer(network, settings, dict.fromkeys(slow, 0.25)), optim.make_optimizer(plain, settings)
    for one in (optimizer, other):
        optim.set_learning_rate(one, 0.008)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {id(p): 0.002 if key in slow else 0.008 for key, p in network.named_parameters() if not key.startswith("stem.")}
    assert rates == expected
    before = {key: value.clone() for key, value in network.named_parameters()}
    _step(network, optimizer, 0)
    _step(plain, other, 0)
    for (key, value), full in zip(network.named_parameters(), plain.parameters(), strict=True):
        factor = 0 if key.startswith("stem.") else 0.25 if key in slow else 1
        torch.testing.assert_close(value - before[key], factor * (full - before[key]), rtol=1e-3, atol=1e-6)
