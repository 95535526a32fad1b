"""Metrics of the answered cases, and of prediction sets."""

import numpy as np
import pytest

from reslink.bundles.decision.decision import DecisionResults
from reslink.evaluation.selective import (
    ANSWER_NAMES,
    NOTHING_FITTED,
    answer_estimates,
    can_abstain,
    named_answers,
    prediction_set_metrics,
    selective_metrics,
)
from reslink.labels import Labels

LABELS = Labels(("Healthy", "Tumor"))
GROUPS = [str(i) for i in range(20)]
Y_TRUE = np.array([0, 1] * 10)


def results(*, fitted=True, n_abstained=5):
    """Predictions of which the abstained ones are wrong and all others are correct."""
    positive = np.where(Y_TRUE == 1, 0.9, 0.1)
    positive[:n_abstained] = 1 - positive[:n_abstained]
    probabilities = np.stack([1 - positive, positive], axis=1)
    reasons = [["far"] if fitted and i < n_abstained else [] for i in range(20)]
    score = np.where(np.arange(20) < n_abstained, 2.0, 0.5) if fitted else None
    return DecisionResults(probabilities, probabilities.argmax(axis=1), None, score, reasons)


def test_answered_and_abstained_cases_are_counted():
    metrics = selective_metrics(Y_TRUE, results(), GROUPS, LABELS)
    assert (metrics["n_covered"], metrics["n_abstained"], metrics["n_out_of_distribution"]) == (15, 5, 5)
    assert metrics["reasons"] == {"far": 5}
    assert metrics["coverage"]["estimate"] == pytest.approx(0.75)
    assert metrics["silent_errors"]["estimate"] == 0  # the wrong predictions are those with an abstention
    assert metrics["metrics"]["accuracy"]["estimate"] == 1
    assert metrics["answered_accuracy"] == metrics["metrics"]["accuracy"]
    assert metrics["prediction_sets"] is None
    assert can_abstain({"selective": metrics})


def test_the_answers_have_intervals_over_groups():
    answered, correct = np.arange(20) >= 5, np.arange(20) < 17
    estimates = answer_estimates(answered, correct, GROUPS)
    assert {name: value["estimate"] for name, value in estimates.items()} == pytest.approx(
        {"coverage": 0.75, "answered_accuracy": 0.8, "silent_errors": 0.15}
    )
    assert [value["n"] for value in estimates.values()] == [20, 15, 20]
    assert all(value["ci_low"] < value["estimate"] < value["ci_high"] for value in estimates.values())
    assert list(named_answers(estimates)) == list(ANSWER_NAMES.values())
    assert named_answers(None) == named_answers({}) == {}


def test_without_abstention_every_case_is_answered():
    metrics = selective_metrics(Y_TRUE, results(fitted=False), GROUPS, LABELS)
    assert (metrics["n_covered"], metrics["n_out_of_distribution"], metrics["note"]) == (20, None, NOTHING_FITTED)
    assert not can_abstain({"selective": metrics})
    assert not can_abstain({})
    assert can_abstain({"selective": {"prediction_sets": None, "n_out_of_distribution": 0}})
    assert metrics["silent_errors"]["estimate"] == pytest.approx(0.25)
    assert metrics["metrics"]["accuracy"]["estimate"] == pytest.approx(0.75)


def test_abstention_from_every_case_has_no_metrics():
    metrics = selective_metrics(Y_TRUE, results(n_abstained=20), GROUPS, LABELS)
    assert (metrics["n_covered"], metrics["metrics"], metrics["answered_accuracy"]["estimate"]) == (0, {}, None)


def test_prediction_sets():
    sets = np.ones((20, 2), np.bool_)
    sets[:4] = False
    sets[4:10, 0] = False
    metrics = prediction_set_metrics(Y_TRUE, sets, GROUPS, LABELS)
    assert (metrics["n_empty"], metrics["n_single"], metrics["n_several"]) == (4, 6, 10)
    assert metrics["coverage"]["estimate"] == pytest.approx(13 / 20)
    assert metrics["coverage_by_class"]["Healthy"]["estimate"] == pytest.approx(5 / 10)
    assert metrics["mean_size"]["estimate"] == pytest.approx(26 / 20)
