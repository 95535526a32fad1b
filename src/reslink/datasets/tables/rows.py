"""The rows of tables in any format, and the errors about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reslink.errors import UsageError
from reslink.labels import is_missing

DATA_FORMATS = (
    "DATA is a folder of class folders, a folder with a manifest.csv, or a CSV or Parquet table with columns path,label"
)
"""The accepted forms of a data set, for error messages."""


def data_error(given: str, next_step: str) -> UsageError:
    """Returns an error that names the accepted forms of a data set."""
    return UsageError(given, DATA_FORMATS, next_step)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Attributes:
        table: Name of the file, for error messages.
        number: Line number on which the row ends in a CSV file, whose header is usually line 1; in a Parquet file 1 for the
            first row.
        cells: Column name to cell, without surrounding spaces.
    """

    table: str
    number: int
    cells: dict[str, str]

    def get(self, column: str) -> str:
        """Returns a cell, or an empty string if the table has no such column."""
        return self.cells.get(column, "")

    def require(self, column: str) -> str:
        """Returns a cell that must state a value.

        Raises:
            UsageError: If the cell is empty, or holds a word for a missing value.
        """
        if is_missing(self.get(column)):
            raise self.error(
                f"has no {column!r}", f"Each row needs a value in the column {column!r}", "Add the value, or remove the row"
            )
        return self.cells[column]

    def error(self, problem: str, allowed: str, next_step: str) -> UsageError:
        """Returns an error about this row; ``problem`` follows the words "Row 7 of manifest.csv"."""
        return UsageError(f"Row {self.number} of {self.table} {problem}", allowed, next_step)


@dataclass(frozen=True)
class Table:
    """The rows of a CSV or Parquet table.

    Attributes:
        name: Name of the file, or of the folder of Parquet files.
        headers: The column names, in order, as in the file; columns without a name are left out.
        rows: The rows, in order.
    """

    name: str
    headers: tuple[str, ...]
    rows: tuple[Row, ...]

    def column(self, header: str) -> list[str]:
        """Returns the cells of a column, one per row."""
        return [row.get(header) for row in self.rows]


@dataclass(frozen=True)
class RowStream:
    """The rows of a table file while it is read, so that memory does not grow with their number.

    Attributes:
        name: Name of the file or folder.
        headers: The column names, as in :class:`Table`.
        rows: The rows, in order; they can be read once. Reading raises a UsageError for a row that is not valid.
    """

    name: str
    headers: tuple[str, ...]
    rows: Iterator[Row]


def check_headers(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the column names that are not empty.

    Raises:
        UsageError: If two columns have one name.
    """
    headers = tuple(name for name in names if name)
    duplicate = next((name for name in headers if headers.count(name) > 1), None)
    if duplicate:
        raise UsageError(f"{path} has two columns {duplicate!r}", "Column names must be unique", "Rename one of the columns")
    return headers
