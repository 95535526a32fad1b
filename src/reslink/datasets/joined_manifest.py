"""Several data sets at once: distinct names, one set of classes, and the data set of each case as its source."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from reslink.datasets.case import Case
from reslink.datasets.columns import header_key
from reslink.datasets.corrections import apply_corrections
from reslink.datasets.label_columns import check_label_names
from reslink.datasets.label_map import LabelMap, check_label_map, map_of_set
from reslink.datasets.manifest import (
    DataSet,
    Manifest,
    data_set_name,
    read_cases,
    rename_cases,
    with_grouping_notes,
    with_stated_unit,
)
from reslink.datasets.manifest_table import TableCases
from reslink.datasets.tables.files import find_table
from reslink.datasets.tables.rows import data_error
from reslink.errors import UsageError, counted
from reslink.labels import ABSENT, PRESENT, UNKNOWN, CaseKind, Labels, clean_text, spelling_key, states_text
from reslink.remote_paths import parse_remote

_log = logging.getLogger(__name__)

_SHARED_ROLES: Final = ("source", "unit", "sequence")
"""Roles whose column gets the name of the role, so that the columns of several tables become one."""

_STATE_CELLS = {PRESENT: "1", ABSENT: "0", UNKNOWN: ""}


@dataclass(frozen=True)
class OpenOptions:
    """How each of the data sets is opened; see :meth:`Manifest.open`.

    Attributes:
        columns: Role to header of the tables.
        root: The folder that the paths of the tables start from.
        unit: Unit of the cases whose table states none.
        case: Whether a row of a table is a slice or a series.
        label_columns: Columns of several labels at once; a table may lack some of them.
        class_order: The classes after the map, in the desired order.
        for_training: Require classes that can be trained.
        label_map: Label, or ``SET:LABEL``, to class; None leaves its cases out.
        corrections: A CSV of corrected labels.
    """

    columns: Mapping[str, str] | Sequence[str] | None = None
    root: str | Path | None = None
    unit: str | None = None
    case: CaseKind = "slice"
    label_columns: Sequence[str] | None = None
    class_order: Sequence[str] | None = None
    for_training: bool = True
    label_map: LabelMap | None = None
    corrections: str | Path | None = None


def data_set_names(data: Sequence[str | Path | Manifest], taken: Collection[str] = ()) -> list[str]:
    """Returns a distinct name for each data set: that of its folder or table, with a number where names repeat.

    Args:
        data: The data sets.
        taken: Names that none of them gets.
    """
    names: list[str] = []
    for one in data:
        name, number = data_set_name(one), 1
        used = {spelling_key(other) for other in (*names, *taken)}
        while spelling_key(distinct := name if number == 1 else f"{name}-{number}") in used:
            number += 1
        names.append(distinct)
    return names


def open_data_sets(data: Sequence[str | Path | Manifest], options: OpenOptions | None = None) -> Manifest:
    """Opens one or several data sets as one manifest.

    Of several, the name of a case becomes ``SET/name``, its source ``SET`` or ``SET: source``, and its patient
    ``SET: patient``, where ``SET`` is the name of its data set. Columns of all tables are kept. A single data set is opened as
    :meth:`Manifest.open` does, with the label map.

    Args:
        data: Folders, tables or opened manifests.
        options: How they are opened.

    Raises:
        UsageError: If one of them cannot be opened, is given twice, the map names an unknown label or data set, or the labels
            do not fit together.
    """
    options = options or OpenOptions()
    _check_distinct(data)
    names = data_set_names(data)
    labels = _several_labels(data, options)
    sets = {name: _read(one, name if len(data) > 1 else "", options, labels) for name, one in zip(names, data, strict=True)}
    sets = _map_labels(sets, options.label_map or {}, labels)
    joined = _join(sets, labels) if len(sets) > 1 else next(iter(sets.values()))
    if options.corrections is not None:
        joined = apply_corrections(joined, options.corrections, names, labels)
    members = [DataSet(name, read.root, bool(read.columns)) for name, read in sets.items()] if len(sets) > 1 else []
    try:
        return Manifest.of_cases(joined, options.class_order, labels=labels, for_training=options.for_training, sets=members)
    except UsageError as error:
        if not members or labels is not None or error.given.startswith("The patients"):
            raise
        raise UsageError(error.given, error.allowed, f"{error.next_step}. Or map the labels: --map LABEL=CLASS") from error


def _check_distinct(data: Sequence[str | Path | Manifest]) -> None:
    if not data:
        raise UsageError("No data set was given", "DATA is one data set or several", "Name at least one")
    for one in data:
        if not isinstance(one, str | os.PathLike | Manifest):
            raise data_error(
                f"One of the data sets is a {type(one).__name__}", "Save a DataFrame with to_csv, and give the path of the file"
            )
    paths = [parse_remote(one) or Path(one) for one in data if not isinstance(one, Manifest)]
    tables = Counter((find_table(path) or path).resolve() for path in paths)
    twice = [table for table, n in tables.items() if n > 1]
    if twice:
        raise UsageError(f"{twice[0]} is given twice", "Each data set counts once", "Remove one of the two")


def _read(data: str | Path | Manifest, set_name: str, options: OpenOptions, labels: Labels | None) -> TableCases:
    """Reads the cases of one data set, with its own names and classes, or the states of all labels."""
    if isinstance(data, Manifest):
        cases = list(data.cases) if labels is None else [_with_states(case, data.labels, labels) for case in data.cases]
        return TableCases(
            _with_unit(cases, options), data.root, data.columns, data.column_roles, "", data.notes, data.label_changes
        )
    known = {clean_text(name) for name in options.class_order or ()}
    known |= {clean_text(label) for key in options.label_map or {} for label in (key, key.partition(":")[2])}
    names = () if labels is None else labels.names
    try:
        read = read_cases(data, options.columns, options.root, known, names, options.case, set_name=set_name)
    except UsageError as error:
        raise type(error)(f"{set_name}: {error.given}" if set_name else error.given, *error.args[1:]) from error
    return with_grouping_notes(replace(read, cases=_with_unit(read.cases, options)), set_name)


def _with_unit(cases: list[Case], options: OpenOptions) -> list[Case]:
    return cases if options.unit is None else with_stated_unit(cases, options.unit)


def _several_labels(data: Sequence[str | Path | Manifest], options: OpenOptions) -> Labels | None:
    """Returns the labels of all data sets if several hold at once, in the order of the options; None for classes."""
    names = list(check_label_names(options.label_columns)) if options.label_columns is not None else []
    opened = [one.labels for one in data if isinstance(one, Manifest)]
    several = {not labels.exclusive for labels in opened} | {bool(names) for one in data if not isinstance(one, Manifest)}
    if len(several) > 1:
        raise UsageError(
            "Some of the data sets have one class per image, and others several labels at once",
            "All data sets that are joined have one or the other",
            "Open all of them with the same labels, or with none",
        )
    if several == {False}:
        return None
    return Labels(tuple(dict.fromkeys([*names, *(name for labels in opened for name in labels.names)])), exclusive=False)


def _with_states(case: Case, own: Labels, labels: Labels) -> Case:
    """Returns the case with a state of each of ``labels``: unknown for those that its data set does not have."""
    stated = dict(zip(own.names, case.states, strict=True))
    states = tuple(stated.get(name, UNKNOWN) for name in labels.names)
    return replace(case, states=states, label=states_text(labels.names, states))


def _map_labels(sets: Mapping[str, TableCases], label_map: LabelMap, labels: Labels | None) -> dict[str, TableCases]:
    """Returns the data sets with their labels renamed, and remarks on the cases that are left out."""
    if not label_map:
        return dict(sets)
    if labels is not None:
        labels.require_exclusive("--map", "Rename the columns of the table")
    check_label_map(label_map, {name: {case.label for case in read.cases} for name, read in sets.items()})
    return {
        name: _rename(read, map_of_set(label_map, name, sets), f"{name}: " if len(sets) > 1 else "")
        for name, read in sets.items()
    }


def _rename(read: TableCases, renamed: Mapping[str, str | None], prefix: str) -> TableCases:
    counts = Counter(case.label for case in read.cases if case.label in renamed)
    notes = [
        f"The label {label!r} is {f'mapped to {renamed[label]!r}' if renamed[label] else 'left out'} ({counted(n, 'case')})"
        for label, n in counts.items()
        if renamed[label] != label
    ]
    for note in notes:
        _log.warning("%s%s.", prefix, note)
    columns = (*read.columns, "given_label") if read.columns else ()
    return replace(
        rename_cases(read, renamed),
        columns=tuple(dict.fromkeys(columns)),
        notes=(*read.notes, *notes),
    )


def _join(sets: Mapping[str, TableCases], labels: Labels | None) -> TableCases:
    """Joins the cases; remarks of one data set begin with its name, and those on all of them are logged."""
    cases: list[Case] = []
    columns = dict.fromkeys(("path",) if labels else ("path", "label"))
    notes = _folds_of_some(sets)
    for name, read in sets.items():
        headers = _new_headers(read, labels) | ({"fold": "given_fold"} if notes else {})
        joined = [_joined_case(case, name, headers, labels) for case in read.cases]
        columns |= dict.fromkeys(headers.get(header, header) for header in read.columns)
        columns |= dict.fromkeys(header for case in joined for header in case.extra)
        cases += joined
    notes += [] if labels else _classes_of_one_set(cases)
    notes += _splits_of_some(sets)
    sizes = (f"{name} ({counted(len(read.cases), 'case')})" for name, read in sets.items())
    first = f"Data sets: {', '.join(sizes)}"
    for sentence in (first, *notes):
        _log.warning("%s.", sentence)
    changes = [{"set": name, **change} for name, read in sets.items() for change in read.label_changes]
    return TableCases(
        cases,
        _common_folder([read.root for read in sets.values()]),
        tuple(columns),
        _joined_roles(sets),
        notes=(first, *(f"{name}: {note}" for name, read in sets.items() for note in read.notes), *notes),
        label_changes=tuple(changes),
    )


def _new_headers(read: TableCases, labels: Labels | None) -> dict[str, str]:
    """Returns the headers that get other names, so that a column of several tables has one name."""
    new = {read.roles[role]: role for role in _SHARED_ROLES if role in read.roles}
    new |= {role: f"given_{role}" for role in _SHARED_ROLES if role in read.columns and role not in new}
    names = {header_key(name): name for name in (labels.names if labels else ())}
    return new | {header: names[header_key(header)] for header in read.columns if header_key(header) in names}


def _joined_case(case: Case, name: str, headers: Mapping[str, str], labels: Labels | None) -> Case:
    source = f"{name}: {case.source}" if case.source else name
    extra = {headers.get(header, header): cell for header, cell in case.extra.items()} | {"source": source}
    joined = replace(
        case,
        name=f"{name}/{case.name}",
        source=source,
        patient_id=case.patient_id and f"{name}: {case.patient_id}",
        patient_in_table=case.patient_in_table and f"{name}: {case.patient_in_table}",
        extra=extra,
    )
    return joined if labels is None else replace(joined, extra=extra | _state_cells(case, labels))


def _state_cells(case: Case, labels: Labels) -> dict[str, str]:
    return {name: _STATE_CELLS[state] for name, state in zip(labels.names, case.states, strict=True)}


def _common_folder(roots: Sequence[Path]) -> Path:
    """Returns the folder that contains all of them, or the first if they are on different drives."""
    try:
        return Path(os.path.commonpath(roots))
    except ValueError:
        return roots[0]


def _joined_roles(sets: Mapping[str, TableCases]) -> dict[str, str]:
    """Returns role to header; with the names of the data sets where the headers differ."""
    roles = dict.fromkeys(role for read in sets.values() for role in read.roles)
    joined = {}
    for role in roles:
        headers = {name: read.roles[role] for name, read in sets.items() if role in read.roles}
        one = set(headers.values())
        joined[role] = one.pop() if len(one) == 1 else ", ".join(f"{name}: {header}" for name, header in headers.items())
    return joined


def _folds_of_some(sets: Mapping[str, TableCases]) -> list[str]:
    """Returns a sentence if some data sets have a column ``fold`` and others do not: folds are then drawn."""
    stated = [name for name, read in sets.items() if any(case.extra.get("fold") for case in read.cases)]
    if len(stated) in (0, len(sets)):
        return []
    return [f"The column 'fold' is not used, because only {' and '.join(stated)} {_has(stated)} it"]


def _has(names: Sequence[Any]) -> str:
    return "has" if len(names) == 1 else "have"


def _classes_of_one_set(cases: Sequence[Case]) -> list[str]:
    """Returns a sentence about classes that occur in one data set only."""
    sets_of: dict[str, set[str]] = {}
    for case in cases:
        sets_of.setdefault(case.label, set()).add(case.name.partition("/")[0])
    single = {label: next(iter(names)) for label, names in sorted(sets_of.items()) if len(names) == 1}
    if not single:
        return []
    listed = ", ".join(f"{label!r} ({name})" for label, name in single.items())
    what = f"The class {listed} occurs" if len(single) == 1 else f"Each of the classes {listed} occurs"
    return [
        f"{what} in one data set only: the model may learn the data set instead of the class (a shortcut). If the data sets "
        f"use different names for one class, add --map {next(iter(single))}=CLASS"
    ]


def _splits_of_some(sets: Mapping[str, TableCases]) -> list[str]:
    """Returns a sentence if some data sets state a split and others do not."""
    stated = [name for name, read in sets.items() if any(case.split for case in read.cases)]
    others = [name for name in sets if name not in stated]
    if not stated or not others:
        return []
    return [
        f"The split of {' and '.join(stated)} is kept. {' and '.join(others)} {_has(others)} none, which is drawn; near "
        "duplicates of an image with a split get that split"
    ]
