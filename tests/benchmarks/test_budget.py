"""Training by a budget: the schedule ends with it, evaluation is not counted, and peers get the best of their weights."""

from __future__ import annotations

import time
from types import ModuleType

import pytest
import torch
from torch import nn

from reslink.training.data import TrainingData
from reslink.training.optim import build
from reslink.training.recipe.recipe import Recipe
from reslink.training.recipe.schema import OptimizerSettings


class Normed(nn.Sequential):
    """A small network with BatchNorm, whose statistics hardly move by themselves."""

    def __init__(self) -> None:
        layers = [nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8, momentum=0.001), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(8, 2))


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Normed()


@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_the_learning_rate_is_that_of_the_recipe_at_the_same_share(budget: ModuleType, schedule: str) -> None:
    settings = OptimizerSettings(schedule=schedule, lr=1e-3, warmup=0.1)
    steps = 5000
    for step in (0, 100, 499, 500, 2500, 4999):
        expected = build.learning_rate(step, steps, settings)
        assert budget.learning_rate(step / steps, settings) == pytest.approx(expected, abs=2.1e-6)  # a step of the rise is 2e-6


def test_the_learning_rate_rises_to_its_highest_and_ends_at_zero_also_after_the_end(budget: ModuleType) -> None:
    settings = OptimizerSettings(lr=1e-3, warmup=0.05)
    assert budget.learning_rate(0.05, settings) == pytest.approx(1e-3)
    assert budget.learning_rate(0.0, settings) < 1e-7
    assert budget.learning_rate(1.0, settings) == budget.learning_rate(1.7, settings) < 1e-9


def test_only_what_runs_inside_counts(budget: ModuleType) -> None:
    clock = budget.ProcessorTime(100.0)
    start = time.process_time()
    while time.process_time() - start < 0.02:
        pass
    assert clock.used == 0
    with clock:
        start = time.process_time()
        while time.process_time() - start < 0.02:
            pass
    assert 0.02 <= clock.used < 2
    assert clock.share == clock.used / 100


def test_the_first_step_of_a_process_leaves_the_weights_alone(
    budget: ModuleType, recipe: Recipe, training_data: TrainingData, network: nn.Module
) -> None:
    for trainee in (
        budget.Trainee(recipe, training_data),
        budget.Trainee(recipe, training_data, network, lambda moved: torch.optim.SGD(moved.parameters(), lr=1.0)),
    ):
        before = {name: value.clone() for name, value in trainee.learner.network.state_dict().items()}
        trainee._first_step()
        assert all(torch.equal(value, before[name]) for name, value in trainee.learner.network.state_dict().items())
        assert all(p.grad is None for p in trainee.learner.network.parameters())


def test_a_run_ends_with_its_steps_and_is_evaluated_in_between(
    budget: ModuleType, recipe: Recipe, training_data: TrainingData
) -> None:
    trainee = budget.Trainee(recipe, training_data)
    per_epoch, seen = trainee.steps_an_epoch(), []
    clock = budget.Steps(2 * per_epoch)
    trainee.train(clock, [0.25, 0.5], seen.append)
    assert clock.done == 2 * per_epoch
    assert trainee.images == 2 * len(training_data.indices("train"))
    assert [moment.share for moment in seen] == [pytest.approx(0.25), pytest.approx(0.5)]
    assert seen[0].weights == "average"
    assert seen[0].images < seen[1].images < trainee.images


def test_a_peer_is_evaluated_with_the_best_of_its_weights(
    budget: ModuleType, peers: ModuleType, recipe: Recipe, training_data: TrainingData, network: nn.Module
) -> None:
    trainee = budget.Trainee(recipe, training_data, network, lambda moved: peers.adamw(moved, 3e-3), several=True)
    clock = budget.Steps(8 * trainee.steps_an_epoch())
    trainee.train(clock)
    candidates = {name: trainee._validate() for name in trainee._weights(last=True)}
    assert set(candidates) == {
        f"{weights}{statistics}" for weights in ("raw", "average") for statistics in ("", ", re-estimated statistics")
    }
    best = trainee.evaluate(clock, last=True)
    assert best.validation == trainee._validate()  # the best weights are loaded
    assert not any(other.better_than(best.validation) for other in candidates.values())
    assert candidates["raw, re-estimated statistics"].loss < candidates["raw"].loss  # the planted momentum hurts


def test_a_loss_that_is_not_finite_is_skipped_and_counted(
    budget: ModuleType, recipe: Recipe, training_data: TrainingData, network: nn.Module
) -> None:
    trainee = budget.Trainee(recipe, training_data, network, lambda moved: torch.optim.SGD(moved.parameters(), lr=0.0))
    with torch.no_grad():
        network[-1].bias.fill_(float("inf"))
    trainee.train(budget.Steps(3))
    assert trainee.skipped == 3


def test_the_test_split_is_evaluated_over_its_groups(budget: ModuleType, recipe: Recipe, training_data: TrainingData) -> None:
    metrics = budget.test_metrics(budget.Trainee(recipe, training_data))
    assert metrics["n_test"] == len(training_data.indices("test"))
    assert metrics["test"].keys() == {"auroc", "accuracy"}


def test_the_kaggle_network_rejects_images_that_are_too_small(peers: ModuleType) -> None:
    network = peers.build_peer("kaggle_cnn", 3, 4, 64, seed=1)
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 4)
    assert peers.build_peer("kaggle_cnn", 1, 2, 46)(torch.zeros(1, 1, 46, 46)).shape == (1, 2)
    with pytest.raises(ValueError, match="at least 46"):
        peers.build_peer("kaggle_cnn", 3, 2, 45)


def test_norms_and_biases_of_a_peer_do_not_decay(peers: ModuleType, network: nn.Module) -> None:
    decayed, plain = peers.adamw(network, 1e-3).param_groups
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in plain["params"]} == {1}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)


def test_a_peer_shares_images_and_split_with_ours_but_not_its_optimizer(time_to_result: ModuleType, recipe: Recipe) -> None:
    ours = recipe.model_copy(update={"loss": recipe.loss.model_copy(update={"mixup": 0.2})})
    peer = time_to_result.peer_recipe(ours, 3e-3)
    for section in ("seed", "data", "preprocess", "augment"):
        assert getattr(peer, section) == getattr(ours, section)
    assert (peer.optimizer.name, peer.optimizer.lr, peer.optimizer.schedule) == ("adamw", 3e-3, "cosine")
    assert (peer.trainer.batch_size, peer.trainer.ema, peer.loss.mixup) == (16, ours.trainer.ema, 0.0)
