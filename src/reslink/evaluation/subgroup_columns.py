"""Subgroup columns of a data set: the subgroup of each case, checked before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError, suggest

MAX_SUBGROUPS = 20
"""A column with more different values is split at its quartiles if they are numbers, and refused otherwise."""
NOT_STATED = "not stated"


def check_columns(manifest: Manifest, columns: Sequence[str]) -> None:
    """Checks the subgroup columns before any work starts.

    Raises:
        UsageError: If the data has no such column, or the column has too many different values.
    """
    for column in columns:
        assign_subgroups(manifest.cases, column)


def with_source(cases: Sequence[Case], columns: Sequence[str]) -> tuple[str, ...]:
    """Returns the subgroup columns, and ``source`` if the cases come from several sources.

    Args:
        cases: The cases.
        columns: The columns that the user chose.
    """
    sources = {case.source for case in cases} - {None}
    return tuple(dict.fromkeys([*columns, *(["source"] if 1 < len(sources) <= MAX_SUBGROUPS else [])]))


def assign_subgroups(cases: Sequence[Case], column: str) -> list[str]:
    """Returns the subgroup of each case: its value in a column, or the quartile if there are many different numbers.

    Args:
        cases: The n cases.
        column: ``split``, ``source`` if the data set states one, or an extra column of the table.

    Raises:
        UsageError: If no case has the column, or it has too many different values that are not numbers.
    """
    fields: dict[str, list[str]] = {"split": [case.split or "" for case in cases]}
    if any(case.source for case in cases):
        fields["source"] = [case.source or "" for case in cases]
    available = dict.fromkeys(fields) | dict.fromkeys(key for case in cases for key in case.extra)
    if column not in available:
        raise UsageError(
            f"The data has no column {column!r} for subgroups",
            f"Subgroup columns are {', '.join(available)}; patient_id, path and label cannot be used",
            suggest(column, available),
        )
    values = [value.strip() for value in fields.get(column) or [case.extra.get(column, "") for case in cases]]
    if len(set(values) - {""}) <= MAX_SUBGROUPS:
        return [value or NOT_STATED for value in values]
    numbers = [number_of(value) for value in values]
    if any(number is None for value, number in zip(values, numbers, strict=True) if value):
        raise UsageError(
            f"The column {column!r} has {len(set(values))} different values, and not all are numbers",
            f"A subgroup column has at most {MAX_SUBGROUPS} different values, or numbers",
            "Add a column with fewer values",
        )
    return _quartiles(numbers)


def number_of(text: str) -> float | None:
    """Returns the number in a cell; None if it is not a finite number."""
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


def describing_columns(cases: Sequence[Case]) -> list[str]:
    """Returns the columns that are subgroups without being chosen: the source, and columns of 0 and 1.

    Columns of words are left out, because they can name patients, dates or readers.

    Args:
        cases: The cases. Sources of which there are more than ``MAX_SUBGROUPS`` are left out.
    """
    sources = [case.source or "" for case in cases]
    flags = [column for column in flag_columns(cases) if [case.extra.get(column, "").strip() for case in cases] != sources]
    return [*with_source(cases, ()), *flags]


def flag_columns(cases: Sequence[Case]) -> list[str]:
    """Returns the columns that hold 0 and 1, both of them, and are otherwise empty."""
    columns = dict.fromkeys(column for case in cases for column in case.extra)
    return [column for column in columns if {case.extra.get(column, "").strip() for case in cases} - {""} == {"0", "1"}]
