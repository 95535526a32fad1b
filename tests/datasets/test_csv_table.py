"""CSV tables in the forms that spreadsheets write."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslink.datasets.csv_table import read_table
from reslink.errors import UsageError

COLUMNS = ("path", "label")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path,label\na.png,x\n\nb.png,y\n", "utf-8"),
        ("PATH;Label\r\n a.png ;x\r\nb.png;y\r\n", "utf-8-sig"),
        ("path\tlabel\na.png\tx\nb.png\ty", "utf-16"),
    ],
)
def test_separators_encodings_and_blank_lines(tmp_path: Path, text: str, encoding: str) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(text.encode(encoding))
    rows = read_table(table, COLUMNS, COLUMNS)
    assert [row.cells for row in rows] == [{"path": "a.png", "label": "x"}, {"path": "b.png", "label": "y"}]


def test_a_row_knows_its_line_and_its_other_columns(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text('path,label,Site\n"a\nb.png",x,north\nc.png\n')
    first, second = read_table(table, COLUMNS, ("path",))
    assert (first.number, first.get("Site"), first.get("mask")) == (3, "north", "")
    assert second.get("label") == ""
    with pytest.raises(UsageError, match=r"Row 4 of t\.csv has no 'label'"):
        second.require("label")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.csv cannot be read: No such file"):
        read_table(tmp_path / "none.csv", COLUMNS, COLUMNS)
