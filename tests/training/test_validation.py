"""What is said about an epoch, and the threshold that a recipe asks for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reslink.training.recipe.schema import DecisionSettings
from reslink.training.validation import ValidationResult, best_threshold, evaluate_validation, make_decision

TRUTH = np.array([0, 0, 1, 1])


def test_a_perfect_and_a_constant_epoch() -> None:
    sure = torch.tensor([[9.0, -9], [9, -9], [-9, 9], [-9, 9]])
    found = evaluate_validation(sure, TRUTH, 2)
    assert (found.accuracy, found.auroc) == (1.0, 1.0)
    assert found.loss == pytest.approx(0, abs=1e-6)
    blind = evaluate_validation(torch.zeros(4, 2), TRUTH, 2)
    assert (blind.auroc, blind.loss) == (0.5, pytest.approx(math.log(2)))


def test_more_classes_a_missing_class_and_nan() -> None:
    many = evaluate_validation(torch.eye(3) * 5, np.array([0, 1, 2]), 3)
    assert (many.accuracy, many.auroc) == (1.0, 1.0)
    assert evaluate_validation(torch.eye(3)[:2], np.array([0, 1]), 3).auroc is None
    broken = evaluate_validation(torch.tensor([[math.nan, 0.0], [0.0, 1.0]]), np.array([0, 1]), 2)
    assert (broken.loss, broken.auroc) == (None, None)


@pytest.mark.parametrize(
    ("one", "other", "better"),
    [
        ((0.5, 0.9), (0.1, 0.8), True),
        ((0.1, 0.8), (0.5, 0.9), False),
        ((0.4, 0.9), (0.5, 0.9), True),
        ((0.5, 0.9), (0.5, 0.9), False),
        ((0.5, None), (None, None), True),
        ((None, None), (0.5, None), False),
        ((9.0, 0.1), None, True),
    ],
)
def test_the_better_epoch(
    one: tuple[float | None, float | None], other: tuple[float | None, float | None] | None, better: bool
) -> None:
    rival = None if other is None else ValidationResult(other[0], 0.5, other[1])
    assert ValidationResult(one[0], 0.5, one[1]).better_than(rival) == better


@pytest.mark.parametrize("criterion", ["youden", "accuracy"])
@pytest.mark.parametrize("seed", range(20))
def test_the_best_threshold_equals_a_search(criterion: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.concatenate([[0, 1], rng.integers(0, 2, 20) if seed % 2 else np.zeros(20, int)])
    prob = np.round(np.clip(rng.normal(0.3 + 0.3 * truth, 0.2), 0, 1), 2)

    def value(cut: float) -> float:
        guess = prob >= cut
        if criterion == "accuracy":
            return float((guess == truth).mean())
        return float(guess[truth == 1].mean() - guess[truth == 0].mean())

    found = best_threshold(truth, prob, criterion)
    assert 0 <= found <= 1
    assert value(found) == pytest.approx(max(value(cut) for cut in np.linspace(0.0025, 1, 400)))


def test_the_decision_names_its_source() -> None:
    logits = torch.tensor([[0.0, -2], [0, 1], [0, 2], [0, 3]])
    fixed = make_decision(DecisionSettings(threshold=0.3), logits, TRUTH, 2)
    assert (fixed.threshold, fixed.threshold_source) == (0.3, "set by the recipe")
    chosen = make_decision(DecisionSettings(threshold="accuracy"), logits, TRUTH, 2)
    assert chosen.threshold_source == "accuracy on the validation split (4 images)"
    assert 1 / (1 + math.exp(-1)) < chosen.threshold < 1 / (1 + math.exp(-2))
    assert make_decision(DecisionSettings(threshold=0.3), torch.zeros(4, 3), TRUTH, 3).threshold is None
    one_class = make_decision(DecisionSettings(threshold="youden"), logits, np.zeros(4, np.int64), 2)
    assert one_class.threshold == 0.5
    assert "only one class" in one_class.threshold_source


def test_several_labels_are_judged_where_they_are_known() -> None:
    states = np.array([[1, 0], [0, 1], [1, -1], [0, 0]])
    logits = torch.tensor([[2.0, 1.0], [-2.0, 2.0], [1.0, 9.0], [-1.0, 3.0]])
    found = evaluate_validation(logits, states, 2)
    assert found.auroc == pytest.approx((1.0 + 0.5) / 2)
    assert found.accuracy == pytest.approx((0.5 + 1 + 1 + 0.5) / 4)
    assert evaluate_validation(logits, np.array([[1, 0], [0, 0], [1, -1], [0, 0]]), 2).auroc == 1.0  # the second has one state
    assert evaluate_validation(logits, np.zeros((4, 2), np.int64), 2).auroc is None
    logits[2, 1] = math.nan
    assert evaluate_validation(logits, states, 2).loss is None


def test_several_labels_get_a_threshold_each() -> None:
    states = np.array([[1, 0], [0, 1], [1, -1], [0, 0]])
    logits = torch.tensor([[2.0, 1.0], [-2.0, 2.0], [1.0, 9.0], [-1.0, 1.5]])
    decision = make_decision(DecisionSettings(threshold="youden"), logits, states, 2)
    first, second = (one.threshold for one in decision.by_label)
    assert first == pytest.approx((1 / (1 + math.exp(1)) + 1 / (1 + math.exp(-1))) / 2)
    assert second == pytest.approx((1 / (1 + math.exp(-1.5)) + 1 / (1 + math.exp(-2))) / 2)
    assert "3 images" in decision.by_label[1].threshold_source
