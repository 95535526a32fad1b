"""A split as a table: every column of the data set, the group and the side of each image, readable by ``Manifest.open``."""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from reslink.datasets.manifest import Case, Manifest, Split
from reslink.datasets.splits import assign, folds
from reslink.files import write_atomic

_KNOWN = ("path", "label", "patient_id", "mask", "split")
_OBEYED = ("fold",)
"""A column that ``train`` obeys: it must not stay from an earlier division where a new one does not write it."""


def without_given_split(manifest: Manifest) -> Manifest:
    """Returns the cases without the sides that the data set states."""
    return replace(manifest, cases=tuple(replace(case, split=None) for case in manifest.cases))


def new_columns(
    manifest: Manifest,
    groups: Sequence[str],
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    k: int | None = None,
    seed: int = 0,
) -> dict[str, list[str]]:
    """Divides the cases and returns the columns that a split adds to a table.

    Args:
        manifest: The cases; sides that it states are kept, and completed from the training cases.
        groups: The group of each case (``grouping.group_cases``).
        fractions: Shares of train, validation and test; not used with ``k``.
        k: Number of folds for cross-validation. Then fold 0 is called test, fold 1 validation (from three folds on) and
            the others train, and the column ``fold`` says which is which, from 0.
        seed: Chooses among equally good divisions.

    Returns:
        ``group`` and ``split``, and ``fold`` where ``k`` is given; a text a case.

    Raises:
        UsageError: If a class has too few groups.
        GateError: If a group or a patient stands on two sides that the manifest states.
    """
    if k is None:
        return {"group": list(groups), "split": [str(side) for side in assign(manifest, groups, fractions, seed)]}
    found = folds(manifest, groups, k, seed)
    return {"group": list(groups), "split": [_side(fold, k) for fold in found], "fold": [str(fold) for fold in found]}


def _side(fold: int, k: int) -> Split:
    return "test" if fold == 0 else "validation" if fold == 1 and k > 2 else "train"


def write_table(path: Path, manifest: Manifest, added: Mapping[str, Sequence[str]]) -> Path:
    """Writes the cases and the columns added as a CSV that ``Manifest.open`` reads.

    All columns of the data set's own table stay, in their order. One that is called like a new column and says something
    else is kept as ``given_…``, or ``given_…_2`` and so on where there is such a column already; so is ``fold`` where it is
    not new, since ``train`` obeys it. Paths are relative to the folder of the file written, wherever the images lie.

    Args:
        path: The file to write.
        manifest: The cases.
        added: New columns, a text a case.

    Raises:
        StorageError: If it cannot be written.
    """
    rows = [_cells(case, manifest, path) for case in manifest.cases]
    headers = _headers(manifest, rows)
    same = {header for header, values in added.items() if [row.get(header, "") for row in rows] == list(values)}
    names = _names([header for header in headers if header not in same], added)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*names.values(), *added])
    for row, *values in zip(rows, *added.values(), strict=True):
        writer.writerow([*(row.get(header, "") for header in names), *values])
    return write_atomic(path, stream.getvalue())


def _names(headers: Sequence[str], added: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Returns what each column is called in the new table: ``given_…`` for one whose name is taken."""
    taken = {*headers, *added}
    names = {}
    for header in headers:
        names[header] = header
        if header in added or header in _OBEYED:
            numbered = (f"given_{header}_{number}" for number in itertools.count(2))
            names[header] = next(name for name in itertools.chain([f"given_{header}"], numbered) if name not in taken)
            taken.add(names[header])
    return names


def _cells(case: Case, manifest: Manifest, table: Path) -> dict[str, str]:
    way = os.path.relpath(os.path.realpath(manifest.root), os.path.realpath(table.parent))

    def link(file: Path) -> str:
        return (Path(way) / file.relative_to(manifest.root)).as_posix()

    known = (link(case.path), case.label, case.stated_patient, link(case.mask) if case.mask else "", case.split or "")
    return dict(zip(_KNOWN, known, strict=True)) | dict(case.extra)


def _headers(manifest: Manifest, rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns the headers of the data set's table, or those that class folders have a value for."""
    filled = [header for header in _KNOWN if header in _KNOWN[:2] or any(row[header] for row in rows)]
    return list(dict.fromkeys([*manifest.columns, *filled]))
