"""One step of the optimizer, compared with the same step written in plain torch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from reslink.errors import TrainingError
from reslink.training.distributed import make_accelerator
from reslink.training.losses import Criterion
from reslink.training.recipe.recipe import Recipe
from reslink.training.step import Batch, Learner, NotFiniteError

LABELS = torch.tensor([0, 1, 0, 1, 1, 0])


@pytest.fixture
def make_learner(recipe: Callable[..., Recipe]) -> Callable[..., Learner]:
    def make(*sets: str) -> Learner:
        plain = ("optimizer.name=sgd", "optimizer.momentum=0", "optimizer.weight_decay=0")
        made = recipe(*plain, "model.drop_rate=0", "model.head_drop_rate=0", *sets)
        return Learner(made, Criterion(made.loss, LABELS.numpy(), 2), 2, make_accelerator(made.trainer))

    return make


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(6, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def state_of(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in learner.network.state_dict().items()}


def test_a_step_of_sgd_is_that_of_plain_torch(make_learner: Callable[..., Learner], x: torch.Tensor) -> None:
    learner = make_learner("loss.label_smoothing=0", "optimizer.clip_norm=0")
    plain = copy.deepcopy(learner.network)
    result = learner.step(Batch(x, learner.criterion.targets(LABELS), None, 1.0), lr=0.1)
    logits = plain(x)
    loss = torch.nn.functional.cross_entropy(logits, LABELS)
    loss.backward()
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in plain.parameters() if p.grad is not None))
    assert result.loss == pytest.approx(loss.item(), rel=1e-5)
    assert result.gradient_norm == pytest.approx(norm, rel=1e-4)
    assert result.correct == int((logits.argmax(dim=1) == LABELS).sum())
    with torch.no_grad():
        for own, other in zip(learner.network.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(own, other - 0.1 * other.grad, rtol=1e-4, atol=1e-6)


def test_a_gradient_that_is_too_long_is_clipped(make_learner: Callable[..., Learner], x: torch.Tensor) -> None:
    learner = make_learner("optimizer.clip_norm=0.01")
    before = [parameter.detach().clone() for parameter in learner.network.parameters()]
    result = learner.step(Batch(x, learner.criterion.targets(LABELS), None, 1.0), lr=1.0)
    moved = math.sqrt(sum((a - b).square().sum().item() for a, b in zip(learner.network.parameters(), before, strict=True)))
    assert result.gradient_norm > 0.01
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_is_not_finite_changes_nothing(make_learner: Callable[..., Learner], x: torch.Tensor) -> None:
    learner = make_learner()
    before = state_of(learner)
    with pytest.raises(NotFiniteError, match="loss"):
        learner.step(Batch(x * math.nan, learner.criterion.targets(LABELS), None, 1.0), lr=0.1)
    assert all(torch.equal(value, before[name]) for name, value in learner.network.state_dict().items()), "also BatchNorm"
    assert all(parameter.grad is None for parameter in learner.network.parameters())


def test_the_evaluated_network_is_the_average(make_learner: Callable[..., Learner], x: torch.Tensor) -> None:
    learner = make_learner("trainer.ema=0.9")
    for _ in range(3):
        learner.step(Batch(x, learner.criterion.targets(LABELS), None, 1.0), lr=0.1)
    learner.update_eval_network()
    evaluated, trained = (network.head[-1].weight for network in (learner.eval_network, learner.network))
    assert torch.equal(evaluated, learner.average.module.head[-1].weight)
    assert not torch.equal(evaluated, trained)
    assert not learner.eval_network.training


def test_a_restored_learner_continues_with_the_same_bits(make_learner: Callable[..., Learner], x: torch.Tensor) -> None:
    one, other = make_learner("optimizer.momentum=0.9"), make_learner("optimizer.momentum=0.9", "seed=1")
    batch = Batch(x, one.criterion.targets(LABELS), None, 1.0)
    one.step(batch, lr=0.1)
    other.restore(copy.deepcopy(one.tensors()))
    results = [learner.step(batch, lr=0.1).loss for learner in (one, other)]
    assert results[0] == results[1]
    assert all(torch.equal(value, state_of(one)[name]) for name, value in other.network.state_dict().items())
    with pytest.raises(TrainingError, match="another network than the recipe builds now"):
        make_learner("model.dims=[8, 8]").restore(one.tensors())


def test_supervision_adds_its_loss_and_reports_the_share_of_attention(
    make_learner: Callable[..., Learner], x: torch.Tensor
) -> None:
    masks = torch.zeros(6, 1, 64, 64)
    masks[:, :, :8, :8] = 1
    losses = []
    for weight in (0.0, 2.0):
        learner = make_learner(f"attention_supervision.weight={weight}")
        targets = learner.criterion.targets(LABELS)
        result = learner.step(Batch(x, targets, masks if weight else None, 1.0), lr=0.1)
        losses.append(result.loss)
    assert losses[1] > losses[0] + 2, "the attention of a new network is spread over the image"
    assert set(result.attention_gradient) == {"first_attention", "final_attention"}
    assert 0 < np.sum(list(result.attention_gradient.values())) < 1
