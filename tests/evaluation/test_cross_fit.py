"""Cross-fitting: metrics on held-out groups, their intervals, and the reason if there is none."""

import json

import numpy as np
import pytest
from scipy.special import softmax

from reslink.bundles.decision.decision import Decision
from reslink.evaluation.cross_fit import cross_fit_metrics
from reslink.evaluation.fitting import CalibrationData, DecisionOptions, fit_decision
from reslink.labels import Labels
from reslink.metrics.calibration import brier_score_loss, expected_calibration_error

TWO = Labels(("Healthy", "Tumor"))


def calibration_data(rng, n, groups=None):
    """Cases whose labels follow the softmax of half the logits."""
    true = rng.normal(size=(n, 2)) * 1.5
    labels = (rng.random(n) < softmax(true, axis=1)[:, 1]).astype(int)
    names = [str(i) for i in (np.arange(n) % groups if groups else np.arange(n))]
    return CalibrationData(true * 2, rng.normal(size=(n, 8)), rng.normal(size=(n, 33)), labels, names)


def checked(cases, options=None):
    options = options or DecisionOptions()
    whole, notes = fit_decision(cases, options, TWO)
    found = cross_fit_metrics(cases, options, Decision(), whole, TWO)
    json.dumps(found, allow_nan=False)
    return whole, found, notes


def estimates(found):
    sets = found["prediction_sets"]
    yield from (found[name] for name in ("accuracy", "sensitivity", "specificity", "retained", "answered"))
    yield from (found[name][when] for name in ("brier", "ece") for when in ("before", "after"))
    yield from (sets["coverage"], sets["mean_size"], *sets["coverage_by_class"].values())


def test_every_metric_has_an_interval(rng):
    cases = calibration_data(rng, 200, 100)
    _, found, _ = checked(cases, DecisionOptions(coverage=0.9))
    for estimate in estimates(found):
        assert estimate["ci_low"] <= estimate["estimate"] <= estimate["ci_high"], estimate
        assert estimate["ci_low"] < estimate["ci_high"]
    before = softmax(cases.logits, axis=1)
    assert found["brier"]["before"]["estimate"] == pytest.approx(brier_score_loss(cases.y_true, before))
    assert found["ece"]["before"]["estimate"] == pytest.approx(expected_calibration_error(cases.y_true, before))
    assert found["ece"]["after"]["estimate"] < found["ece"]["before"]["estimate"]
    assert "over 100 groups" in found["brier"]["after"]["method"]
    assert set(found["prediction_sets"]["coverage_by_class"]) == {"Healthy", "Tumor"}
    assert (found["reason"], found["notes"]) == (None, [])


def test_few_groups_have_no_interval_but_a_reason(rng):
    """There are enough groups for a fit, but too few with a positive case for an interval."""
    cases = calibration_data(rng, 60, 30)
    rare = np.array([int(name) < 8 for name in cases.groups])
    few = CalibrationData(cases.logits, cases.features, cases.statistics, rare.astype(int), cases.groups)
    _, found, _ = checked(few, DecisionOptions(coverage=0.5, ood=False))
    assert found["sensitivity"]["method"].startswith("no interval: only 8 groups")
    assert found["prediction_sets"]["coverage_by_class"]["Tumor"]["method"].startswith("no interval: only 8 groups")
    assert found["accuracy"]["ci_low"] is not None


@pytest.mark.parametrize("n_groups", [40, 45, 49])
def test_a_detector_missing_in_a_fold_gives_no_metrics(rng, n_groups):
    whole, found, notes = checked(calibration_data(rng, 2 * n_groups, n_groups), DecisionOptions(coverage=0.9))
    assert whole.ood is not None
    assert notes == []
    assert (found["retained"], found["answered"]) == (None, None)
    assert found["prediction_sets"]["coverage"]["ci_low"] is not None, "the prediction sets do not depend on the detector"
    (note,) = found["notes"]
    assert note.startswith("The OOD detector and the share of answered cases could not be measured on held-out groups")
    assert "No out-of-distribution detector: there are 3" in note
    assert "groups; it needs 40" in note


def test_prediction_sets_missing_in_a_fold_give_no_metrics(rng):
    whole, found, _ = checked(calibration_data(rng, 20), DecisionOptions(ood=False))
    assert whole.conformal is not None
    assert (found["prediction_sets"], found["answered"], found["retained"]) == (None, None, None)
    assert "No prediction sets: there are 16 images; a coverage of 0.95 needs 19" in found["notes"][0]


def test_a_class_in_every_prediction_set_of_a_fold_gives_no_metrics(rng):
    cases = calibration_data(rng, 400)
    rows = np.concatenate([np.flatnonzero(cases.y_true == 0)[:100], np.flatnonzero(cases.y_true == 1)[:20]])
    whole, found, _ = checked(cases.take(rows), DecisionOptions(per_class=True, ood=False))
    assert None not in whole.conformal.limits
    assert (found["prediction_sets"], found["answered"]) == (None, None)
    assert "'Tumor' is in every prediction set" in found["notes"][0]


def test_without_abstention_there_is_no_share_and_no_note(rng):
    _, found, _ = checked(calibration_data(rng, 100), DecisionOptions(coverage=None, ood=False))
    assert (found["prediction_sets"], found["retained"], found["answered"], found["notes"]) == (None, None, None, [])
