"""Metrics of subgroups of the cases: by scanner, sex, age, site, or any other column of the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.case import Case
from reslink.evaluation.selective import answer_estimates
from reslink.evaluation.subgroup_columns import NOT_STATED, assign_subgroups, number_of
from reslink.labels import Labels
from reslink.metrics.classification import classification_metrics
from reslink.metrics.differences import Predictions, subgroup_differences

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

COMPARED_METRICS = ("accuracy", "sensitivity", "specificity", "auroc")


@dataclass(frozen=True)
class LabeledPredictions:
    """Predictions with their true classes and groups.

    Attributes:
        y_true: (n,) class indices.
        predictions: The predictions.
        groups: (n,) patient or duplicate group of each case.
        labels: The K classes.
        seed: Seed of the bootstrap.
        abstain: (n,) whether the bundle abstains from each case; None if it cannot abstain.
    """

    y_true: Ints
    predictions: Predictions
    groups: Sequence[str]
    labels: Labels
    seed: int = 0
    abstain: NDArray[np.bool_] | None = None


def subgroups(cases: Sequence[Case], columns: Sequence[str], labeled: LabeledPredictions) -> dict[str, Any]:
    """Returns the metrics of each subgroup, and their difference from all other cases.

    Args:
        cases: The n cases.
        columns: See :func:`assign_subgroups`.
        labeled: The predictions for the cases.

    Returns:
        By column and value: ``n``, ``n_groups``, ``metrics`` (as in ``evaluation.json``), ``difference_from_others`` (the
        metric in the subgroup minus the metric of all other cases, for accuracy, sensitivity, specificity and AUROC), and
        ``selective`` (:func:`reslink.evaluation.selective.answer_estimates`; empty if the bundle cannot abstain).

    Raises:
        UsageError: As :func:`assign_subgroups`.
    """
    return {column: _metrics_by_value(np.array(assign_subgroups(cases, column)), labeled) for column in columns}


def _metrics_by_value(values: NDArray[np.str_], labeled: LabeledPredictions) -> dict[str, Any]:
    names = sorted(set(values.tolist()) - {NOT_STATED}, key=_sort_key) + [NOT_STATED] * bool((values == NOT_STATED).any())
    return {name: _subgroup_metrics(values == name, labeled) for name in names}


def _sort_key(name: str) -> tuple[float, str]:
    number = number_of(name.split(" to ")[0])
    return (np.inf if number is None else number, name)


def _subgroup_metrics(inside: NDArray[np.bool_], labeled: LabeledPredictions) -> Mapping[str, Any]:
    groups = [group for group, is_inside in zip(labeled.groups, inside, strict=True) if is_inside]
    y_true, predictions, names, seed = labeled.y_true, labeled.predictions, labeled.labels.names, labeled.seed
    metrics, _ = classification_metrics(
        y_true[inside], predictions.y_prob[inside], predictions.y_pred[inside], groups, names, seed
    )
    differences = subgroup_differences(y_true, predictions, inside, labeled.groups, names, COMPARED_METRICS, seed)
    return {
        "n": int(inside.sum()),
        "n_groups": len(set(groups)),
        "metrics": {name: value.as_dict() for name, value in metrics.items()},
        "difference_from_others": {name: value.as_dict() for name, value in differences.items()},
        "selective": {}
        if labeled.abstain is None
        else answer_estimates(~labeled.abstain[inside], (predictions.y_pred == y_true)[inside], groups, seed),
    }
