"""Metrics of a classifier: scikit-learn computes them, a bootstrap over groups gives their intervals.

The keys are the clinical names; ``METRIC_NAMES`` pairs them with the machine-learning names for reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import sklearn.metrics as sk
from numpy.typing import ArrayLike, NDArray

from reslink.errors import InputError
from reslink.metrics import weighted
from reslink.metrics.calibration import brier_score_loss, expected_calibration_error
from reslink.metrics.intervals import (
    MIN_GROUPS,
    BootstrapDraws,
    Estimate,
    GroupBootstrap,
    bootstrap_interval,
    proportion_interval,
    too_few_groups,
    undefined,
    without_interval,
)

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]
PointMetrics: TypeAlias = dict[str, float | None]

METRIC_NAMES = {
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
"""Every metric with the name that a report prints: the clinical name, and the machine-learning name where it differs."""

PROPORTIONS = ("accuracy", "sensitivity", "specificity", "ppv", "npv")
BOTH_CLASSES = ("balanced_accuracy", "mcc", "auroc", "auprc")


def confusion_matrix(y_true: ArrayLike, y_pred: ArrayLike, num_classes: int) -> list[list[int]]:
    """Returns the counts of true class (row) by predicted class (column), K × K.

    Args:
        y_true: (n,) class indices.
        y_pred: (n,) class indices.
        num_classes: K.
    """
    counts: list[list[int]] = sk.confusion_matrix(y_true, y_pred, labels=range(num_classes)).tolist()
    return counts


def point_metrics(y_true: ArrayLike, y_prob: ArrayLike, y_pred: ArrayLike, pos_label: int | None = None) -> PointMetrics:
    """Returns every metric of ``METRIC_NAMES`` without an interval.

    Args:
        y_true: (n,) class indices.
        y_prob: (n, K) probabilities, rows sum to 1.
        y_pred: (n,) predicted class indices.
        pos_label: With two classes, the positive one; None is the last. With more, None gives macro averages of each
            class against the rest (accuracy and MCC are multiclass); an index gives that class against the rest.

    Returns:
        0 to 1 (MCC −1 to 1). None where a metric is undefined, such as AUROC with one class, PPV without a positive
        prediction, or a macro average with an undefined term.

    Raises:
        InputError: If the arrays are empty, or shapes or values are inconsistent.
    """
    truth, probabilities, predicted = _check_arrays(y_true, y_prob, y_pred)
    num_classes = probabilities.shape[1]
    if pos_label is None and num_classes > 2:
        return _macro(truth, probabilities, predicted)
    index = num_classes - 1 if pos_label is None else pos_label
    return _one_vs_rest(truth == index, probabilities[:, index], predicted == index)


def _one_vs_rest(y_true: Bools, y_prob: Floats, y_pred: Bools) -> PointMetrics:
    """Returns every metric of one class against the rest."""
    both = bool(y_true.any() and not y_true.all())
    table = weighted.confusion_matrices(np.ones((1, len(y_true))), y_true.astype(int), y_pred.astype(int), 2)
    return {
        **{name: _none_if_nan(value.item()) for name, value in weighted.metrics_from_confusion(table).items()},
        "auroc": float(sk.roc_auc_score(y_true, y_prob)) if both else None,
        "auprc": float(sk.average_precision_score(y_true, y_prob)) if both else None,
        "brier": brier_score_loss(y_true, y_prob),
        "ece": expected_calibration_error(y_true, y_prob),
    }


def _macro(y_true: Ints, y_prob: Floats, y_pred: Ints) -> PointMetrics:
    """Returns the mean over classes of each metric; accuracy and MCC are multiclass."""
    per_class = [_one_vs_rest(y_true == k, y_prob[:, k], y_pred == k) for k in range(y_prob.shape[1])]
    points = {name: _mean([metrics[name] for metrics in per_class]) for name in METRIC_NAMES}
    points["accuracy"] = float(sk.accuracy_score(y_true, y_pred))
    points["balanced_accuracy"] = points["sensitivity"]  # the mean recall, as scikit-learn defines it
    points["mcc"] = float(sk.matthews_corrcoef(y_true, y_pred)) if len(np.unique(y_true)) > 1 else None
    return points


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if len(defined) == len(values) else None


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def classification_metrics(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    y_pred: ArrayLike,
    groups: Sequence[str],
    names: Sequence[str],
    seed: int = 0,
    draws: int = 1000,
) -> tuple[dict[str, Estimate], dict[str, dict[str, Estimate]]]:
    """Returns every metric with its 95 % interval, over all classes and for each class against the rest.

    Proportions (accuracy, sensitivity, specificity, PPV, NPV) have Wilson's interval where each group has one case. All
    other intervals are BCa bootstrap intervals over groups. ``method`` names the method, or the reason for a missing
    interval: fewer than ``MIN_GROUPS`` groups, a missing class, or too many undefined draws.

    Args:
        y_true: (n,) class indices.
        y_prob: (n, K) probabilities, rows sum to 1.
        y_pred: (n,) predicted class indices.
        groups: (n,) the group of each case: patient or duplicate group; one name per case where all are independent.
        names: The K class names; with two, the last is the positive class.
        seed: Seed of the draws.
        draws: Number of bootstrap draws.

    Returns:
        The metrics of :func:`point_metrics`, and the same for each class name against the rest.

    Raises:
        InputError: If the arrays are empty, or shapes or values are inconsistent.
    """
    truth, probabilities, predictions = _check_arrays(y_true, y_prob, y_pred)
    _check_sizes(probabilities, groups, names)
    bootstrap = GroupBootstrap(groups, draws, seed)
    drawn = bootstrap.apply(lambda weights: weighted_metrics(weights, truth, probabilities, predictions))

    def with_intervals(key: str, classes: list[int], points: PointMetrics, correct: Bools) -> dict[str, Estimate]:
        in_class, predicted = truth[:, None] == classes, predictions[:, None] == classes
        view = MetricView(points, in_class, predicted, correct, [names[k] for k in classes], bootstrap)
        return {name: metric_estimate(name, view, drawn[f"{key} {name}"]) for name in METRIC_NAMES}

    all_classes = list(range(len(names)))
    averaged, points = [1] if len(names) == 2 else all_classes, point_metrics(truth, probabilities, predictions)
    metrics = with_intervals("all", averaged, points, truth == predictions)
    per_class = {}
    for k in all_classes:
        points = point_metrics(truth, probabilities, predictions, k)
        per_class[names[k]] = with_intervals(str(k), [k], points, (truth == k) == (predictions == k))
    return metrics, per_class


def weighted_metrics(weights: Floats, y_true: Ints, y_prob: Floats, y_pred: Ints) -> dict[str, Floats]:
    """Returns every metric of weighted samples, for a bootstrap.

    Args:
        weights: (m, n) how often each sample contains each case.
        y_true: (n,) class indices.
        y_prob: (n, K) probabilities.
        y_pred: (n,) predicted class indices.

    Returns:
        ``"all auroc"`` and so on as in :func:`point_metrics`, and ``"0 auroc"`` for each class against the rest, each
        (m,); NaN where a sample leaves it undefined.
    """
    num_classes = y_prob.shape[1]
    table = weighted.confusion_matrices(weights, y_true, y_pred, num_classes)
    binary_tables = weighted.one_vs_rest(table)
    per_class = [
        weighted.metrics_from_confusion(binary_tables[:, k])
        | weighted.metrics_from_probabilities(weights, y_true == k, y_prob[:, k])
        for k in range(num_classes)
    ]
    if num_classes == 2:
        averaged = per_class[1]
    else:
        averaged = {name: np.mean([metrics[name] for metrics in per_class], axis=0) for name in METRIC_NAMES}
        correct = np.trace(table, axis1=1, axis2=2)
        averaged |= {
            "accuracy": weighted.ratio(correct, table.sum(axis=(1, 2))),
            "mcc": weighted.matthews_corrcoef(table),
            "balanced_accuracy": averaged["sensitivity"],
        }
    by_key = {"all": averaged} | {str(k): metrics for k, metrics in enumerate(per_class)}
    return {f"{key} {name}": values for key, metrics in by_key.items() for name, values in metrics.items()}


@dataclass(frozen=True)
class MetricView:
    """The cases from the view of one average: over all classes, or one class against the rest.

    Attributes:
        points: The metrics of this view.
        in_class: (n, k) whether each case belongs to each of the k classes of the view.
        predicted: (n, k) whether each case was predicted as each class.
        correct: (n,) whether the prediction is correct in this view.
        names: The k class names.
        bootstrap: The groups.
    """

    points: PointMetrics
    in_class: Bools
    predicted: Bools
    correct: Bools
    names: list[str]
    bootstrap: GroupBootstrap

    def denominator(self, name: str) -> Bools:
        """Returns (n, k): the cases in the denominator of a metric, for each class."""
        denominators = {
            "sensitivity": self.in_class,
            "specificity": ~self.in_class,
            "ppv": self.predicted,
            "npv": ~self.predicted,
        }
        return denominators.get(name, np.ones_like(self.in_class))

    def fewest_groups(self, name: str) -> tuple[int, str]:
        """Returns the smallest number of groups in the denominator of a metric or in each class, and their kind in words."""
        inside, outside = "of class {!r}", "of other classes than {!r}"
        kinds = {"sensitivity": inside, "specificity": outside, "ppv": "predicted as {!r}", "npv": "not predicted as {!r}"}
        blocks = [(self.denominator(name), kinds.get(name, ""))]
        if name in BOTH_CLASSES:
            blocks = [(self.in_class, inside), (~self.in_class, outside)]
        counts = [
            (self.bootstrap.count_groups(column), kind.format(label))
            for block, kind in blocks
            for column, label in zip(block.T, self.names, strict=True)
        ]
        return min(counts, key=lambda count: count[0])

    def why_undefined(self, name: str) -> str:
        """Returns the reason why a metric is undefined."""
        for k, label in enumerate(self.names):
            in_class, predicted = self.in_class[:, k], self.predicted[:, k]
            if not in_class.any() and name not in ("specificity", "ppv", "npv"):
                return f"there is no case of {label!r}"
            if in_class.all() and name in ("specificity", *BOTH_CLASSES):
                return f"all cases are of {label!r}"
            if name == "ppv" and not predicted.any():
                return f"no case was predicted as {label!r}"
            if name == "npv" and predicted.all():
                return f"every case was predicted as {label!r}"
        return "the cases do not allow it"


def never_predicted(y_true: Ints, y_pred: Ints, names: Sequence[str]) -> dict[str, int]:
    """Returns the classes that occur and are never predicted, with their number of cases.

    Args:
        y_true: (n,) class indices.
        y_pred: (n,) predicted class indices.
        names: The class names.
    """
    return {names[k]: int((y_true == k).sum()) for k in np.setdiff1d(y_true, y_pred)}


def metric_estimate(name: str, view: MetricView, drawn: BootstrapDraws) -> Estimate:
    """Returns one metric of a view with the appropriate interval.

    Args:
        name: A key of ``METRIC_NAMES``.
        view: The view of the cases.
        drawn: The bootstrap values of the metric.
    """
    one_class = len(view.names) == 1
    denominator = view.denominator(name)[:, 0] if one_class else np.ones(len(view.in_class), dtype=bool)
    point, n, bootstrap = view.points[name], int(denominator.sum()), view.bootstrap
    if point is None:
        return undefined(view.why_undefined(name), n)
    if name == "accuracy" or (name in PROPORTIONS and one_class):
        binomial = proportion_interval(
            view.correct[denominator],
            bootstrap.index[denominator],
            one_case_per_group=bootstrap.one_case_per_group,
        )
        if binomial is not None:
            return binomial
    fewest, kind = view.fewest_groups(name)
    if fewest < MIN_GROUPS:
        return without_interval(point, too_few_groups(fewest, kind), n)
    return bootstrap_interval(point, drawn, n, bootstrap.n_groups, biased=name == "ece", effective_groups=fewest)


def _check_arrays(y_true: ArrayLike, y_prob: ArrayLike, y_pred: ArrayLike) -> tuple[Ints, Floats, Ints]:
    """Returns the three arrays if they are consistent."""
    truth, predicted = np.asarray(y_true, dtype=np.int64), np.asarray(y_pred, dtype=np.int64)
    probabilities = np.asarray(y_prob, dtype=np.float64)
    problem = ""
    if truth.size == 0:
        problem = "The arrays are empty"
    elif probabilities.ndim != 2 or probabilities.shape[1] < 2:
        problem = f"The probabilities have the shape {probabilities.shape}"
    elif truth.shape != (len(probabilities),) or predicted.shape != truth.shape:
        problem = f"The shapes {truth.shape}, {probabilities.shape} and {predicted.shape} do not match"
    elif min(truth.min(), predicted.min()) < 0 or max(truth.max(), predicted.max()) >= probabilities.shape[1]:
        problem = f"A class index is outside 0 to {probabilities.shape[1] - 1}"
    elif not (
        np.isfinite(probabilities).all() and np.allclose(probabilities.sum(axis=1), 1, atol=1e-4) and probabilities.min() >= 0
    ):
        problem = "The probabilities of a case are not between 0 and 1 with the sum 1"
    if problem:
        raise InputError(
            problem,
            "Metrics need (n,) class indices, (n, K) probabilities and (n,) predictions of the same n > 0 cases",
            "Check the arrays",
        )
    return truth, probabilities, predicted


def _check_sizes(y_prob: Floats, groups: Sequence[str], names: Sequence[str]) -> None:
    if len(groups) != len(y_prob) or len(names) != y_prob.shape[1]:
        raise InputError(
            f"There are {len(groups)} groups and {len(names)} class names for probabilities of shape {y_prob.shape}",
            "Each case needs a group and each class a name",
            "Check the arrays",
        )
