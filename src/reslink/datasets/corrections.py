"""Corrected labels: a table of cases with the label of the data and the right one, applied when a data set is opened."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from reslink.datasets.case import Case
from reslink.datasets.manifest_table import TableCases
from reslink.datasets.tables.files import read_table
from reslink.datasets.tables.rows import Row, Table
from reslink.errors import UsageError, counted, suggest
from reslink.files import sha256
from reslink.labels import Labels, clean_text

_log = logging.getLogger(__name__)

NAME, GIVEN, CORRECTED, SET = "name", "given_label", "corrected_label", "set"
COLUMNS: Final = (NAME, GIVEN, CORRECTED, "evidence", "correlation", "orientation", SET)
"""The columns of ``label_corrections.csv``; only the first three and ``set`` are read."""

_FORM: Final = (
    f"Corrections are a CSV with the columns {NAME}, {GIVEN} and {CORRECTED}, such as label_corrections.csv of an audit"
)


def apply_corrections(
    read: TableCases, path: str | Path, set_names: Sequence[str] = (), labels: Labels | None = None
) -> TableCases:
    """Returns the cases with corrected labels, and a remark on their number.

    A case keeps the label that it had, before any renaming, in ``extra["given_label"]``. The audit that wrote the table may
    have had other data sets too: of several, it names a case ``SET/name``, and of a single one ``name``. Rows of data sets that
    are not given are not used, and counted in the remark. In an audit of a single one, ``set`` is a source, and is not read.

    Args:
        read: The cases.
        path: The CSV.
        set_names: The names of the data sets.
        labels: The labels, if known.

    Raises:
        UsageError: If the file is not such a table, a case of these data sets does not exist or has another label than it says,
            a case has two rows, the corrected label is not a class, no row is of these data sets, or the data has several
            labels at once.
    """
    if labels is not None:
        labels.require_exclusive("--corrections", "Correct the columns of the table, and omit --corrections")
    table = _read(path)
    rows_of = {case.name: i for i, case in enumerate(read.cases)}
    classes = {case.label for case in read.cases} | {*(labels.names if labels else ())}
    corrected: dict[int, Case] = {}
    others: list[Row] = []
    own_folders = {*set_names, *(case.partition("/")[0] for case in rows_of)}
    for row in table.rows:
        if _data_set(row) not in ("", *own_folders) and not _matches(row, rows_of, set_names):
            others.append(row)
            continue
        i = _find(row, rows_of, set_names)
        if i in corrected:
            raise row.error(f"names {row.get(NAME)!r} again", "Each case has one row", "Remove one of the two rows")
        corrected[i] = _corrected(read.cases[i], row, classes)
    if others and not corrected:
        raise _unknown_case(others[0], rows_of)
    note = f"{counted(len(corrected), 'label')} of {counted(len(read.cases), 'case')} corrected by {table.name}"
    if others:
        names = ", ".join(dict.fromkeys(_data_set(row) for row in others))
        note += f"; {counted(len(others), 'correction')} of other data sets ({names}) not used"
    change = {"by": "corrections", "file": table.name, "sha256": sha256(Path(path)), "labels": len(corrected)}
    _log.warning("%s.", note)
    cases = [corrected.get(i, case) for i, case in enumerate(read.cases)]
    columns = read.columns if not read.columns or GIVEN in read.columns else (*read.columns, GIVEN)
    changes = (*read.label_changes, change)
    return replace(read, cases=cases, columns=columns, notes=(*read.notes, note), label_changes=changes)


def _read(path: str | Path) -> Table:
    if not Path(path).is_file():
        raise UsageError(f"--corrections {path} does not exist, or is not a file", _FORM, "Check the path")
    table = read_table(Path(path))
    missing = [column for column in (NAME, GIVEN, CORRECTED) if column not in table.headers]
    if missing:
        raise UsageError(f"{table.name} has no column {missing[0]!r}", _FORM, suggest(missing[0], table.headers))
    return table


def _matches(row: Row, rows_of: Mapping[str, int], set_names: Sequence[str]) -> list[str]:
    """Returns the names of the cases that a row can mean: its own, or else with or without the name of a data set."""
    name = row.get(NAME)
    if name in rows_of:
        return [name]
    if len(set_names) > 1:
        return [case for case in (f"{set_name}/{name}" for set_name in set_names) if case in rows_of]
    short = name.removeprefix(f"{_data_set(row)}/") if [_data_set(row)] == list(set_names) else ""
    return [short] if short in rows_of else []


def _data_set(row: Row) -> str:
    """Returns the data set of a row ``SET/name`` of an audit of several, whose column is ``SET`` or ``SET: source``; or ''."""
    prefix, _, rest = row.get(NAME).partition("/")
    return prefix if rest and f"{row.get(SET)}: ".startswith(f"{prefix}: ") else ""


def _find(row: Row, rows_of: Mapping[str, int], set_names: Sequence[str]) -> int:
    """Returns the index of the case of a row."""
    matches = _matches(row, rows_of, set_names)
    if len(matches) > 1:
        raise row.error(
            f"corrects {row.get(NAME)!r}, which can be {' or '.join(matches)}",
            "Of several data sets, a correction names the data set first",
            f"Write {matches[0]}, for example",
        )
    if not matches:
        raise _unknown_case(row, rows_of)
    return rows_of[matches[0]]


def _unknown_case(row: Row, rows_of: Mapping[str, int]) -> UsageError:
    return row.error(
        f"corrects {row.get(NAME)!r}, which is not a case of the data",
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
