"""Differences of metrics, with intervals over groups: between two classifiers, or between a subgroup and all other cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reslink.metrics.classification import (
    METRIC_NAMES,
    PROPORTIONS,
    MetricView,
    metric_estimate,
    point_metrics,
    weighted_metrics,
)
from reslink.metrics.intervals import (
    MIN_GROUPS,
    BootstrapDraws,
    Estimate,
    GroupBootstrap,
    bootstrap_interval,
    too_few_groups,
    undefined,
    without_interval,
)
from reslink.metrics.paired_proportions import independent_difference, paired_difference

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Predictions:
    """The predictions of one classifier for a set of cases.

    Attributes:
        y_prob: (n, K) probabilities.
        y_pred: (n,) predicted class indices.
    """

    y_prob: Floats
    y_pred: Ints


def metric_differences(
    y_true: ArrayLike,
    first: Predictions,
    second: Predictions,
    groups: Sequence[str],
    names: Sequence[str],
    seed: int = 0,
    draws: int = 1000,
) -> dict[str, Estimate]:
    """Returns each metric of one classifier minus that of another, with its interval over groups.

    Both classifiers are evaluated on the same bootstrap draws, so cases that are hard for both cancel out. Accuracy, and
    with two classes sensitivity and specificity, have the interval of
    :func:`reslink.metrics.paired_proportions.paired_difference`.

    Args:
        y_true: (n,) class indices.
        first: Predictions of the first classifier.
        second: Predictions of the second classifier for the same cases.
        groups: (n,) the patient or duplicate group of each case.
        names: The K class names; with two, the last is the positive class.
        seed: Seed of the draws.
        draws: Number of bootstrap draws.

    Returns:
        The metrics of ``classification.METRIC_NAMES``, from −1 to 1 (MCC −2 to 2).

    Raises:
        InputError: If the arrays are empty, or shapes or values are inconsistent.
    """
    truth = np.asarray(y_true, dtype=np.int64)
    bootstrap = GroupBootstrap(groups, draws, seed)
    drawn = bootstrap.apply(lambda weights: _subtract(_averaged(weights, truth, first), _averaged(weights, truth, second)))
    views = [_view(truth, predictions, names, bootstrap) for predictions in (first, second)]
    estimates = {name: _difference(name, views, drawn[name], len(truth)) for name in METRIC_NAMES}
    correct = (first.y_pred == truth).astype(np.float64) - (second.y_pred == truth)
    denominators = {"accuracy": np.ones(len(truth), dtype=bool)}
    if len(names) == 2:
        denominators |= {"sensitivity": truth == 1, "specificity": truth == 0}
    for name, selected in denominators.items():
        if estimates[name].estimate is not None:
            estimates[name] = paired_difference(correct[selected], bootstrap.index[selected])
    return estimates


def subgroup_differences(
    y_true: ArrayLike,
    predictions: Predictions,
    in_subgroup: ArrayLike,
    groups: Sequence[str],
    names: Sequence[str],
    metrics: Sequence[str] = tuple(METRIC_NAMES),
    seed: int = 0,
    draws: int = 1000,
) -> dict[str, Estimate]:
    """Returns metrics of a subgroup minus those of all other cases, with intervals over groups.

    Args:
        y_true: (n,) class indices.
        predictions: Predictions of the classifier.
        in_subgroup: (n,) whether a case belongs to the subgroup.
        groups: (n,) the patient or duplicate group of each case; one may have cases inside and outside the subgroup.
        names: The K class names; with two, the last is the positive class.
        metrics: Keys of ``classification.METRIC_NAMES``.
        seed: Seed of the draws.
        draws: Number of bootstrap draws.

    Raises:
        InputError: If shapes or values are inconsistent.
    """
    truth, selected = np.asarray(y_true, dtype=np.int64), np.asarray(in_subgroup, dtype=bool)
    if selected.all() or not selected.any():
        return {name: undefined("there is no other case to compare with", len(truth)) for name in metrics}
    bootstrap = GroupBootstrap(groups, draws, seed)
    drawn = bootstrap.apply(lambda weights: _both_subsets(weights, selected, truth, predictions))
    views = []
    for subset in (selected, ~selected):
        subset_groups = [group for group, kept in zip(groups, subset, strict=True) if kept]
        subset_predictions = Predictions(predictions.y_prob[subset], predictions.y_pred[subset])
        views.append(_view(truth[subset], subset_predictions, names, GroupBootstrap(subset_groups, draws, seed)))
    differences = {}
    for name in metrics:
        if name in PROPORTIONS:
            separate = [metric_estimate(name, view, drawn[f"{k} {name}"]) for k, view in enumerate(views)]
            differences[name] = independent_difference(*separate)
        else:
            differences[name] = _difference(name, views, drawn[name], len(truth), bootstrap.n_groups)
    return differences


def _both_subsets(weights: Floats, selected: Bools, truth: Ints, predictions: Predictions) -> dict[str, Floats]:
    """Returns the metrics of the subgroup (``"0 auroc"``), of the other cases (``"1 auroc"``), and their differences."""
    both = [_averaged(weights * subset, truth, predictions) for subset in (selected, ~selected)]
    separate = {f"{k} {name}": values for k, metrics in enumerate(both) for name, values in metrics.items()}
    return separate | _subtract(*both)


def _averaged(weights: Floats, truth: Ints, predictions: Predictions) -> dict[str, Floats]:
    metrics = weighted_metrics(weights, truth, predictions.y_prob, predictions.y_pred)
    return {name: metrics[f"all {name}"] for name in METRIC_NAMES}


def _subtract(first: dict[str, Floats], second: dict[str, Floats]) -> dict[str, Floats]:
    return {name: first[name] - second[name] for name in first}


def _view(truth: Ints, predictions: Predictions, names: Sequence[str], bootstrap: GroupBootstrap) -> MetricView:
    """Returns the view of the cases over all classes."""
    classes = [1] if len(names) == 2 else list(range(len(names)))
    in_class, predicted = truth[:, None] == classes, predictions.y_pred[:, None] == classes
    points = point_metrics(truth, predictions.y_prob, predictions.y_pred)
    correct = truth == predictions.y_pred
    return MetricView(points, in_class, predicted, correct, [names[k] for k in classes], bootstrap)


def _difference(name: str, views: Sequence[MetricView], drawn: BootstrapDraws, n: int, n_groups: int | None = None) -> Estimate:
    """Returns a metric of the first view minus that of the second, with the interval of its draws."""
    first, second = (view.points[name] for view in views)
    if first is None or second is None:
        return undefined(next(view for view in views if view.points[name] is None).why_undefined(name), n)
    min_groups = min(view.fewest_groups(name)[0] for view in views)
    if min_groups < MIN_GROUPS:
        return without_interval(first - second, too_few_groups(min_groups), n)
    span = 2.0 if name == "mcc" else 1.0
    return bootstrap_interval(
        first - second,
        drawn,
        n,
        n_groups or views[0].bootstrap.n_groups,
        biased=name == "ece",
        limits=(-span, span),
        effective_groups=min_groups,
    )
