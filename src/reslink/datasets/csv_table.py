"""CSV tables as people make them: byte order marks, semicolons or tabs, blank lines, headers in any case."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reslink.errors import UsageError, nearest

DATA = "DATA is a folder of class folders, a folder with a manifest.csv, or a CSV file with columns path,label"
"""What a data set may be, for messages."""

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        table: Name of the file, for messages.
        number: Line of the file on which the row ends; the header of most tables is 1.
        cells: The cells by column, without spaces around them.
    """

    table: str
    number: int
    cells: dict[str, str]

    def get(self, column: str) -> str:
        """Returns a cell, empty where the table has no such column."""
        return self.cells.get(column, "")

    def need(self, column: str) -> str:
        """Returns a cell that must not be empty.

        Raises:
            UsageError: If it is.
        """
        if not self.get(column):
            raise self.error(f"has no {column!r}", f"Each row fills the column {column!r}", "Fill it or remove the row")
        return self.cells[column]

    def error(self, what: str, allowed: str, next_step: str) -> UsageError:
        """Returns the error of this row; ``what`` follows the words "Row 7 of manifest.csv"."""
        return UsageError(f"Row {self.number} of {self.table} {what}", allowed, next_step)


def read_table(path: Path, columns: Sequence[str], required: Sequence[str]) -> list[Row]:
    """Reads a CSV file.

    UTF-8 with or without byte order mark, or UTF-16 with one. Cells are separated by commas, semicolons or tabs,
    whichever the header has most of (``csv.Sniffer`` is misled by paths that hold such characters). Blank lines are
    skipped.

    Args:
        path: The file.
        columns: The columns that mean something; their headers are known in any case.
        required: Those that must be there.

    Returns:
        The rows in order; columns beyond ``columns`` are kept under their own header.

    Raises:
        UsageError: If the file is no such text, lacks a required column, or a row has more cells than the header.
    """
    lines = _records(path, _text(path))
    _, header = next(lines, (1, []))
    names = [_known(name, columns) for name in header]
    _check_header(path, names, required)
    return [_row(path, number, names, cells) for number, cells in lines]


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", DATA, "See that the path is right and may be read"
        ) from error
    coding = "utf-16" if data.startswith(_UTF16) else "utf-8-sig"
    try:
        return data.decode(coding)
    except UnicodeError as error:
        raise UsageError(
            f"{path} cannot be read as text: it is not {coding.removesuffix('-sig').upper()}",
            DATA,
            "Give the folder of the images, or save the table again as 'CSV UTF-8'",
        ) from error


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields line number and stripped cells of every line that is not blank."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield reader.line_num, stripped
    except csv.Error as error:
        raise UsageError(
            f"Row {reader.line_num} of {path} is not CSV: {error}",
            "Cells are separated by commas, semicolons or tabs; quotes are closed",
            "Correct the row",
        ) from error


def _known(name: str, columns: Sequence[str]) -> str:
    return name.casefold() if name.casefold() in columns else name


def _check_header(path: Path, names: list[str], required: Sequence[str]) -> None:
    given = [name for name in names if name]
    for column in required:
        if column not in given:
            raise UsageError(
                f"{path} has no column {column!r}",
                f"The first row names the columns {', '.join(required)}; here it is {', '.join(given) or 'empty'}",
                _advice(column, given),
            )
    double = next((name for name in given if given.count(name) > 1), None)
    if double:
        raise UsageError(f"{path} has two columns {double!r}", "A column has a name of its own", "Rename one of them")


def _advice(column: str, given: list[str]) -> str:
    hint = nearest(column, given) if given else ""
    if hint.startswith("Did you mean"):
        return f"{hint}? Rename it to {column!r}"
    return f"Add the column {column!r}"


def _row(path: Path, number: int, names: list[str], cells: list[str]) -> Row:
    filled = cells[: len(names)] + [""] * (len(names) - len(cells))
    row = Row(path.name, number, {name: cell for name, cell in zip(names, filled, strict=True) if name})
    if any(cells[len(names) :]):
        raise row.error(
            f"has {len(cells)} cells but the header {len(names)}",
            "A row has a cell for each column",
            'Put quotes around cells that hold the separator: "a,b"',
        )
    return row
