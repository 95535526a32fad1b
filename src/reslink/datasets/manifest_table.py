"""Cases from a table."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from reslink.datasets.case import SPLIT_NAMES, SPLITS, Case
from reslink.datasets.columns import Role, find_columns
from reslink.datasets.label_columns import find_label_columns, read_states
from reslink.datasets.tables.files import read_table
from reslink.datasets.tables.paths import find_file, move_below, name_files
from reslink.datasets.tables.rows import Row, Table, data_error
from reslink.errors import UsageError, counted, suggest
from reslink.imaging.spellings import UNIT_NAMES, UNITS, parse_sequence
from reslink.labels import UNKNOWN, CaseKind, clean_text, is_missing, spelling_key, states_text
from reslink.remote_paths import RemotePath

_SHORTENED: Final = re.compile(r"\d([.,]\d+)?E\+\d+", re.I)
"""A long number as spreadsheets write it by default."""

_RENAMED: tuple[Role, ...] = ("path", "label", "patient_id", "mask", "split")
"""Roles whose column is a field of the case and gets the name of the role; the columns of the others stay as they are."""


@dataclass(frozen=True)
class TableCases:
    """The cases of a table.

    Attributes:
        cases: The cases, in row order.
        root: The folder that the names of the cases are relative to.
        columns: The headers, in order; those of path, label, patient, mask and split have the names of these roles.
        roles: Role to header in the file.
        inferred: See :class:`reslink.datasets.columns.ColumnRoles`.
        notes: Sentences about columns that are not used.
        label_changes: See :class:`reslink.datasets.manifest.Manifest`.
    """

    cases: list[Case]
    root: Path
    columns: tuple[str, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)
    inferred: str = ""
    notes: tuple[str, ...] = ()
    label_changes: tuple[Mapping[str, Any], ...] = ()


def cases_of_table(
    path: Path,
    columns: Mapping[Role, str] | None = None,
    root: Path | None = None,
    classes: Collection[str] = (),
    label_columns: Sequence[str] = (),
    case_kind: CaseKind = "slice",
    *,
    may_lack: bool = False,
) -> TableCases:
    """Reads a table.

    Args:
        path: The CSV or Parquet file, or the folder of Parquet files.
        columns: Role to header, as chosen by the user; the other roles are inferred (:func:`find_columns`).
        root: The folder that relative paths start from; None for the folder of the table.
        classes: Known class names, which are labels even if they look like a missing value.
        label_columns: Columns of several labels at once; the column of the class is then not used.
        case_kind: Whether a row is a slice or a series; a series may be a folder, and has no mask.
        may_lack: Whether the table may lack columns of ``label_columns``, whose labels are then unknown, but not all of them.

    Raises:
        UsageError: If the table or one of its rows cannot be used; the message has the number of the row.
    """
    table = read_table(path)
    found = find_columns(table, columns or {}, ["label"] if label_columns else [])
    if not table.rows:
        raise data_error(f"{path} has no rows below its header", "Add a row for each image")
    table, states, notes = _read_labels(table, found.headers, classes, label_columns, may_lack=may_lack)
    reader = _Reader(table, found.headers, root or path.parent, case_kind, free=["label"] if label_columns else [])
    cases: dict[Path, tuple[int, Case]] = {}
    for i, (row, files) in enumerate(zip(table.rows, reader.files, strict=True)):
        case = reader.case(row, files)
        if states:
            case = replace(case, label=states_text(label_columns, states[i]), states=states[i])
        first, former = cases.setdefault(case.path, (row.number, case))
        if former != case:
            raise _conflict_error(row, first, former, case)
    return TableCases(
        [case for _, case in cases.values()],
        reader.root,
        tuple(reader.new_names.values()),
        {str(role): header for role, header in found.headers.items()},
        found.inferred,
        (
            *found.notes,
            *notes,
            *_notes_on_patients(table, found.headers.get("patient_id", "")),
            *_repeated_rows_note(len(table.rows) - len(cases)),
            *(() if states else _folder_notes([case for _, case in cases.values()])),
        ),
    )


def _read_labels(
    table: Table, roles: Mapping[Role, str], classes: Collection[str], names: Sequence[str], *, may_lack: bool
) -> tuple[Table, list[tuple[int, ...]], list[str]]:
    """Checks the column of the class, or reads those of several labels.

    Returns:
        The rows with a label, the states of the labels in each of them (empty for one class per image), and notes.
    """
    if not names:
        _check_labels_stated(table, roles["label"], classes)
        return table, [], []
    headers = find_label_columns(table, names, {str(role): header for role, header in roles.items()}, may_lack=may_lack)
    states = read_states(table, headers)
    kept = [i for i, row in enumerate(states) if any(state != UNKNOWN for state in row)]
    notes = [
        f"{table.name} has no column for the label {name!r}, which is unknown in its {counted(len(kept), 'case')}"
        for name, header in zip(names, headers, strict=True)
        if not header
    ]
    if len(kept) == len(states):
        return table, states, notes
    if not kept:
        raise data_error(
            f"No row of {table.name} states one of the labels {', '.join(names)}", "Fill in the columns of the labels"
        )
    rows = replace(table, rows=tuple(table.rows[i] for i in kept))
    left_out = f"{counted(len(states) - len(kept), 'row')} without any known label left out"
    return rows, [states[i] for i in kept], [*notes, left_out]


def _check_labels_stated(table: Table, header: str, classes: Collection[str]) -> None:
    missing = [row for row in table.rows if is_missing(row.get(header)) and clean_text(row.get(header)) not in classes]
    if missing:
        row, cell = missing[0], missing[0].get(header)
        rows = f"; {len(missing)} rows have none" if len(missing) > 1 else ""
        raise row.error(
            f"has no {header!r}{f' (the cell is {cell!r})' if cell else ''}{rows}",
            f"Each row needs a class in the column {header!r}; words such as nan, NA, null, None and - mean that it is missing",
            "Fill in the label, remove such rows, or give the class a name that says what it is",
        )


def _notes_on_patients(table: Table, header: str) -> list[str]:
    """Returns sentences about patient ids that may join different patients."""
    patients = {clean_text(cell) for cell in table.column(header) if not is_missing(cell)}
    shortened = next((patient for patient in sorted(patients) if _SHORTENED.fullmatch(patient)), None)
    column = f"The column {header!r} of {table.name}"
    if shortened:
        return [f"{column} holds {shortened}, a number that a spreadsheet shortened: different patients may look the same"]
    return [f"{column} names a single patient for all images"] if len(patients) == 1 and len(table.rows) > 1 else []


def _repeated_rows_note(n: int) -> list[str]:
    if n <= 0:
        return []
    rows = "row repeats another one" if n == 1 else "rows repeat other ones"
    return [f"{n} {rows} and {'is' if n == 1 else 'are'} left out: each image counts once"]


def _folder_notes(cases: Sequence[Case]) -> list[str]:
    """Returns sentences about images in a folder that is named like another class or split than their own."""
    labels = {key for case in cases if not (key := spelling_key(case.label)).isdigit()}
    notes = []
    named = [_named_in_path(case, labels) for case in cases]
    wrong = [case for case, name in zip(cases, named, strict=True) if name not in ("", spelling_key(case.label))]
    if wrong and any(name != named[0] for name in named):  # else it is the folder of the whole data set
        notes.append(
            f"{len(wrong)} of {len(cases)} images have another label than their folder names, such as {wrong[0].name} with the "
            f"label {wrong[0].label!r}. Check the table if the folders are those of the classes"
        )
    splits = {SPLIT_NAMES[name] for case in cases if (name := _named_in_path(case, SPLIT_NAMES))}
    if len(splits) > 1 and not any(case.split for case in cases):
        notes.append(
            f"The paths name the splits {' and '.join(sorted(splits))}, but the table states no split: reslink draws "
            "a new one. Add a column split to keep the given split"
        )
    return notes


def _named_in_path(case: Case, names: Collection[str]) -> str:
    """Returns the only one of some names that a folder of an image has; empty if it has none or several."""
    found = {key for part in case.name.split("/")[:-1] if (key := spelling_key(part)) in names}
    return found.pop() if len(found) == 1 else ""


class _Reader:
    """Makes cases of rows.

    Attributes:
        files: Image and mask of each row.
        root: The folder that the names of the cases are relative to.
        new_names: Header in the file to header in the manifest.
    """

    def __init__(
        self, table: Table, headers: Mapping[Role, str], folder: Path, case_kind: CaseKind, free: Collection[Role]
    ) -> None:
        self._headers, self._case_kind = headers, case_kind
        self.files = self._find_files(table, folder)
        images, masks = [image for image, _ in self.files], [mask for _, mask in self.files if mask is not None]
        if not all(image.is_relative_to(folder) for image in images):
            folder = _real(folder)
        self._names, self.root = name_files(images, masks, folder)
        self._fields = [role for role in _RENAMED if role not in free]
        self.new_names = _new_names(table.headers, headers, self._fields)

    def _find_files(self, table: Table, folder: Path) -> list[tuple[Path, Path | None]]:
        """Returns image and mask of each row; through the real folder if a path leaves the folder."""
        files = [self._files_of(row, folder) for row in table.rows]
        real = _real(folder)
        if real == folder or all(image.is_relative_to(folder) for image, _ in files):
            return files
        return [self._files_of(row, real) for row in table.rows]

    def _files_of(self, row: Row, folder: Path) -> tuple[Path, Path | None]:
        image = find_file(row, self._headers["path"], folder, or_folder=self._case_kind == "series")
        header = self._headers.get("mask", "")
        mask = None if is_missing(row.get(header)) else find_file(row, header, folder)
        if mask is not None and self._case_kind == "series":
            raise row.error(
                f"has a lesion mask in the column {header!r}",
                "Lesion masks belong to slices; a case that is a series has none",
                "Add --columns mask= to ignore the column; for slices, use a model or a recipe whose cases are slices",
            )
        return move_below(image, folder), mask and move_below(mask, folder)

    def case(self, row: Row, files: tuple[Path, Path | None]) -> Case:
        image, mask = files
        return Case(
            path=image,
            label=self._text(row, "label"),
            patient_id=self._stated(row, "patient_id"),
            mask=mask,
            split=self._choice(row, "split", SPLIT_NAMES, SPLITS),
            source=self._stated(row, "source"),
            unit=self._choice(row, "unit", UNIT_NAMES, UNITS),
            sequence=parse_sequence(self._stated(row, "sequence")),
            name=self._names[image],
            extra={name: row.get(header) for header, name in self.new_names.items() if name not in self._fields},
        )

    def _text(self, row: Row, role: Role) -> str:
        return clean_text(row.get(self._headers.get(role, "")))

    def _stated(self, row: Row, role: Role) -> str | None:
        text = self._text(row, role)
        return None if is_missing(text) else text

    def _choice(self, row: Row, role: Role, names: Mapping[str, Any], allowed: Sequence[str]) -> Any:
        text = self._stated(row, role)
        if text is None:
            return None
        if text.casefold() not in names:
            next_step = f"Add --columns {role}= if the column {self._headers[role]!r} is no {role}. {suggest(text, allowed)}"
            raise row.error(f"has the {role} {text!r}", f"A {role} is one of {', '.join(allowed)}", next_step)
        return names[text.casefold()]


def _real(folder: Path) -> Path:
    return folder if isinstance(folder, RemotePath) else Path(os.path.realpath(folder))


def _new_names(headers: Sequence[str], used: Mapping[Role, str], fields: Collection[Role]) -> dict[str, str]:
    """Returns the header of each column in the manifest: a used one has the name of its role, an unused one loses it.

    Args:
        headers: The headers of the table.
        used: Role to header.
        fields: Roles whose column is a field of the case.
    """
    roles = {used[role]: role for role in fields if role in used}
    names = dict.fromkeys(headers, "")
    for header in headers:
        name: str = roles.get(header, header)
        while header not in roles and (name.casefold() in fields or (name != header and name in headers)):
            name = f"given_{name}"
        names[header] = name
    return names


def _conflict_error(row: Row, first: int, former: Case, case: Case) -> UsageError:
    if former.label != case.label:
        difference = f"with the label {case.label!r}, but row {first} has {former.label!r}"
    else:
        difference = f"with other details than row {first}"
    return row.error(f"names {case.name!r} again {difference}", "Each image has one row", "Remove one of the two rows")
