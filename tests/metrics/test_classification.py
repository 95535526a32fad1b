"""Metrics against scikit-learn and against hand-computed tables."""

import json
import time
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from reslink.errors import InputError
from reslink.metrics.classification import METRIC_NAMES, classification_metrics, confusion_matrix, point_metrics
from reslink.metrics.intervals import MIN_GROUPS


def cohort(rng, n=200, num_classes=2, signal=1.0):
    y_true = rng.integers(0, num_classes, n)
    logits = rng.normal(size=(n, num_classes))
    logits[np.arange(n), y_true] += signal
    y_prob = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return y_true, y_prob, y_prob.argmax(axis=1)


def test_metrics_of_a_hand_computed_table():
    # 3 true positives, 1 missed, 2 false alarms, 4 rightly left alone
    y_true = np.repeat([1, 1, 0, 0], [3, 1, 2, 4])
    y_pred = np.repeat([1, 0, 1, 0], [3, 1, 2, 4])
    positive = np.where(y_pred == 1, 0.8, 0.3)
    points = point_metrics(y_true, np.stack([1 - positive, positive], axis=1), y_pred)
    expected = {
        "accuracy": 7 / 10,
        "balanced_accuracy": (3 / 4 + 4 / 6) / 2,
        "sensitivity": 3 / 4,
        "specificity": 4 / 6,
        "ppv": 3 / 5,
        "npv": 4 / 5,
        "f1": 6 / 9,
        "mcc": (3 * 4 - 2 * 1) / np.sqrt(5 * 4 * 6 * 5),
        "auroc": (3 * 4 + 0.5 * (3 * 2 + 1 * 4)) / 24,
        "auprc": 3 / 4 * 3 / 5 + 1 / 4 * 4 / 10,
        "brier": (3 * 0.04 + 0.49 + 2 * 0.64 + 4 * 0.09) / 10,
        "ece": (abs(3 - 5 * 0.8) + abs(1 - 5 * 0.3)) / 10,
    }
    assert points == pytest.approx(expected)
    assert confusion_matrix(y_true, y_pred, 2) == [[4, 2], [1, 3]]


def test_the_last_of_two_classes_is_positive(rng):
    y_true, y_prob, y_pred = cohort(rng)
    points = point_metrics(y_true, y_prob, y_pred)
    assert points["sensitivity"] == sk.recall_score(y_true, y_pred, pos_label=1)
    assert points["ppv"] == sk.precision_score(y_true, y_pred, pos_label=1)
    assert points["auroc"] == sk.roc_auc_score(y_true, y_prob[:, 1])
    assert point_metrics(y_true, y_prob, y_pred, pos_label=0)["sensitivity"] == points["specificity"]


