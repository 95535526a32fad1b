"""The table of a data set: its format and its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from reslink.datasets.manifest import Manifest
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


def test_a_parquet_file_beside_class_folders_is_no_table(tmp_path: Path) -> None:
    write_parquet(tmp_path / "radiomics.parquet")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "read.txt").touch()
    assert find_table(tmp_path) == tmp_path
    for label in "xy":
        (tmp_path / label / "inner").mkdir(parents=True)
        for i in range(2):
            Image.fromarray(np.full((32, 32), i, np.uint8)).save(tmp_path / label / "inner" / f"{i}.png")
    assert find_table(tmp_path) is None
    manifest = Manifest.open(tmp_path)
    assert manifest.labels.names == ("x", "y")
    assert any("parquet" in note for note in manifest.notes)
    write_parquet(tmp_path / "manifest.parquet")
    assert find_table(tmp_path) == tmp_path / "manifest.parquet"


def test_a_folder_with_two_manifests(tmp_path: Path) -> None:
    write_parquet(tmp_path / "manifest.parquet")
    (tmp_path / "manifest.csv").write_text("path,label\n")
    with pytest.raises(UsageError, match=r"manifest\.csv and a manifest\.parquet.*CSV or Parquet table.*Give the path of one"):
        find_table(tmp_path)


def test_a_parquet_file_is_recognized_by_its_content(tmp_path: Path) -> None:
    write_parquet(tmp_path / "t.parquet").rename(tmp_path / "table.dat")
    assert read_table(tmp_path / "table.dat").column("path") == ["a.png"]
