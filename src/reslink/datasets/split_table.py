"""Split tables: CSV files with the columns of a data set plus the group and split of each image."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from reslink.datasets.case import DEFAULT_FRACTIONS, Case, Split
from reslink.datasets.manifest import Manifest
from reslink.datasets.splits import assign_folds_and_holdout, assign_splits
from reslink.files import csv_writer, write_atomic
from reslink.printable_names import escape_name
from reslink.remote_paths import RemotePath

_STANDARD_COLUMNS = ("path", "label", "patient_id", "mask", "split")
_READ_BY_TRAIN = ("fold",)
"""Columns that ``reslink train`` reads. They must not survive from an earlier split if the new split does not write them."""


def drop_given_split(manifest: Manifest) -> Manifest:
    """Returns the manifest without the splits that the data set states."""
    return replace(manifest, cases=tuple(replace(case, split=None) for case in manifest.cases))


def split_columns(
    manifest: Manifest,
    groups: Sequence[str],
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS,
    n_folds: int | None = None,
    holdout: float = 0.0,
    seed: int = 0,
    drawn_groups: Sequence[str] | None = None,
) -> dict[str, list[str]]:
    """Splits the cases and returns the new columns for the table.

    Args:
        manifest: The cases. Splits that it states are kept; missing ones are drawn from the training cases.
        groups: The group of each case (``grouping.group_cases``).
        fractions: Shares of train, validation and test; ignored with ``n_folds``.
        n_folds: Number of cross-validation folds. The column ``fold`` then holds the fold, from 0; ``split`` calls fold 0
            test, fold 1 validation (with three folds or more) and the others train.
        holdout: Share of a hold-out that is in no fold, 0 to 0.5; only with ``n_folds``. ``split`` then calls the hold-out test
            and all folds train, and the hold-out has no fold.
        seed: Selects among equally good splits.
        drawn_groups: See :func:`reslink.datasets.splits.assign_splits`.

    Returns:
        The columns ``group`` and ``split``, and ``fold`` with ``n_folds``; one string per case.

    Raises:
        UsageError: If a class has too few groups.
        CheckFailedError: If a group or a patient appears in two of the stated splits.
    """
    if n_folds is None:
        drawn = assign_splits(manifest, groups, fractions, seed, drawn_groups=drawn_groups)
        return {"group": list(groups), "split": list(drawn)}
    fold_of_case = assign_folds_and_holdout(manifest, groups, n_folds, holdout, seed)
    return {
        "group": list(groups),
        "split": [_split_of_fold(fold, n_folds, has_holdout=holdout > 0) for fold in fold_of_case],
        "fold": ["" if fold is None else str(fold) for fold in fold_of_case],
    }


def _split_of_fold(fold: int | None, n_folds: int, *, has_holdout: bool) -> Split:
    if has_holdout:
        return "test" if fold is None else "train"
    return "test" if fold == 0 else "validation" if fold == 1 and n_folds > 2 else "train"


def write_split_table(path: Path, manifest: Manifest, added: Mapping[str, Sequence[str]]) -> Path:
    """Writes the cases with new columns as a CSV that ``Manifest.open`` reads.

    All columns of the original table are kept, in their order. A column with the name of a new one but other values is
    renamed to ``given_NAME`` (or ``given_NAME_2`` and so on, if that exists). An old ``fold`` column is always renamed,
    because ``reslink train`` reads it. Paths are relative to the folder of the new file.

    Args:
        path: The file to write.
        manifest: The cases.
        added: New columns by header; one string per case.

    Raises:
        StorageError: If it cannot be written.
    """
    rows = [_cells(case, manifest, path) for case in manifest.cases]
    headers = _headers(manifest, rows)
    same = {header for header, values in added.items() if [row.get(header, "") for row in rows] == list(values)}
    names = _column_names([header for header in headers if header not in same], added)
    stream = io.StringIO()
    writer = csv_writer(stream)
    writer.writerow([*names.values(), *added])
    for row, *values in zip(rows, *added.values(), strict=True):
        writer.writerow([*(row.get(header, "") for header in names), *values])
    return write_atomic(path, stream.getvalue())


def _column_names(headers: Sequence[str], added: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Returns the new name of each column: ``given_NAME`` if the name is taken."""
    taken = {*headers, *added}
    names = {}
    for header in headers:
        names[header] = header
        if header in added or header in _READ_BY_TRAIN:
            numbered = (f"given_{header}_{number}" for number in itertools.count(2))
            names[header] = next(name for name in itertools.chain([f"given_{header}"], numbered) if name not in taken)
            taken.add(names[header])
    return names


def _cells(case: Case, manifest: Manifest, table: Path) -> dict[str, str]:
    prefix = os.path.relpath(os.path.realpath(manifest.root), os.path.realpath(table.parent))

    def relative(file: Path) -> str:
        if isinstance(file, RemotePath):
            return escape_name(str(file))
        below = file.is_relative_to(manifest.root)
        return escape_name(Path(prefix, file.relative_to(manifest.root)).as_posix() if below else _relative(file, table.parent))

    values = (relative(case.path), case.label, case.stated_patient, relative(case.mask) if case.mask else "", case.split or "")
    cells = dict(zip(_STANDARD_COLUMNS, values, strict=True))
    if case.states:  # the table has a column for each label
        del cells["label"]
    return cells | dict(case.extra)


def _relative(file: Path, folder: Path) -> str:
    """Returns the path from a folder to a file, or the absolute path if they are on different drives of Windows."""
    real = Path(os.path.realpath(file.parent), file.name)
    try:
        return Path(os.path.relpath(real, os.path.realpath(folder))).as_posix()
    except ValueError:
        return real.as_posix()


def _headers(manifest: Manifest, rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns the headers of the original table, or the standard columns that have a value in any case."""
    filled = [
        header for header in (*_STANDARD_COLUMNS, "given_label") if header == "path" or any(row.get(header) for row in rows)
    ]
    return list(dict.fromkeys([*manifest.columns, *filled]))
