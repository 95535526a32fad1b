"""Tables of predictions: CSV, or Parquet if the name of the file ends in ``.parquet``."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from reslink.datasets.tables.parquet_writer import ColumnType, ParquetWriter, has_columns, is_parquet_name, parquet_schema
from reslink.errors import InputError, UsageError
from reslink.files import escape_formula, storage_errors
from reslink.printable_names import escape_name, printable
from reslink.remote_paths import check_local

if TYPE_CHECKING:
    from reslink.inference.prediction import Prediction
    from reslink.labels import Labels

_SOURCE_COLUMNS: dict[str, ColumnType] = {
    "path": "string",
    "slice": "int64",
    "label": "string",
    "probability": "float64",
    "error": "string",
}
_DECISION_COLUMNS: dict[str, ColumnType] = {
    "prediction_set": "string",
    "abstain": "bool",
    "ood_score": "float64",
    "reasons": "string",
    "threshold": "float64",
    "certainty": "string",
    "series_slices": "int64",
}
_LABEL_COLUMNS: dict[str, ColumnType] = {
    "present": "bool",
    "threshold": "float64",
    "set": "string",
    "abstain": "bool",
    "certainty": "string",
}
_ESCAPED = (0, 4)
"""The columns path and error, which may begin as a formula of a spreadsheet does."""


class PredictionTable(Protocol):
    """An open table of predictions."""

    def write(self, prediction: Prediction) -> None:
        """Writes one prediction."""

    def write_rows(self, rows: str) -> None:
        """Writes rows as :func:`row_text` returns them."""


def columns_of(labels: Labels) -> dict[str, ColumnType]:
    """Returns the type of each column of a table of predictions, by name.

    The columns are path, slice, label, probability and error, ``p_<class>`` for each class, and the decision. ``series_slices``
    is the number of combined slices in the row of a whole series, and missing in the row of a slice. With several labels at
    once, columns follow for each: ``present_<label>``, ``threshold_<label>``, ``set_<label>``, ``abstain_<label>`` and
    ``certainty_<label>``.
    """
    columns = dict(_SOURCE_COLUMNS)
    columns |= {f"p_{name}": "float64" for name in labels.names}
    columns |= _DECISION_COLUMNS
    for name in () if labels.exclusive else labels.names:
        columns |= {f"{column}_{name}": data_type for column, data_type in _LABEL_COLUMNS.items()}
    return columns


def cells_of(prediction: Prediction, labels: Labels) -> list[Any]:
    """Returns the cells of a prediction in the order of :func:`columns_of`; a missing value is None.

    A path that is not printable has escapes (:func:`reslink.printable_names.escape_name`).
    """
    from reslink.inference.series_answers import SeriesAnswer

    probabilities = prediction.probabilities or {}
    return [
        escape_name(prediction.path),
        prediction.slice,
        prediction.label,
        prediction.probability,
        prediction.error and printable(prediction.error),
        *(probabilities.get(name) for name in labels.names),
        _joined(prediction.prediction_set),
        prediction.abstain,
        prediction.ood_score,
        "; ".join(prediction.reasons or ()) or None,
        prediction.threshold,
        prediction.certainty,
        prediction.result.slices if isinstance(prediction, SeriesAnswer) and prediction.result else None,
        *_label_cells(prediction, labels),
    ]


def _joined(prediction_set: Sequence[str] | None) -> str | None:
    return None if prediction_set is None else "|".join(prediction_set)


def _label_cells(prediction: Prediction, labels: Labels) -> list[Any]:
    """Returns the cells of each of several labels at once in the order of ``_LABEL_COLUMNS``; none with one class."""
    cells: list[Any] = []
    for name in () if labels.exclusive else labels.names:
        if prediction.by_label is None:
            cells += [None] * len(_LABEL_COLUMNS)
        else:
            one = prediction.by_label[name]
            cells += [one.present, one.threshold, _joined(one.prediction_set), one.abstain, one.certainty]
    return cells


class CsvTable:
    """Predictions as CSV: a missing value is empty, and a truth value is ``true`` or ``false``.

    A path or error that a spreadsheet would run as a formula is written with a leading ``'``.
    """

    def __init__(self, stream: TextIO, labels: Labels) -> None:
        self._stream, self._writer, self._labels = stream, csv.writer(stream), labels
        self._writer.writerow(columns_of(labels))

    def write(self, prediction: Prediction) -> None:
        """Writes one prediction."""
        cells = [str(cell).lower() if isinstance(cell, bool) else cell for cell in cells_of(prediction, self._labels)]
        for i in _ESCAPED:
            cells[i] = cells[i] and escape_formula(cells[i])
        self._writer.writerow(cells)

    def write_rows(self, rows: str) -> None:
        """Writes rows that another table wrote, without its header."""
        self._stream.write(rows)


class ParquetTable:
    """Predictions as Parquet: a missing value is null; a prediction set without a class is an empty text."""

    def __init__(self, writer: ParquetWriter, labels: Labels) -> None:
        self._writer, self._labels = writer, labels

    def write(self, prediction: Prediction) -> None:
        """Writes one prediction."""
        self._writer.append(cells_of(prediction, self._labels))

    def write_rows(self, rows: str) -> None:
        """Writes rows of :func:`json_row`."""
        for row in rows.split("\n")[:-1]:
            self._writer.append(json.loads(row))


def json_row(prediction: Prediction, labels: Labels) -> str:
    """Returns the cells of a prediction as a line of JSON, in which numbers keep all their bits."""
    return json.dumps(cells_of(prediction, labels)) + "\n"


@contextmanager
def open_table(file: Path, labels: Labels) -> Iterator[PredictionTable]:
    """Opens a table of predictions. The file appears when the block ends, and not at all if the block fails.

    Args:
        file: The file: Parquet if its name ends in ``.parquet``, otherwise CSV.
        labels: The classes.

    Raises:
        UsageError: If the path is a folder or a URL, an existing file is not a table of predictions, or pyarrow is not
            installed for Parquet.
        StorageError: If the file cannot be written.
    """
    check_local(file, "--csv")
    is_parquet = is_parquet_name(file)
    if is_parquet:
        parquet_schema(columns_of(labels))  # pyarrow is missing, perhaps
    if file.is_dir():
        raise UsageError(f"{file} is a folder", "--csv must name a file", f"For example, use --csv {file / 'predictions.csv'}")
    if file.exists() and not _is_prediction_table(file, labels):
        raise UsageError(
            f"{file} exists and is not a table of predictions",
            "Only an earlier table of predictions is overwritten",
            "Choose another file with --csv",
        )
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with storage_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            if is_parquet:
                with part.open("wb") as stream, ParquetWriter(stream, columns_of(labels)) as writer:
                    yield ParquetTable(writer, labels)
            else:
                with part.open("w", newline="", encoding="utf-8") as text:
                    yield CsvTable(text, labels)
            part.replace(file)
    finally:
        with suppress(OSError):  # a parent of the path may be a file
            part.unlink(missing_ok=True)


def check_replacement(file: Path | None, *, answered: bool, error: str) -> None:
    """Checks, at the end of the block of :func:`open_table`, that an earlier table is not replaced by one without an answer.

    Args:
        file: The table; None if there is none.
        answered: Whether a line of the new table has no error.
        error: The first error.

    Raises:
        InputError: If no line has an answer, and there is an earlier table.
    """
    if not answered and file is not None and file.is_file() and file.stat().st_size:
        raise InputError(
            f"No file could be predicted, so {file} was not replaced. The first error: {error.removesuffix('.')}",
            "An earlier table of predictions is replaced by one with at least one answer",
            "Correct the paths or wait for the storage, and run the command again",
        )


def _is_prediction_table(path: Path, labels: Labels) -> bool:
    """Returns whether a file is empty, or a table of predictions for the same classes, in the format of its name."""
    if not path.is_file():
        return False
    if path.stat().st_size == 0:
        return True
    if is_parquet_name(path):
        return has_columns(path, columns_of(labels))
    text = io.StringIO()
    CsvTable(text, labels)
    header = text.getvalue().encode()
    with path.open("rb") as stream:
        return stream.read(len(header)) == header
