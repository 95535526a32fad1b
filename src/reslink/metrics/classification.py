"""Figures of a classifier: scikit-learn computes them, the bootstrap over groups gives their intervals.

Names follow the clinic; ``NAMES`` gives both vocabularies for reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_score,
    recall_score,
    roc_auc_score,
)

from reslink.errors import InputError
from reslink.metrics import weighted
from reslink.metrics.calibration import brier_score, expected_calibration_error
from reslink.metrics.intervals import (
    MIN_GROUPS,
    Draws,
    Estimate,
    GroupBootstrap,
    bootstrap_interval,
    few_groups,
    proportion_interval,
    undefined,
    without_interval,
)

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]
Points: TypeAlias = dict[str, float | None]

NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity (recall)",
    "specificity": "specificity",
    "ppv": "PPV (precision)",
    "npv": "NPV",
    "f1": "F1",
    "mcc": "MCC",
    "auroc": "AUROC",
    "auprc": "AUPRC (average precision)",
    "brier": "Brier score",
    "ece": "ECE (expected calibration error)",
}
"""Every metric with the name that a report prints, clinical and machine-learning words beside each other."""

PROPORTIONS = ("accuracy", "sensitivity", "specificity", "ppv", "npv")
BOTH_CLASSES = ("balanced_accuracy", "mcc", "auroc", "auprc")


def confusion(y_true: ArrayLike, y_pred: ArrayLike, num_classes: int) -> list[list[int]]:
    """Returns the counts of true class (row) by predicted class (column), K × K.

    Args:
        y_true: (n,) class indices.
        y_pred: (n,) class indices.
        num_classes: K.
    """
    counts: list[list[int]] = confusion_matrix(y_true, y_pred, labels=range(num_classes)).tolist()
    return counts


def point_metrics(y_true: ArrayLike, y_prob: ArrayLike, y_pred: ArrayLike, positive: int | None = None) -> Points:
    """Returns every metric of ``NAMES`` without an interval.

    Args:
        y_true: (n,) class indices.
        y_prob: (n, K) probabilities, rows sum to 1.
        y_pred: (n,) predicted class indices.
        positive: With two classes, the positive one; None is the last. With more, None gives macro averages over each
            class against the rest (accuracy and MCC are those of the whole table); an index gives that class against
            the rest.

    Returns:
        0 to 1 (MCC −1 to 1); None where a metric is not defined, such as AUROC with one class, PPV without a positive
        call, or a macro average over a class for which it is not defined.

    Raises:
        InputError: If there is no case, or shapes or values do not fit each other.
    """
    truth, scores, calls = _checked(y_true, y_prob, y_pred)
    num_classes = scores.shape[1]
    if positive is None and num_classes > 2:
        return _macro(truth, scores, calls)
    index = num_classes - 1 if positive is None else positive
    return _against_rest(truth == index, scores[:, index], calls == index)


def _against_rest(true: Bools, scores: Floats, called: Bools) -> Points:
    """Returns every metric of one class against the rest."""
    both = bool(true.any() and not true.all())
    points: Points = {
        "accuracy": float(accuracy_score(true, called)),
        "balanced_accuracy": float(balanced_accuracy_score(true, called)) if both else None,
        "sensitivity": _score(recall_score(true, called, zero_division=np.nan)),
        "specificity": _score(recall_score(~true, ~called, zero_division=np.nan)),
        "ppv": _score(precision_score(true, called, zero_division=np.nan)),
        "npv": _score(precision_score(~true, ~called, zero_division=np.nan)),
        "f1": _score(f1_score(true, called, zero_division=np.nan)),
        "mcc": float(matthews_corrcoef(true, called)) if both else None,
        "auroc": float(roc_auc_score(true, scores)) if both else None,
        "auprc": float(average_precision_score(true, scores)) if both else None,
        "brier": brier_score(true, scores),
        "ece": expected_calibration_error(true, scores),
    }
    return points


def _macro(truth: Ints, scores: Floats, calls: Ints) -> Points:
    """Returns the mean over classes of each metric; accuracy and MCC of the whole table."""
    each = [_against_rest(truth == k, scores[:, k], calls == k) for k in range(scores.shape[1])]
    points = {name: _mean([points[name] for points in each]) for name in NAMES}
    several = len(np.unique(truth)) > 1
    points["accuracy"] = float(accuracy_score(truth, calls))
    points["balanced_accuracy"] = points["sensitivity"]  # the mean recall, as scikit-learn defines it
    points["mcc"] = float(matthews_corrcoef(truth, calls)) if several else None
    return points


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _score(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def estimates(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    y_pred: ArrayLike,
    groups: Sequence[str],
    names: Sequence[str],
    seed: int = 0,
    draws: int = 1000,
) -> tuple[dict[str, Estimate], dict[str, dict[str, Estimate]]]:
    """Returns every metric with its 95 % interval, over all classes and for each class against the rest.

    Proportions (accuracy, sensitivity, specificity, PPV, NPV) get Wilson's interval where each group holds
    one case; all else the BCa bootstrap over groups. ``method`` says which, or why there is none: fewer than
    ``MIN_GROUPS`` groups, a class that is missing, draws that cannot tell.

    Args:
        y_true: (n,) class indices.
        y_prob: (n, K) probabilities, rows sum to 1.
        y_pred: (n,) predicted class indices.
        groups: (n,) the group of each case: patient or set of near copies; one name a case where all are independent.
        names: The K class names; with two, the last is the positive class.
        seed: Seed of the draws.
        draws: Bootstrap draws.

    Returns:
        The metrics of :func:`point_metrics`, and the same for each class name against the rest.

    Raises:
        InputError: If there is no case, or shapes or values do not fit each other.
    """
    truth, scores, calls = _checked(y_true, y_prob, y_pred)
    _check_sizes(scores, groups, names)
    bootstrap = GroupBootstrap(groups, draws, seed)
    drawn = bootstrap.apply(lambda weights: replicates(weights, truth, scores, calls))

    def view(key: str, classes: list[int], points: Points, right: Bools) -> dict[str, Estimate]:
        true, called = truth[:, None] == classes, calls[:, None] == classes
        made = View(points, true, called, right, [names[k] for k in classes], bootstrap)
        return {name: estimate_of(name, made, drawn[f"{key} {name}"]) for name in NAMES}

    every = list(range(len(names)))
    whole = [1] if len(names) == 2 else every
    metrics = view("all", whole, point_metrics(truth, scores, calls), truth == calls)
    per_class = {
        names[k]: view(str(k), [k], point_metrics(truth, scores, calls, k), (truth == k) == (calls == k)) for k in every
    }
    return metrics, per_class


def replicates(weights: Floats, truth: Ints, scores: Floats, calls: Ints) -> dict[str, Floats]:
    """Returns every metric of weighted samples, for a bootstrap.

    Args:
        weights: (m, n) how often each sample holds each case.
        truth: (n,) class indices.
        scores: (n, K) probabilities.
        calls: (n,) predicted class indices.

    Returns:
        ``"all auroc"`` and so on as in :func:`point_metrics`, and ``"0 auroc"`` for each class against the rest, each
        (m,); NaN where a sample leaves it undefined.
    """
    num_classes = scores.shape[1]
    table = weighted.tables(weights, truth, calls, num_classes)
    rest = weighted.one_against_rest(table)
    each = [
        weighted.from_table(rest[:, k]) | weighted.from_scores(weights, truth == k, scores[:, k]) for k in range(num_classes)
    ]
    whole = each[1] if num_classes == 2 else {name: np.mean([one[name] for one in each], axis=0) for name in NAMES}
    if num_classes > 2:
        right = np.trace(table, axis1=1, axis2=2)
        whole |= {"accuracy": weighted.ratio(right, table.sum(axis=(1, 2))), "mcc": weighted.matthews(table)}
        whole["balanced_accuracy"] = whole["sensitivity"]
    parts = {"all": whole} | {str(k): one for k, one in enumerate(each)}
    return {f"{key} {name}": values for key, part in parts.items() for name, values in part.items()}


@dataclass(frozen=True)
class View:
    """One way to look at the cases: all classes averaged, or one class against the rest.

    Attributes:
        points: The metrics of this view.
        true: (n, k) whether each case is of each of the k classes of the view.
        called: (n, k) whether each case was called so.
        right: (n,) whether the call counts as right.
        names: The k class names.
        bootstrap: The groups.
    """

    points: Points
    true: Bools
    called: Bools
    right: Bools
    names: list[str]
    bootstrap: GroupBootstrap

    def counted(self, name: str) -> Bools:
        """Returns (n, k): the cases that stand in the denominator of a metric, for each class."""
        chosen = {"sensitivity": self.true, "specificity": ~self.true, "ppv": self.called, "npv": ~self.called}
        return chosen.get(name, np.ones_like(self.true))

    def fewest_groups(self, name: str) -> int:
        """Returns the smallest number of groups that a metric rests on: of its denominator, of each class it needs."""
        needed = [self.counted(name)]
        if name in BOTH_CLASSES:
            needed = [self.true, ~self.true]
        return min(self.bootstrap.groups_of(column) for block in needed for column in block.T)

    def missing(self, name: str) -> str:
        """Returns why a metric is not defined."""
        for k, label in enumerate(self.names):
            true, called = self.true[:, k], self.called[:, k]
            if not true.any() and name not in ("specificity", "ppv", "npv"):
                return f"there is no case of {label!r}"
            if true.all() and name in ("specificity", *BOTH_CLASSES):
                return f"all cases are of {label!r}"
            if name == "ppv" and not called.any():
                return f"no case was called {label!r}"
            if name == "npv" and called.all():
                return f"every case was called {label!r}"
        return "the cases do not allow it"


def estimate_of(name: str, view: View, drawn: Draws) -> Estimate:
    """Returns one metric of a view with the interval that fits it.

    Args:
        name: A key of ``NAMES``.
        view: How the cases are looked at.
        drawn: What a bootstrap saw of the metric.
    """
    one_class = len(view.names) == 1
    counted = view.counted(name)[:, 0] if one_class else np.ones(len(view.true), dtype=bool)
    point, n, bootstrap = view.points[name], int(counted.sum()), view.bootstrap
    if point is None:
        return undefined(view.missing(name), n)
    if name == "accuracy" or (name in PROPORTIONS and one_class):
        found = proportion_interval(view.right[counted], bootstrap.index[counted], single=bootstrap.single)
        if found is not None:
            return found
    if (groups := view.fewest_groups(name)) < MIN_GROUPS:
        return without_interval(point, few_groups(groups), n)
    return bootstrap_interval(point, drawn, n, bootstrap.n_groups, biased=name == "ece", rests_on=groups)


def _checked(y_true: ArrayLike, y_prob: ArrayLike, y_pred: ArrayLike) -> tuple[Ints, Floats, Ints]:
    """Returns the three arrays, or says what is wrong with them."""
    truth, calls = np.asarray(y_true, dtype=np.int64), np.asarray(y_pred, dtype=np.int64)
    scores = np.asarray(y_prob, dtype=np.float64)
    fault = ""
    if truth.size == 0:
        fault = "There is no case"
    elif scores.ndim != 2 or scores.shape[1] < 2 or truth.shape != (len(scores),) or calls.shape != truth.shape:
        fault = f"Truth {truth.shape}, probabilities {scores.shape} and predictions {calls.shape} do not fit"
    elif min(truth.min(), calls.min()) < 0 or max(truth.max(), calls.max()) >= scores.shape[1]:
        fault = f"A class index lies outside 0 to {scores.shape[1] - 1}"
    elif not (np.isfinite(scores).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-4) and scores.min() >= 0):
        fault = "The probabilities of a case do not lie in 0 to 1 with the sum 1"
    if fault:
        raise InputError(
            fault,
            "Metrics take (n,) class indices, (n, K) probabilities and (n,) predictions of the same n > 0 cases",
            "Check how the cases were collected",
        )
    return truth, scores, calls


def _check_sizes(scores: Floats, groups: Sequence[str], names: Sequence[str]) -> None:
    if len(groups) != len(scores) or len(names) != scores.shape[1]:
        raise InputError(
            f"{len(groups)} groups and {len(names)} class names were given for probabilities of shape {scores.shape}",
            "There is a group for each case and a name for each class",
            "Check how the cases were collected",
        )
