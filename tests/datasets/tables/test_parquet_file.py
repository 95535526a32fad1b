"""Tables in Parquet: the texts are those of a CSV, and so are the checks and the messages."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from reslink.datasets.manifest import Manifest
from reslink.datasets.tables.files import open_table, read_table
from reslink.datasets.tables.parquet_file import open_parquet
from reslink.errors import UsageError


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in "abcd":
        Image.fromarray(np.full((32, 32), 7, np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


FOUR = {"path": ["a.png", "b.png", "c.png", "d.png"], "label": ["x", "x", "y", "y"]}


def test_cells_become_the_texts_that_pandas_writes_to_a_csv(tmp_path: Path) -> None:
    import pandas

    columns = {
        "text": pa.array([" a ", None]),
        "whole": pa.array([3, None], pa.int64()),
        "small": pa.array([7, 8], pa.uint8()),
        "real": pa.array([1.0, 0.1]),
        "single": pa.array([0.1, float("nan")], pa.float32()),
        "flag": pa.array([True, False]),
        "coded": pa.array(["x", "y"]).dictionary_encode(),
        "codes": pa.array([5, 6]).dictionary_encode(),
        "day": pa.array([datetime.date(2026, 1, 31), None]),
        "time": pa.array([datetime.datetime(2026, 1, 31, 8, 30), None], pa.timestamp("ns")),
        "exact": pa.array([decimal.Decimal("1.50"), None]),
        "large": pa.array(["u", "v"], pa.large_string()),
        "none": pa.nulls(2),
    }
    path = write(tmp_path / "t.parquet", columns)
    csv = tmp_path / "t.csv"
    frame = pa.table(columns).to_pandas(integer_object_nulls=True)
    frame.to_csv(csv, index=False)
    assert isinstance(frame, pandas.DataFrame)
    expected = read_table(csv)
    table = read_table(path)
    assert table.headers == expected.headers
    assert [row.cells for row in table.rows] == [row.cells for row in expected.rows]


def test_a_timestamp_keeps_its_time_at_midnight(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"time": pa.array([datetime.datetime(2026, 1, 31)], pa.timestamp("ns"))})
    assert read_table(path).column("time") == ["2026-01-31 00:00:00"]
    assert "2026-01-31 00:00:00" in (open_parquet.__doc__ or "")


def test_an_index_of_pandas_without_a_name_is_left_out_as_in_a_csv(tmp_path: Path) -> None:
    import pandas

    frame = pandas.DataFrame({"path": ["a"], "label": ["x"]}, index=[7])
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").headers == ("path", "label")


def test_a_data_set_in_parquet_is_that_of_its_csv(images: Path) -> None:
    columns = {**FOUR, "MRN": pa.array([1, 1, None, 4]), "Site": pa.array(["n", "s", "n", None]).dictionary_encode()}
    (images / "t.csv").write_text("path,label,MRN,Site\na.png,x,1,n\nb.png,x,1,s\nc.png,y,,n\nd.png,y,4,\n")
    write(images / "t.parquet", columns)
    csv, parquet = (Manifest.open(images / name) for name in ("t.csv", "t.parquet"))
    assert parquet.cases == csv.cases
    assert (parquet.labels, parquet.root, parquet.columns) == (csv.labels, csv.root, csv.columns)
    assert parquet.column_roles == csv.column_roles
    assert [note.replace("t.parquet", "t.csv") for note in parquet.notes] == list(csv.notes)


def test_a_folder_of_part_files_is_one_table_beside_its_images(images: Path) -> None:
    folder = images / "table.parquet"
    write(folder / "part-1.parquet", {name: values[2:] for name, values in FOUR.items()})
    write(folder / "part-0.parquet", {name: values[:2] for name, values in reversed(FOUR.items())})
    (folder / "_SUCCESS").touch()
    (folder / "_metadata.parquet").write_text("no part")
    assert [case.name for case in Manifest.open(folder).cases] == FOUR["path"]


def test_a_row_is_named_by_its_number_in_its_file(images: Path) -> None:
    write(images / "t" / "part-0.parquet", FOUR)
    write(images / "t" / "part-1.parquet", {"path": ["a.png", "b.png"], "label": ["x", None]})
    with pytest.raises(UsageError, match=r"Row 2 of part-1\.parquet has no 'label'\. Each row needs a class"):
        Manifest.open(images / "t")


def test_rows_without_any_value_are_skipped_but_counted(images: Path) -> None:
    write(images / "t.parquet", {"path": ["a.png", None, ""], "label": ["x", None, " "], "n": [1.0, None, float("nan")]})
    assert [row.number for row in read_table(images / "t.parquet").rows] == [1]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([[1], [2]]), r"list<\w+: int64>"),
        (pa.array([b"a", b"b"]), "binary"),
        (pa.array([{"a": 1}, None]), r"struct<a: int64>"),
        (pa.array([1, 2], pa.duration("s")), r"duration\[s\]"),
    ],
)
def test_a_column_that_holds_no_texts_is_an_error(tmp_path: Path, values: pa.Array, kind: str) -> None:
    path = write(tmp_path / "t.parquet", {"path": ["a", "b"], "image": values})
    with pytest.raises(
        UsageError, match=rf"t\.parquet has the column 'image' of the type {kind}\. Columns of a table hold text.*without this"
    ):
        read_table(path)


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["path", " path "])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=r"t\.parquet has two columns 'path'\. Column names must be unique"):
        read_table(tmp_path / "t.parquet")
    pq.write_table(table.rename_columns(["path", "path"]), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=r"t\.parquet has two columns 'path'\. Column names must be unique"):
        read_table(tmp_path / "t.parquet")


def test_parts_with_different_columns(tmp_path: Path) -> None:
    write(tmp_path / "t" / "a.parquet", {"path": ["a"], "label": ["x"]})
    write(tmp_path / "t" / "b.parquet", {"path": ["a"], "class": ["x"]})
    with pytest.raises(UsageError, match=r"a\.parquet has path, label, and b\.parquet has path, class\. All Parquet files"):
        read_table(tmp_path / "t")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"path,label\na.png,x\n"])
def test_a_file_that_is_not_parquet(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(UsageError, match=r"t\.parquet cannot be read as Parquet: .*complete file.*Write or copy"):
        read_table(tmp_path / "t.parquet")


def test_a_file_with_a_damaged_page(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"path": [f"{i}.png" for i in range(5000)]}, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[200:2000] = bytes(1800)
    path.write_bytes(data)
    stream = open_table(path)
    with pytest.raises(UsageError, match=r"t\.parquet cannot be read as Parquet: "):
        list(stream.rows)


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.parquet", FOUR)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"The package 'pyarrow' is not installed.*'parquet'.*pip install"):
        read_table(path)


def test_rows_are_read_in_batches_while_they_are_consumed(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"path": [f"{i}.png" for i in range(200_000)]}, row_group_size=1_000_000)
    before = pa.total_allocated_bytes()
    stream = open_table(path)
    first = next(stream.rows)
    assert (first.number, first.cells) == (1, {"path": "0.png"})
    assert pa.total_allocated_bytes() - before < 16 << 20
    assert sum(1 for _ in stream.rows) == 199_999
