"""A tolerant CSV reader: byte order marks, commas, semicolons or tabs, the line ``sep=;`` of Excel, blank lines."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reslink.errors import UsageError
from reslink.labels import clean_text, is_missing

DATA_FORMATS = "DATA is a folder of class folders, a folder with a manifest.csv, or a CSV file with columns path,label"
"""The accepted forms of a data set, for error messages."""


def data_error(given: str, next_step: str) -> UsageError:
    """Returns an error that names the accepted forms of a data set."""
    return UsageError(given, DATA_FORMATS, next_step)


_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATORS = ",;\t|"
_SEPARATOR_LINE = re.compile(r"""\s*["']?sep *= *(?P<separator>\t|\S)(?P=separator)*["']?[^\S\r\n]*(\r\n|\r|\n|$)""", re.I)
"""The first line that Excel reads as the choice of the separator."""


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        table: Name of the file, for error messages.
        number: Line number on which the row ends; the header is usually line 1.
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
    """The rows of a CSV file.

    Attributes:
        name: Name of the file.
        headers: The column names, in order, as in the file; columns without a name are left out.
        rows: The rows, in order.
    """

    name: str
    headers: tuple[str, ...]
    rows: tuple[Row, ...]

    def column(self, header: str) -> list[str]:
        """Returns the cells of a column, one per row."""
        return [row.get(header) for row in self.rows]


def read_table(path: Path) -> Table:
    """Reads a CSV file.

    The encoding is UTF-8, with or without a byte order mark, or UTF-16 with one. The separator is stated by a first line
    such as ``sep=;``, or is the comma, semicolon, tab or vertical bar that is most frequent in the header (``csv.Sniffer`` is
    misled by paths with such characters). Blank lines are skipped.

    Raises:
        UsageError: If the file is not such a text file, has two columns of one name, or a row with more cells than the header.
    """
    lines = _parse_lines(path, _read_text(path))
    _, names = next(lines, (1, []))
    names = [clean_text(name) for name in names]
    headers = tuple(name for name in names if name)
    duplicate = next((name for name in headers if headers.count(name) > 1), None)
    if duplicate:
        raise UsageError(f"{path} has two columns {duplicate!r}", "Column names must be unique", "Rename one of the columns")
    return Table(path.name, headers, tuple(_row(path, number, names, cells) for number, cells in lines))


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", DATA_FORMATS, "Check the path and its permissions"
        ) from error
    coding = "utf-16" if data.startswith(_UTF16) else "utf-8-sig"
    try:
        return data.decode(coding)
    except UnicodeError as error:
        raise UsageError(
            f"{path} cannot be read as text: it is not {coding.removesuffix('-sig').upper()}",
            DATA_FORMATS,
            "Give the folder of the images, or save the table as 'CSV UTF-8'",
        ) from error


def _parse_lines(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the line number and stripped cells of each line that is not blank."""
    separator, skipped = "", 0
    if stated := _SEPARATOR_LINE.match(text):
        separator, text = stated["separator"], text[stated.end() :]
        skipped = max(1, stated[0].count("\n"))
    if not separator:
        header = next((line for line in text.splitlines() if line.strip()), "")
        separator = max(_SEPARATORS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield reader.line_num + skipped, stripped
    except csv.Error as error:
        raise UsageError(
            f"Row {reader.line_num + skipped} of {path} is not CSV: {error}",
            "Separate cells by commas, semicolons or tabs, and close all quotes",
            "Correct the row",
        ) from error


def _row(path: Path, number: int, names: list[str], cells: list[str]) -> Row:
    filled = cells[: len(names)] + [""] * (len(names) - len(cells))
    row = Row(path.name, number, {name: cell for name, cell in zip(names, filled, strict=True) if name})
    if any(cells[len(names) :]):
        raise row.error(
            f"has {len(cells)} cells, but the header has {len(names)}",
            "A row has one cell per column",
            'Put quotes around cells that contain the separator: "a,b"',
        )
    return row
