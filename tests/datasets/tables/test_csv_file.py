"""CSV tables in the forms that spreadsheets write."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from reslink.datasets.tables.files import read_table
from reslink.errors import UsageError
from reslink.files import csv_writer


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path,label\na.png,x\n\nb.png,y\n", "utf-8"),
        ("path;label\r\n a.png ;x\r\nb.png;y\r\n", "utf-8-sig"),
        ("path\tlabel\na.png\tx\nb.png\ty", "utf-16"),
        ("path|label\ra.png|x\rb.png|y\r", "utf-8"),
        ("sep=;\r\npath;label\r\na.png;x\r\nb.png;y\r\n", "utf-8-sig"),
        ('"sep=;"\npath;label\n"a.png";x\nb.png;y', "utf-8"),
        ("SEP=\t\npath\tlabel\na.png\tx\nb.png\ty", "utf-16"),
        ("sep=,\npath,label\na.png,x\nb.png,y", "utf-8"),
        ("sep=^\npath^label\na.png^x\nb.png^y", "utf-8"),
        ("sep=;;;\npath;label\na.png;x\nb.png;y", "utf-8"),
        ("sep = ; \rpath;label\ra.png;x\rb.png;y", "utf-8"),
        ("pa\u200bth,\u00a0label\na.png,x\nb.png,y", "utf-8"),
    ],
)
def test_separators_encodings_and_blank_lines(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding))
    table = read_table(path)
    assert table.headers == ("path", "label")
    assert [row.cells for row in table.rows] == [{"path": "a.png", "label": "x"}, {"path": "b.png", "label": "y"}]
    assert table.column("label") == ["x", "y"]


@pytest.mark.parametrize(("text", "number"), [("a,b\n1,\n", 2), ("sep=;\na;b\n1;\n", 3), ("\n\nsep=;\na;b\n\n1;", 6)])
def test_the_number_of_a_row_is_its_line_in_the_file(tmp_path: Path, text: str, number: int) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"Row {number} of t\.csv has no 'b'"):
        read_table(path).rows[0].require("b")


def test_a_header_that_begins_with_sep_is_a_header(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("sep,label\n=,x\n")
    assert read_table(path).headers == ("sep", "label")


def test_a_row_knows_its_line_and_its_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('path,label,Site\n"a\nb.png",x,north\nc.png\n')
    first, second = read_table(path).rows
    assert (first.number, first.get("Site"), first.get("mask")) == (3, "north", "")
    assert second.get("label") == ""
    with pytest.raises(UsageError, match=r"Row 4 of t\.csv has no 'label'"):
        second.require("label")


@pytest.mark.parametrize("sign", ["\r", "\n", "\t", "\r\n", ",", '"', "\x0b", "\x1c", "\u2028", "\x85", ";"])
def test_cells_of_our_writer_are_read_back(tmp_path: Path, sign: str) -> None:
    cells, stream = [f"n{sign}1.png", f"x{sign}y"], io.StringIO()
    writer = csv_writer(stream)
    writer.writerow(["path", "label"])
    writer.writerow(cells)
    writer.writerow(["last", "row"])
    path = tmp_path / "t.csv"
    path.write_bytes(stream.getvalue().encode())
    assert [list(row.cells.values()) for row in read_table(path).rows] == [cells, ["last", "row"]]
    with path.open(newline="", encoding="utf-8") as opened:
        assert list(csv.reader(opened)) == [["path", "label"], cells, ["last", "row"]]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.csv cannot be read: No such file"):
        read_table(tmp_path / "none.csv")
