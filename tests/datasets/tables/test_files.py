"""The table of a data set: its format and its place."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reslink.datasets.tables.files import find_table, is_manifest, read_table
from reslink.errors import UsageError


def write_parquet(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"path": ["a.png"], "label": ["x"]}), path)
    return path


def test_the_table_of_a_file_and_of_folders(tmp_path: Path) -> None:
    csv, manifest = tmp_path / "t.csv", write_parquet(tmp_path / "images" / "manifest.parquet")
    csv.write_text("path,label\n")
    part = write_parquet(tmp_path / "table" / "part-0.parquet")
    assert find_table(csv) == csv
    assert find_table(manifest.parent) == manifest
    assert find_table(part.parent) == part.parent
    assert find_table(tmp_path) is None
    assert [is_manifest(path) for path in (csv, manifest, manifest.with_suffix(".csv"))] == [False, True, True]


def test_a_folder_with_two_manifests(tmp_path: Path) -> None:
    write_parquet(tmp_path / "manifest.parquet")
    (tmp_path / "manifest.csv").write_text("path,label\n")
    with pytest.raises(UsageError, match=r"manifest\.csv and a manifest\.parquet.*CSV or Parquet table.*Give the path of one"):
        find_table(tmp_path)


def test_a_parquet_file_is_recognized_by_its_content(tmp_path: Path) -> None:
    write_parquet(tmp_path / "t.parquet").rename(tmp_path / "table.dat")
    assert read_table(tmp_path / "table.dat").column("path") == ["a.png"]
