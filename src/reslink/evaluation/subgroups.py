"""Figures of parts of the cases: by scanner, sex, age, site, or any other column of the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.manifest import Case, Manifest
from reslink.errors import UsageError, nearest
from reslink.labels import Labels
from reslink.metrics.classification import estimates
from reslink.metrics.differences import Answers, part_differences

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

MOST_VALUES = 20
"""More different values than this are no subgroups; numbers are then cut at their quartiles."""
NOT_STATED = "not stated"
COMPARED = ("accuracy", "sensitivity", "specificity", "auroc")
_OWN = ("split",)


@dataclass(frozen=True)
class Judged:
    """The cases to be divided.

    Attributes:
        y_true: (n,) class indices.
        answers: What was said of them.
        groups: (n,) the patient or twin group of each case.
        labels: The K classes.
        seed: Seed of the bootstrap.
    """

    y_true: Ints
    answers: Answers
    groups: Sequence[str]
    labels: Labels
    seed: int = 0


def check_columns(manifest: Manifest, columns: Sequence[str]) -> None:
    """Refuses a column that cannot be divided by, before any work is done.

    Raises:
        UsageError: If the data has no such column, or it has too many different values.
    """
    for column in columns:
        divide(manifest.cases, column)


def divide(cases: Sequence[Case], column: str) -> list[str]:
    """Returns the subgroup of each case: the value in a column, or its quartile where there are many numbers.

    Args:
        cases: The n cases.
        column: ``split``, or a further column of the table.

    Raises:
        UsageError: If no case has the column, or it has too many different values that are no numbers.
    """
    known = dict.fromkeys(_OWN) | dict.fromkeys(key for case in cases for key in case.extra)
    if column not in known:
        raise UsageError(
            f"The data has no column {column!r} to divide the cases by",
            f"A subgroup is a column of the table: {', '.join(known)}; patient_id, path and label are none",
            nearest(column, known),
        )
    values = [((case.split or "") if column == "split" else case.extra.get(column, "")).strip() for case in cases]
    if len(set(values) - {""}) <= MOST_VALUES:
        return [value or NOT_STATED for value in values]
    numbers = [_number(value) for value in values]
    if any(number is None for value, number in zip(values, numbers, strict=True) if value):
        raise UsageError(
            f"The column {column!r} has {len(set(values))} different values that are not all numbers",
            f"A subgroup has a name, and there are at most {MOST_VALUES} of them",
            "Sum them up in a column of fewer values",
        )
    return _quartiles(numbers)


def _number(text: str) -> float | None:
    try:
        value = float(text.removesuffix("Y"))  # DICOM writes an age as 063Y
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _quartiles(numbers: Sequence[float | None]) -> list[str]:
    known = np.array([number for number in numbers if number is not None])
    edges = np.unique(np.quantile(known, (0, 0.25, 0.5, 0.75, 1)))
    names = [
        f"{low:.4g} to {'' if i == len(edges) - 2 else 'under '}{high:.4g}" for i, (low, high) in enumerate(pairwise(edges))
    ]
    return [
        NOT_STATED if number is None else names[min(int(np.searchsorted(edges, number, side="right")) - 1, len(names) - 1)]
        for number in numbers
    ]


def subgroups(cases: Sequence[Case], columns: Sequence[str], judged: Judged) -> dict[str, Any]:
    """Returns the figures of each subgroup, and how far they are from those of all other cases.

    Args:
        cases: The n cases.
        columns: See :func:`divide`.
        judged: What was said of the cases.

    Returns:
        By column and value: ``n``, ``n_groups``, ``metrics`` (as in ``evaluation.json``), and ``versus_rest`` (the
        figure in the subgroup less that of all other cases, for accuracy, sensitivity, specificity and AUROC).

    Raises:
        UsageError: As :func:`divide`.
    """
    return {column: _by_value(np.array(divide(cases, column)), judged) for column in columns}


def _by_value(values: NDArray[np.str_], judged: Judged) -> dict[str, Any]:
    names = sorted(set(values.tolist()) - {NOT_STATED}, key=_order) + [NOT_STATED] * bool((values == NOT_STATED).any())
    return {name: _part(values == name, judged) for name in names}


def _order(name: str) -> tuple[float, str]:
    number = _number(name.split(" to ")[0])
    return (np.inf if number is None else number, name)


def _part(inside: NDArray[np.bool_], judged: Judged) -> Mapping[str, Any]:
    groups = [group for group, held in zip(judged.groups, inside, strict=True) if held]
    answers, names = judged.answers, judged.labels.names
    metrics, _ = estimates(judged.y_true[inside], answers.y_prob[inside], answers.y_pred[inside], groups, names, judged.seed)
    gaps = part_differences(judged.y_true, answers, inside, judged.groups, names, COMPARED, judged.seed)
    return {
        "n": int(inside.sum()),
        "n_groups": len(set(groups)),
        "metrics": {name: value.as_dict() for name, value in metrics.items()},
        "versus_rest": {name: value.as_dict() for name, value in gaps.items()},
    }
