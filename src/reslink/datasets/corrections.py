"""Corrected labels: a table of cases with the label of the data and the right one, applied when a data set is opened."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from reslink.datasets.case import Case
from reslink.datasets.csv_table import Row, Table, read_table
from reslink.datasets.manifest_table import TableCases
from reslink.errors import UsageError, counted, suggest
from reslink.labels import Labels, clean_text

_log = logging.getLogger(__name__)

NAME, GIVEN, CORRECTED, SET = "name", "given_label", "corrected_label", "set"
COLUMNS: Final = (NAME, GIVEN, CORRECTED, "evidence", "correlation", "orientation", SET)
"""The columns of ``label_corrections.csv``; only the first three and ``set`` are read."""

_FORM: Final = (
    f"Corrections are a CSV with the columns {NAME}, {GIVEN} and {CORRECTED}, such as label_corrections.csv of an audit"
)


def apply_corrections(read: TableCases, path: str | Path, set_name: str = "", labels: Labels | None = None) -> TableCases:
    """Returns the cases with corrected labels, and a remark on their number.

    A case keeps the label that it had, before any renaming, in ``extra["given_label"]``.

    Args:
        read: The cases.
        path: The CSV.
        set_name: The name of the data set, if it is a single one: the table of an audit of several data sets names its cases
            ``SET/name``.
        labels: The labels, if known.

    Raises:
        UsageError: If the file is not such a table, a case does not exist or has another label than the table says, a case has
            two rows, the corrected label is not a class, or the data has several labels at once.
    """
    if labels is not None:
        labels.require_exclusive("--corrections", "Correct the columns of the table, and omit --corrections")
    table = _read(path)
    rows_of = {case.name: i for i, case in enumerate(read.cases)}
    classes = {case.label for case in read.cases} | {*(labels.names if labels else ())}
    corrected: dict[int, Case] = {}
    for row in table.rows:
        i = _find(row, rows_of, set_name)
        if i in corrected:
            raise row.error(f"names {row.get(NAME)!r} again", "Each case has one row", "Remove one of the two rows")
        corrected[i] = _corrected(read.cases[i], row, classes)
    note = f"{counted(len(corrected), 'label')} of {counted(len(read.cases), 'case')} corrected by {table.name}"
    _log.warning("%s.", note)
    cases = [corrected.get(i, case) for i, case in enumerate(read.cases)]
    columns = read.columns if not read.columns or GIVEN in read.columns else (*read.columns, GIVEN)
    return replace(read, cases=cases, columns=columns, notes=(*read.notes, note))


def _read(path: str | Path) -> Table:
    if not Path(path).is_file():
        raise UsageError(f"--corrections {path} does not exist, or is not a file", _FORM, "Check the path")
    table = read_table(Path(path))
    missing = [column for column in (NAME, GIVEN, CORRECTED) if column not in table.headers]
    if missing:
        raise UsageError(f"{table.name} has no column {missing[0]!r}", _FORM, suggest(missing[0], table.headers))
    return table


def _find(row: Row, rows_of: Mapping[str, int], set_name: str) -> int:
    """Returns the index of the case of a row."""
    name = row.get(NAME)
    prefix = f"{set_name}/" if set_name and row.get(SET) == set_name else None
    for candidate in (name, *([name.removeprefix(prefix)] if prefix else [])):
        if candidate in rows_of:
            return rows_of[candidate]
    raise row.error(
        f"corrects {name!r}, which is not a case of the data",
        f"A correction names a case as the audit does, such as {next(iter(rows_of))!r}",
        "Give the data sets of the audit under the same names, or remove the row",
    )


def _corrected(case: Case, row: Row, classes: set[str] | Sequence[str]) -> Case:
    given, label = clean_text(row.get(GIVEN)), clean_text(row.get(CORRECTED))
    if given != case.label:
        raise row.error(
            f"corrects the label {given!r} of {case.name}, which has the label {case.label!r}",
            "A correction states the label of the data, after --map",
            "Use the data set and the --map of the audit, or remove the row",
        )
    if label not in classes:
        raise row.error(
            f"corrects {case.name} to {label!r}, which is not a class of the data",
            f"The classes are {', '.join(sorted(classes))}",
            suggest(label, sorted(classes)),
        )
    return replace(case, label=label, extra={**case.extra, GIVEN: case.extra.get(GIVEN) or case.label})
