"""Metrics of subgroups of the cases: by scanner, sex, age, site, or any other column of the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.manifest import Case, Manifest
from reslink.errors import UsageError, suggest
from reslink.labels import Labels
from reslink.metrics.classification import classification_metrics
from reslink.metrics.differences import Predictions, subgroup_differences

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

MAX_SUBGROUPS = 20
"""A column with more different values is split at its quartiles if they are numbers, and refused otherwise."""
NOT_STATED = "not stated"
COMPARED_METRICS = ("accuracy", "sensitivity", "specificity", "auroc")
_CASE_FIELDS = ("split",)


@dataclass(frozen=True)
class LabeledPredictions:
    """Predictions with their true classes and groups.

    Attributes:
        y_true: (n,) class indices.
        predictions: The predictions.
        groups: (n,) patient or duplicate group of each case.
        labels: The K classes.
        seed: Seed of the bootstrap.
    """

    y_true: Ints
    predictions: Predictions
    groups: Sequence[str]
    labels: Labels
    seed: int = 0


def check_columns(manifest: Manifest, columns: Sequence[str]) -> None:
    """Checks the subgroup columns before any work starts.

    Raises:
        UsageError: If the data has no such column, or the column has too many different values.
    """
    for column in columns:
        assign_subgroups(manifest.cases, column)


def assign_subgroups(cases: Sequence[Case], column: str) -> list[str]:
    """Returns the subgroup of each case: its value in a column, or the quartile if there are many different numbers.

    Args:
        cases: The n cases.
        column: ``split``, or an extra column of the table.

    Raises:
        UsageError: If no case has the column, or it has too many different values that are not numbers.
    """
    available = dict.fromkeys(_CASE_FIELDS) | dict.fromkeys(key for case in cases for key in case.extra)
    if column not in available:
        raise UsageError(
            f"The data has no column {column!r} for subgroups",
            f"Subgroup columns are {', '.join(available)}; patient_id, path and label cannot be used",
            suggest(column, available),
        )
    values = [((case.split or "") if column == "split" else case.extra.get(column, "")).strip() for case in cases]
    if len(set(values) - {""}) <= MAX_SUBGROUPS:
        return [value or NOT_STATED for value in values]
    numbers = [_number(value) for value in values]
    if any(number is None for value, number in zip(values, numbers, strict=True) if value):
        raise UsageError(
            f"The column {column!r} has {len(set(values))} different values, and not all are numbers",
            f"A subgroup column has at most {MAX_SUBGROUPS} different values, or numbers",
            "Add a column with fewer values",
        )
    return _quartiles(numbers)


def _number(text: str) -> float | None:
    try:
        value = float(text.removesuffix("Y"))  # DICOM writes an age as 063Y
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _quartiles(numbers: Sequence[float | None]) -> list[str]:
    stated = np.array([number for number in numbers if number is not None])
    edges = np.unique(np.quantile(stated, (0, 0.25, 0.5, 0.75, 1)))
    names = [
        f"{low:.4g} to {'' if i == len(edges) - 2 else 'under '}{high:.4g}" for i, (low, high) in enumerate(pairwise(edges))
    ]
    return [
        NOT_STATED if number is None else names[min(int(np.searchsorted(edges, number, side="right")) - 1, len(names) - 1)]
        for number in numbers
    ]


def subgroups(cases: Sequence[Case], columns: Sequence[str], labeled: LabeledPredictions) -> dict[str, Any]:
    """Returns the metrics of each subgroup, and their difference from all other cases.

    Args:
        cases: The n cases.
        columns: See :func:`assign_subgroups`.
        labeled: The predictions for the cases.

    Returns:
        By column and value: ``n``, ``n_groups``, ``metrics`` (as in ``evaluation.json``), and ``difference_from_others`` (the
        metric in the subgroup minus the metric of all other cases, for accuracy, sensitivity, specificity and AUROC).

    Raises:
        UsageError: As :func:`assign_subgroups`.
    """
    return {column: _metrics_by_value(np.array(assign_subgroups(cases, column)), labeled) for column in columns}


def _metrics_by_value(values: NDArray[np.str_], labeled: LabeledPredictions) -> dict[str, Any]:
    names = sorted(set(values.tolist()) - {NOT_STATED}, key=_sort_key) + [NOT_STATED] * bool((values == NOT_STATED).any())
    return {name: _subgroup_metrics(values == name, labeled) for name in names}


def _sort_key(name: str) -> tuple[float, str]:
    number = _number(name.split(" to ")[0])
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
    }
