"""Macro averages of several labels at once, and the rows in which a label is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from reslink.metrics.classification import METRIC_NAMES, classification_metrics
from reslink.metrics.several_labels.macro import macro_metrics
from reslink.metrics.several_labels.states import known_rows, strata, two_columns

NAMES = ("a", "b", "c")


@pytest.fixture
def data(rng):
    """120 cases of 60 groups with three labels, some unknown."""
    states = (rng.random((120, 3)) < (0.5, 0.3, 0.4)).astype(np.int64)
    probabilities = np.clip(0.5 * states + 0.7 * rng.random((120, 3)), 0.001, 0.999)
    states[rng.random((120, 3)) < 0.1] = -1
    return states, probabilities, (probabilities > 0.6).astype(np.int64), [f"g{i // 2}" for i in range(120)]


def test_the_mean_is_that_of_the_labels_on_their_known_cases(data):
    states, probabilities, predicted, groups = data
    macro = macro_metrics(states, probabilities, predicted, groups, NAMES)
    rows = known_rows(states)
    for name, score in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        expected = np.mean([score(states[rows[k], k], probabilities[rows[k], k]) for k in range(3)])
        assert macro[name].estimate == pytest.approx(expected)
    assert macro.keys() == METRIC_NAMES.keys()
    assert macro["auroc"].ci_low < macro["auroc"].estimate < macro["auroc"].ci_high
    assert macro["auroc"].method.startswith("mean over 3 labels; BCa bootstrap over 60 groups")


def test_the_labels_share_their_draws(data):
    """Three copies of one label are one label: also their intervals are the same."""
    states, probabilities, predicted, groups = data
    one = np.flatnonzero(states[:, 0] >= 0)
    groups = [groups[i] for i in one]
    copies = [array[one][:, [0, 0, 0]] for array in (states, probabilities, predicted)]
    macro = macro_metrics(*copies, groups, NAMES)
    single, _ = classification_metrics(states[one, 0], two_columns(probabilities[one, 0]), predicted[one, 0], groups, NAMES[:2])
    for name in ("auroc", "auprc"):
        assert (macro[name].ci_low, macro[name].ci_high) == pytest.approx((single[name].ci_low, single[name].ci_high))


def test_a_label_in_few_groups_gives_no_interval(data):
    states, probabilities, predicted, groups = data
    states[:, 2] = 0
    states[:4, 2] = 1
    auroc = macro_metrics(states, probabilities, predicted, groups, NAMES)["auroc"]
    assert auroc.estimate is not None
    assert auroc.ci_low is None
    assert "only 2 groups" in auroc.method


def test_a_label_that_is_in_no_case_is_left_out_and_named(data):
    states, probabilities, predicted, groups = data
    states[:, 1] = 0
    auroc = macro_metrics(states, probabilities, predicted, groups, NAMES)["auroc"]
    rows = known_rows(states)
    expected = np.mean([roc_auc_score(states[rows[k], k], probabilities[rows[k], k]) for k in (0, 2)])
    assert auroc.estimate == pytest.approx(expected)
    assert auroc.method.startswith("mean over 2 labels; without b, present in no case")
    states[:] = 0
    assert macro_metrics(states, probabilities, predicted, groups, NAMES)["auroc"].estimate is None


def test_a_metric_that_one_label_lacks_is_undefined(data):
    states, probabilities, predicted, groups = data
    predicted[:, 1] = 0
    assert "undefined for b" in macro_metrics(states, probabilities, predicted, groups, NAMES)["ppv"].method


def test_cases_are_in_the_stratum_of_their_rarest_label():
    held = np.array([[1, 1], [1, 0], [0, 0], [1, 0]]) > 0
    assert strata(held).tolist() == [1, 0, 2, 0]
