"""Metrics of the answered cases, and of prediction sets."""

import numpy as np
import pytest

from reslink.bundles.decision.decision import DecisionResults
from reslink.evaluation.selective import NOTHING_FITTED, prediction_set_metrics, selective_metrics
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
    assert metrics["prediction_sets"] is None


def test_without_abstention_every_case_is_answered():
    metrics = selective_metrics(Y_TRUE, results(fitted=False), GROUPS, LABELS)
    assert (metrics["n_covered"], metrics["n_out_of_distribution"], metrics["note"]) == (20, None, NOTHING_FITTED)
    assert metrics["silent_errors"]["estimate"] == pytest.approx(0.25)
    assert metrics["metrics"]["accuracy"]["estimate"] == pytest.approx(0.75)


def test_abstention_from_every_case_has_no_metrics():
    metrics = selective_metrics(Y_TRUE, results(n_abstained=20), GROUPS, LABELS)
    assert (metrics["n_covered"], metrics["metrics"]) == (0, {})


def test_prediction_sets():
    sets = np.ones((20, 2), np.bool_)
    sets[:4] = False
    sets[4:10, 0] = False
    metrics = prediction_set_metrics(Y_TRUE, sets, GROUPS, LABELS)
    assert (metrics["n_empty"], metrics["n_single"], metrics["n_several"]) == (4, 6, 10)
    assert metrics["coverage"]["estimate"] == pytest.approx(13 / 20)
    assert metrics["coverage_by_class"]["Healthy"]["estimate"] == pytest.approx(5 / 10)
    assert metrics["mean_size"]["estimate"] == pytest.approx(26 / 20)