def test_more_classes_give_the_macro_averages_of_scikit_learn(rng):
    y_true, y_prob, y_pred = cohort(rng, num_classes=4)
    points = point_metrics(y_true, y_prob, y_pred)
    assert points["accuracy"] == sk.accuracy_score(y_true, y_pred)
    assert points["sensitivity"] == pytest.approx(sk.recall_score(y_true, y_pred, average="macro"))
    assert points["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y_true, y_pred))
    assert points["ppv"] == pytest.approx(sk.precision_score(y_true, y_pred, average="macro"))
    assert points["f1"] == pytest.approx(sk.f1_score(y_true, y_pred, average="macro"))
    assert points["mcc"] == pytest.approx(sk.matthews_corrcoef(y_true, y_pred))
    assert points["auroc"] == pytest.approx(sk.roc_auc_score(y_true, y_prob, multi_class="ovr", average="macro"))
    one_hot = np.eye(4)[y_true]
    assert points["auprc"] == pytest.approx(sk.average_precision_score(one_hot, y_prob, average="macro"))
    assert points["brier"] == pytest.approx(np.mean((one_hot - y_prob) ** 2))


def test_a_single_class_gives_none_with_the_reason():
    y_true, y_pred = np.ones(20, int), np.r_[np.ones(15, int), np.zeros(5, int)]
    y_prob = np.tile([0.4, 0.6], (20, 1))
    metrics, _ = classification_metrics(y_true, y_prob, y_pred, [str(i) for i in range(20)], ["Healthy", "Tumor"])
    for name in ("auroc", "auprc", "mcc", "balanced_accuracy", "specificity"):
        assert metrics[name].estimate is None
        assert metrics[name].ci_low is None
        assert metrics[name].method == "undefined: all cases are of 'Tumor'"
    assert metrics["sensitivity"].estimate == 0.75
    healthy, _ = classification_metrics(1 - y_true, y_prob, y_pred, [str(i) for i in range(20)], ["Healthy", "Tumor"])
    assert healthy["sensitivity"].method == "undefined: there is no case of 'Tumor'"
    assert healthy["sensitivity"].n == 0


def test_a_class_that_is_never_predicted_has_no_ppv(rng):
    y_true, y_prob, _ = cohort(rng, num_classes=3)
    y_pred = np.where(y_prob[:, 0] > 0.4, 0, 1)
    metrics, per_class = classification_metrics(y_true, y_prob, y_pred, [str(i) for i in range(200)], ["a", "b", "c"])
    assert metrics["ppv"].method == "undefined: no case was predicted as 'c'"
    assert per_class["c"]["ppv"].estimate is None
    assert per_class["c"]["f1"].estimate == 0.0
    assert per_class["c"]["sensitivity"].estimate == 0.0


def test_wilson_with_one_case_per_group_and_bootstrap_otherwise(rng):
    y_true, y_prob, y_pred = cohort(rng)
    alone, _ = classification_metrics(y_true, y_prob, y_pred, [str(i) for i in range(200)], ["a", "b"])
    paired, _ = classification_metrics(y_true, y_prob, y_pred, [str(i // 5) for i in range(200)], ["a", "b"])
    for name in ("accuracy", "sensitivity", "specificity", "ppv", "npv"):
        assert alone[name].method == "Wilson score over cases"
        assert paired[name].method == "BCa bootstrap over 40 groups, 1000 draws"
    assert alone["auroc"].method == "BCa bootstrap over 200 groups, 1000 draws"
    assert alone["accuracy"].estimate == paired["accuracy"].estimate
    assert alone["sensitivity"].n == (y_true == 1).sum()
    assert alone["ppv"].n == (y_pred == 1).sum()


def test_duplicates_in_one_group_do_not_narrow_an_interval(rng):
    y_true, y_prob, y_pred = cohort(rng, n=60)
    groups = [str(i) for i in range(60)]
    once, _ = classification_metrics(y_true, y_prob, y_pred, groups, ["a", "b"])
    four = [np.repeat(values, 4, axis=0) for values in (y_true, y_prob, y_pred)]
    copied, _ = classification_metrics(*four, np.repeat(groups, 4).tolist(), ["a", "b"])
    for name in ("auroc", "f1", "brier", "mcc"):
        assert copied[name].estimate == pytest.approx(once[name].estimate)
        assert copied[name].ci_low == pytest.approx(once[name].ci_low)
        assert copied[name].ci_high == pytest.approx(once[name].ci_high)


def test_few_groups_give_no_interval_with_the_reason(rng):
    y_true, y_prob, y_pred = cohort(rng, n=90)
    metrics, _ = classification_metrics(y_true, y_prob, y_pred, [str(i % (MIN_GROUPS - 1)) for i in range(90)], ["a", "b"])
    assert metrics["auroc"].estimate is not None
    assert metrics["auroc"].ci_low is None
    assert metrics["auroc"].method.startswith("no interval: only 9 groups")


def test_few_positive_groups_among_many_give_no_interval(rng):
    y_true, y_prob, y_pred = cohort(rng, n=90)
    y_true = np.r_[np.ones(5, int), np.zeros(85, int)]
    metrics, _ = classification_metrics(y_true, y_prob, y_pred, [str(i) for i in range(90)], ["a", "b"])
    assert metrics["auroc"].method.startswith("no interval: only 5 groups of class 'b'; with fewer than 10 groups")
    assert metrics["sensitivity"].method.startswith("Wilson")


def test_a_perfect_classifier_has_exact_intervals_over_groups():
    y_true = np.repeat([0, 1], 60)
    y_prob = np.eye(2)[y_true] * 0.8 + 0.1
    metrics, _ = classification_metrics(y_true, y_prob, y_true, [str(i // 4) for i in range(120)], ["a", "b"])
    assert metrics["sensitivity"].ci_high == 1.0
    assert metrics["sensitivity"].ci_low == pytest.approx(0.025 ** (1 / 15))
    assert metrics["sensitivity"].n == 60
    assert metrics["auroc"].method == "no interval: all bootstrap draws give the same value"


def test_no_nan_and_estimates_are_inside_their_intervals(rng):
    for num_classes, groups in ((2, 200), (3, 40), (2, 4), (5, 12)):
        names = [f"c{k}" for k in range(num_classes)]
        y_true, y_prob, y_pred = cohort(rng, num_classes=num_classes, signal=rng.uniform(0, 4))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            metrics, per_class = classification_metrics(
                y_true, y_prob, y_pred, [str(i % groups) for i in range(200)], names, draws=200
            )
        assert list(metrics) == list(METRIC_NAMES)
        assert list(per_class) == names
        for part in (metrics, *per_class.values()):
            json.dumps({name: value.as_dict() for name, value in part.items()}, allow_nan=False)
            for value in part.values():
                if value.ci_low is not None:
                    assert value.ci_low <= value.estimate <= value.ci_high
                else:
                    assert value.method.startswith(("undefined: ", "no interval: "))


@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_thousand_draws_of_600_cases_take_seconds(rng, num_classes):
    y_true, y_prob, y_pred = cohort(rng, n=600, num_classes=num_classes)
    names, groups = [str(k) for k in range(num_classes)], [str(i // 2) for i in range(600)]
    start = time.process_time()
    classification_metrics(y_true, y_prob, y_pred, groups, names)
    assert time.process_time() - start < 10


def test_equal_seeds_give_equal_intervals(rng):
    y_true, y_prob, y_pred = cohort(rng)
    groups, names = [str(i // 2) for i in range(200)], ["a", "b"]
    first = classification_metrics(y_true, y_prob, y_pred, groups, names, draws=200)
    assert classification_metrics(y_true, y_prob, y_pred, groups, names, draws=200) == first
    assert classification_metrics(y_true, y_prob, y_pred, groups, names, draws=200, seed=1) != first


@pytest.mark.parametrize(
    ("y_true", "y_prob", "y_pred", "message"),
    [
        ([], np.zeros((0, 2)), [], "The arrays are empty"),
        ([0, 1], np.full((3, 2), 0.5), [0, 1], "do not match"),
        ([0, 2], np.full((2, 2), 0.5), [0, 1], "outside 0 to 1"),
        ([0, 1], np.array([[0.5, 0.5], [np.nan, 1]]), [0, 1], "sum 1"),
        ([0, 1], np.array([[0.5, 0.4], [0.5, 0.5]]), [0, 1], "sum 1"),
    ],
)
def test_inconsistent_arrays_raise(y_true, y_prob, y_pred, message):
    with pytest.raises(InputError, match=message):
        point_metrics(y_true, y_prob, y_pred)


def test_groups_and_names_must_match(rng):
    y_true, y_prob, y_pred = cohort(rng, n=20)
    with pytest.raises(InputError, match="19 groups"):
        classification_metrics(y_true, y_prob, y_pred, ["a"] * 19, ["a", "b"])
    with pytest.raises(InputError, match="3 class names"):
        classification_metrics(y_true, y_prob, y_pred, ["a"] * 20, ["a", "b", "c"])
