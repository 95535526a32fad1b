"""A tolerant CSV reader: byte order marks, commas, semicolons or tabs, the line ``sep=;`` of Excel, blank lines."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from reslink.datasets.tables.rows import DATA_FORMATS, Row, RowStream, check_headers
from reslink.errors import UsageError
from reslink.labels import clean_text

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATORS = ",;\t|"
_START_CHARACTERS = 1 << 20
_SEPARATOR_LINE = re.compile(r"""\s*["']?sep *= *(?P<separator>\t|\S)(?P=separator)*["']?[^\S\r\n]*(\r\n|\r|\n|$)""", re.I)
"""The first line that Excel reads as the choice of the separator."""


def open_csv(path: Path) -> RowStream:
    """Opens a CSV file.

    The encoding is UTF-8, with or without a byte order mark, or UTF-16 with one. The separator is stated by a first line
    such as ``sep=;``, or is the comma, semicolon, tab or vertical bar that is most frequent in the header (``csv.Sniffer`` is
    misled by paths with such characters). Blank lines are skipped.

    Raises:
        UsageError: If the file is not such a text file, or has two columns of one name; while the rows are read, if one has
            more cells than the header.
    """
    lines = _parse_lines(path)
    _, names = next(lines, (1, []))
    names = [clean_text(name) for name in names]
    return RowStream(path.name, check_headers(path, names), (_row(path, number, names, cells) for number, cells in lines))


def _parse_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the line number and stripped cells of each line that is not blank."""
    try:
        with path.open("rb") as stream:
            coding = "utf-16" if stream.read(2) in _UTF16 else "utf-8-sig"
        with path.open(encoding=coding, newline="") as text:
            yield from _parse_text(path, text)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", DATA_FORMATS, "Check the path and its permissions"
        ) from error
    except UnicodeError as error:
        raise UsageError(
            f"{path} cannot be read as text: it is not {coding.removesuffix('-sig').upper()}",
            DATA_FORMATS,
            "Give the folder of the images, or save the table as 'CSV UTF-8'",
        ) from error


def _parse_text(path: Path, text: TextIO) -> Iterator[tuple[int, list[str]]]:
    start = text.read(_START_CHARACTERS)
    separator, skipped = "", 0
    text.seek(0)
    if stated := _SEPARATOR_LINE.match(start):
        separator, skipped = stated["separator"], max(1, stated[0].count("\n"))
        text.read(stated.end())
    if not separator:
        header = next((line for line in start.splitlines() if line.strip()), "")
        separator = max(_SEPARATORS, key=header.count)
    reader = csv.reader(text, delimiter=separator, strict=True)
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
