"""Rows of tables, and the errors about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslink.datasets.tables.rows import Row, Table, check_headers, data_error
from reslink.errors import UsageError


def test_a_row_gives_its_cells_and_names_itself_in_errors() -> None:
    row = Row("t.csv", 7, {"path": "a.png", "label": "nan"})
    assert (row.get("path"), row.get("other"), row.require("path")) == ("a.png", "", "a.png")
    with pytest.raises(UsageError, match=r"Row 7 of t\.csv has no 'label'\. Each row needs a value.*remove the row"):
        row.require("label")
    assert Table("t.csv", ("path",), (row,)).column("path") == ["a.png"]


def test_columns_without_a_name_are_left_out_and_names_are_unique() -> None:
    assert check_headers(Path("t.csv"), ["path", "", "label"]) == ("path", "label")
    with pytest.raises(UsageError, match=r"t\.csv has two columns 'path'\. Column names must be unique\. Rename one"):
        check_headers(Path("t.csv"), ["path", "path"])


def test_an_error_about_a_data_set_names_the_accepted_forms() -> None:
    assert "folder of class folders, a folder with a manifest.csv, or a CSV or Parquet table" in str(data_error("x", "y"))
