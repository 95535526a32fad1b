"""A tolerant CSV reader: byte order marks, semicolons or tabs, blank lines, headers in any case."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reslink.errors import UsageError, suggest

DATA_FORMATS = "DATA is a folder of class folders, a folder with a manifest.csv, or a CSV file with columns path,label"
"""The accepted forms of a data set, for error messages."""

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


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
        """Returns a cell that must not be empty.

        Raises:
            UsageError: If the cell is empty.
        """
        if not self.get(column):
            raise self.error(
                f"has no {column!r}", f"Each row needs a value in the column {column!r}", "Add the value, or remove the row"
            )
        return self.cells[column]

    def error(self, problem: str, allowed: str, next_step: str) -> UsageError:
        """Returns an error about this row; ``problem`` follows the words "Row 7 of manifest.csv"."""
        return UsageError(f"Row {self.number} of {self.table} {problem}", allowed, next_step)


def read_table(path: Path, columns: Sequence[str], required: Sequence[str]) -> list[Row]:
    """Reads a CSV file.

    The encoding is UTF-8, with or without a byte order mark, or UTF-16 with one. The separator is a comma, semicolon or
    tab, whichever is most frequent in the header (``csv.Sniffer`` is misled by paths with such characters). Blank lines
    are skipped.

    Args:
        path: The file.
        columns: The known columns; upper and lower case do not matter in their headers.
        required: The columns that the table must have.

    Returns:
        The rows in order. Other columns are kept under their own header.

    Raises:
        UsageError: If the file is not such a text file, lacks a required column, or has a row with more cells than the header.
    """
    lines = _parse_lines(path, _read_text(path))
    _, header = next(lines, (1, []))
    names = [_normalize_header(name, columns) for name in header]
    _check_header(path, names, required)
    return [_row(path, number, names, cells) for number, cells in lines]


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
            "Separate cells by commas, semicolons or tabs, and close all quotes",
            "Correct the row",
        ) from error


def _normalize_header(name: str, columns: Sequence[str]) -> str:
    return name.casefold() if name.casefold() in columns else name


def _check_header(path: Path, names: list[str], required: Sequence[str]) -> None:
    given = [name for name in names if name]
    for column in required:
        if column not in given:
            raise UsageError(
                f"{path} has no column {column!r}",
                f"The first row must name the columns {', '.join(required)}; it is {', '.join(given) or 'empty'}",
                _rename_advice(column, given),
            )
    duplicate = next((name for name in given if given.count(name) > 1), None)
    if duplicate:
        raise UsageError(f"{path} has two columns {duplicate!r}", "Column names must be unique", "Rename one of the columns")


def _rename_advice(column: str, given: list[str]) -> str:
    hint = suggest(column, given) if given else ""
    if hint.startswith("Did you mean"):
        return f"{hint} Rename it to {column!r}"
    return f"Add the column {column!r}"


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
