"""Differences of metrics: of two classifiers, and of a subgroup and all other cases."""

import numpy as np
import pytest

from reslink.metrics.classification import METRIC_NAMES, point_metrics
from reslink.metrics.differences import Predictions, metric_differences, subgroup_differences


def make_predictions(rng, y_true, noise, num_classes=2):
    logits = rng.normal(size=(len(y_true), num_classes)) * noise
    logits[np.arange(len(y_true)), y_true] += 1.5
    y_prob = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(y_prob, y_prob.argmax(axis=1))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_every_metric_is_the_difference_of_both_classifiers(rng, num_classes):
    y_true = rng.integers(0, num_classes, 240)
    a, b = make_predictions(rng, y_true, 1, num_classes), make_predictions(rng, y_true, 2, num_classes)
    result = metric_differences(y_true, a, b, [str(i // 2) for i in range(240)], "abc"[:num_classes], draws=200)
    first, second = (point_metrics(y_true, one.y_prob, one.y_pred) for one in (a, b))
    assert list(result) == list(METRIC_NAMES)
    for name, difference in result.items():
        assert difference.estimate == pytest.approx(first[name] - second[name])
        assert difference.ci_low <= difference.estimate <= difference.ci_high
    assert result["accuracy"].ci_low > 0


def test_cases_that_are_hard_for_both_cancel_out(rng):
    """The same answers but for a few cases: the paired interval is far narrower than either one alone."""
    y_true = rng.integers(0, 2, 300)
    a = make_predictions(rng, y_true, 2)
    changed = a.y_prob.copy()
    changed[:6] = changed[:6, ::-1]
    b = Predictions(changed, changed.argmax(axis=1))
    difference = metric_differences(y_true, a, b, [str(i) for i in range(300)], "ab", draws=300)["accuracy"]
    assert difference.ci_high - difference.ci_low < 0.05


def test_a_subgroup_is_compared_with_all_other_cases(rng):
    y_true, in_subgroup = rng.integers(0, 2, 400), np.arange(400) < 100
    good, bad = make_predictions(rng, y_true, 0.7), make_predictions(rng, y_true, 4)
    mixed = np.where(in_subgroup[:, None], bad.y_prob, good.y_prob)
    predictions = Predictions(mixed, mixed.argmax(axis=1))
    groups = [str(i // 2) for i in range(400)]
    result = subgroup_differences(y_true, predictions, in_subgroup, groups, "ab", ("accuracy", "auroc"), draws=300)
    correct = predictions.y_pred == y_true
    assert result["accuracy"].estimate == pytest.approx(correct[in_subgroup].mean() - correct[~in_subgroup].mean())
    assert result["accuracy"].ci_high < 0
    whole = subgroup_differences(y_true, predictions, np.ones(400, bool), groups, "ab", ("accuracy",))
    assert whole["accuracy"].method == "undefined: there is no other case to compare with"


def test_a_missing_class_and_few_groups_give_the_reason(rng):
    y_true = np.ones(40, int)
    a = make_predictions(rng, y_true, 2)
    result = metric_differences(y_true, a, a, [str(i) for i in range(40)], ["x", "y"], draws=20)
    assert result["auroc"].method == "undefined: all cases are of 'y'"
    result = metric_differences(np.arange(40) % 2, a, a, [str(i % 4) for i in range(40)], ["x", "y"], draws=20)
    assert result["auroc"].method.startswith("no interval: only 2 groups")
