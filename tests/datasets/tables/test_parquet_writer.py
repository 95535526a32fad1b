"""Parquet files that are written row by row."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from reslink.datasets.tables.parquet_writer import ParquetWriter, has_columns, is_parquet_name
from reslink.errors import UsageError

COLUMNS = {"name": "string", "count": "int64", "share": "float64", "inside": "bool"}


def test_rows_are_written_in_groups_with_typed_cells_and_nulls() -> None:
    stream, rows = io.BytesIO(), [[f"a{i}", i, i / 3, i % 2 == 0] for i in range(9)] + [[None] * 4]
    with ParquetWriter(stream, COLUMNS, 4) as writer:
        for row in rows:
            writer.append(row)
            assert len(writer._cells[0]) < 4
    table = pq.read_table(io.BytesIO(stream.getvalue()))
    assert [str(field.type) for field in table.schema] == ["string", "int64", "double", "bool"]
    assert [list(row.values()) for row in table.to_pylist()] == rows
    metadata = pq.ParquetFile(io.BytesIO(stream.getvalue())).metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [4, 4, 2]


def test_a_file_without_rows_has_its_columns(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    with file.open("wb") as stream, ParquetWriter(stream, COLUMNS):
        pass
    assert has_columns(file, COLUMNS)
    assert not has_columns(file, {**COLUMNS, "count": "float64"})
    assert not has_columns(file, {"name": "string"})
    (tmp_path / "other.parquet").write_text("name,count\n")
    assert not has_columns(tmp_path / "other.parquet", COLUMNS)
    assert is_parquet_name(Path("a.PARQUET"))
    assert not is_parquet_name(Path("a.parquet.csv"))


def test_a_full_disk_is_an_error_of_the_block() -> None:
    def write() -> None:
        with Path("/dev/full").open("wb") as stream, ParquetWriter(stream, {"name": "string"}) as writer:
            for _ in range(100):
                writer.append([os.urandom(1000).hex()])

    with pytest.raises(OSError, match="No space left"):
        write()


def test_without_pyarrow_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"The package 'pyarrow' is not installed.*'parquet'.*pip install"):
        ParquetWriter(io.BytesIO(), COLUMNS)  # type: ignore[arg-type]
