"""Columns of a table that hold several labels at once: one column per label, with 1, 0 or nothing in its cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from reslink.datasets.case import Case
from reslink.datasets.columns import header_key
from reslink.datasets.tables.rows import Row, Table
from reslink.errors import UsageError, counted, listed, suggest
from reslink.labels import ABSENT, PRESENT, UNKNOWN, Labels, clean_text, parse_state

ALLOWED: Final = (
    "A label is 1, true or yes where it is present, 0, false or no where it is absent, and empty where it is unknown"
)
MANY_POSITIVE: Final = 20
"""A label with fewer positive images is reported: its metrics have wide intervals."""


def check_label_names(names: Sequence[str]) -> tuple[str, ...]:
    """Checks and returns the names of label columns, before the table is read.

    Raises:
        UsageError: If there are fewer than two, or one is empty or given twice.
    """
    keys = Counter(header_key(name) for name in names)
    repeated = [name for name in names if keys[header_key(name)] > 1]
    if repeated or not all(name.strip() for name in names):
        problem = f"{repeated[0]!r} twice" if repeated and repeated[0].strip() else "an empty name"
        raise UsageError(
            f"--labels (data.labels) names {problem}", "Each label is a column of the table, named once", "Correct the list"
        )
    if len(names) < 2:
        raise UsageError(
            f"--labels (data.labels) names {f'only {names[0]!r}' if names else 'no column'}",
            "Several labels at once are two or more columns of the table",
            f"Name the other columns, or use one class per image with --columns label={names[0] if names else 'COLUMN'}",
        )
    return tuple(clean_text(name) for name in names)


def find_label_columns(table: Table, names: Sequence[str], used: Mapping[str, str], *, may_lack: bool = False) -> list[str]:
    """Returns the header of each label.

    Args:
        table: The table.
        names: The labels, as the user or the model names them.
        used: Role to header of the columns that are used for something else.
        may_lack: Whether some of the columns may be missing; their header is then ''.

    Raises:
        UsageError: If a column does not exist, or is used for something else.
    """
    headers: list[str] = []
    for name in names:
        alike = [header for header in table.headers if header_key(header) == header_key(name)]
        header = name if name in table.headers else alike[0] if len(alike) == 1 else ""
        role = next((role for role, taken in used.items() if taken == header), None)
        last_chance = name == names[-1] and not any(headers)
        if (not header and (not may_lack or last_chance)) or role is not None:
            raise UsageError(
                f"--labels names {name!r}, and {table.name} "
                + (f"has the {role} of each image in this column" if header else "has no such column"),
                f"A label has a column of its own, with 1, 0 or nothing; the columns are {', '.join(table.headers)}",
                suggest(name, [column for column in table.headers if column not in used.values()]),
            )
        headers.append(header)
    return headers


def read_states(table: Table, headers: Sequence[str]) -> list[tuple[int, ...]]:
    """Returns the states of the labels in each row.

    Raises:
        UsageError: If a cell is neither 0, 1 nor empty; the message names the rows.
    """
    columns = [[parse_state(row.get(header)) for row in table.rows] for header in headers]
    for header, states in zip(headers, columns, strict=True):
        wrong = [row for row, state in zip(table.rows, states, strict=True) if state is None]
        if wrong:
            raise _wrong_cells(table, header, wrong)
    return [tuple(UNKNOWN if state is None else state for state in row) for row in zip(*columns, strict=True)]


def _wrong_cells(table: Table, header: str, rows: Sequence[Row]) -> UsageError:
    cells = listed(repr(cell) for cell in dict.fromkeys(row.get(header) for row in rows))
    numbers = listed(str(row.number) for row in rows)
    return UsageError(
        f"The label column {header!r} of {table.name} holds {cells} in {'row' if len(rows) == 1 else 'rows'} {numbers}",
        ALLOWED,
        "Correct these cells, or leave the column out of the labels",
    )


def check_states(cases: Sequence[Case], labels: Labels, *, for_training: bool = True) -> list[str]:
    """Checks that each label can be learned and returns sentences about unknown and rare labels.

    Args:
        cases: The cases, with states.
        labels: The labels.
        for_training: Whether each label must be present in some cases and absent in others.

    Raises:
        UsageError: If a label is unknown in every case, or has one state only.
    """
    notes = []
    for k, name in enumerate(labels.names):
        counts = Counter(case.states[k] for case in cases)
        if for_training and not (counts[PRESENT] > 1 and counts[ABSENT] > 1):
            raise _one_state(name, counts)
        if counts[UNKNOWN]:
            notes.append(f"The label {name!r} is unknown for {counts[UNKNOWN]} of {len(cases)} images")
        if for_training and counts[PRESENT] < MANY_POSITIVE:
            notes.append(
                f"The label {name!r} is present in only {counted(counts[PRESENT], 'image')}; its metrics will be uncertain"
            )
    return notes


def _one_state(name: str, counts: Counter[int]) -> UsageError:
    known = counts[PRESENT] + counts[ABSENT]
    found = f"present in {counts[PRESENT]} and absent in {counts[ABSENT]}" if known else "unknown in all"
    return UsageError(
        f"The label {name!r} is {found} of {counts.total()} images",
        "Each label is present in at least two images and absent in at least two",
        "Fill in the column, or leave it out of the labels",
    )
