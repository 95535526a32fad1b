"""Tables of predictions: the Parquet file holds what the CSV holds."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from reslink.api.predictions.table import json_row, open_table
from reslink.errors import StorageError, UsageError
from reslink.inference.prediction import LabelPrediction, Prediction
from reslink.inference.series import SeriesPrediction
from reslink.inference.series_answers import SeriesAnswer
from reslink.labels import Labels

LABELS = Labels(("A", "B"))
FINDINGS = Labels(("bleed", "swelling"), exclusive=False)

ANSWER = Prediction(
    "scans/Zoë's, 1.png",
    label="B",
    probability=1 / 3,
    probabilities={"A": 2 / 3, "B": 1 / 3},
    prediction_set=("A", "B"),
    abstain=True,
    reasons=("two classes", "unlike the training images"),
    ood_score=1.0000000000000002,
    threshold=0.3,
    certainty="no answer",
)
OF_TWO = SeriesPrediction(
    *("B", 0.7, {"A": 0.3, "B": 0.7}, "B", 0.7, None, None, "too few slices", "mean"),
    slices=2,
    used=(0, 1),
    abstain=True,
    reasons=(),
)


def predictions() -> list[Prediction]:
    """An abstention, an answer, a slice of a volume, errors, a refusal, and a series with its error."""
    sure = replace(ANSWER, prediction_set=(), abstain=False, reasons=(), ood_score=0.1, certainty="decided")
    return [
        ANSWER,
        sure,
        replace(sure, path="volume.npy", slice=7, prediction_set=None, abstain=None, reasons=None, ood_score=None),
        Prediction("med\udce9cal\r.png", error="line 1\nline 2\x1b[31m"),
        Prediction("=cmd()/a.png", error="-1 is no image"),
        Prediction("mr.dcm", abstain=True, reasons=("MR, and the model is for CT",)),
        SeriesAnswer(**{**vars(ANSWER), "path": "series"}, files=("a.dcm", "b.dcm"), result=OF_TWO),
        SeriesAnswer("empty", error="Nine slices have no head"),
    ]


def by_label() -> list[Prediction]:
    one = LabelPrediction(True, 0.75, 0.5, ("present",), False, (), "decided")
    other = LabelPrediction(False, 0.25, 0.5, (), True, ("unsure",), "no answer")
    both = Prediction("a.png", label="bleed", probabilities={"bleed": 0.75, "swelling": 0.25}, abstain=False, reasons=())
    return [replace(both, by_label={"bleed": one, "swelling": other}), Prediction("b.png", error="broken")]


def write(file: Path, items: list[Prediction], labels: Labels) -> Path:
    with open_table(file, labels) as table:
        for item in items:
            table.write(item)
    return file


def as_csv(name: str, value: Any) -> str:
    """A cell of the Parquet table as the CSV writes it, independent of the code under test."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value) if isinstance(value, float) else str(value)
    return f"'{text}" if name in ("path", "error") and text[0] in "=+-@" else text


@pytest.mark.parametrize(("items", "labels"), [(predictions(), LABELS), (by_label(), FINDINGS)])
def test_the_parquet_file_holds_the_rows_of_the_csv(tmp_path: Path, items: list[Prediction], labels: Labels) -> None:
    with write(tmp_path / "t.csv", items, labels).open(newline="", encoding="utf-8") as stream:
        expected = list(csv.DictReader(stream))
    table = pq.read_table(write(tmp_path / "t.parquet", items, labels))
    rows = [{name: as_csv(name, value) for name, value in row.items()} for row in table.to_pylist()]
    assert len(rows) == len(items)
    assert rows == expected


def test_the_columns_are_typed_and_missing_values_are_null(tmp_path: Path) -> None:
    table = pq.read_table(write(tmp_path / "t.parquet", predictions(), LABELS))
    types = {field.name: str(field.type) for field in table.schema}
    assert {name for name, data_type in types.items() if data_type == "double"} == {
        *("probability", "p_A", "p_B", "ood_score", "threshold")
    }
    assert (types["slice"], types["series_slices"], types["abstain"]) == ("int64", "int64", "bool")
    rows = table.to_pylist()
    assert rows[0]["ood_score"] == ANSWER.ood_score
    assert rows[0]["reasons"] == "two classes; unlike the training images"
    assert (rows[1]["prediction_set"], rows[2]["prediction_set"]) == ("", None), "an empty set is no missing one"
    assert rows[1]["reasons"] is None
    assert [row["series_slices"] for row in rows] == [None] * 6 + [2, None]
    assert [row["slice"] for row in rows] == [None, None, 7] + [None] * 5
    assert rows[4]["path"] == "=cmd()/a.png", "only spreadsheets run formulas"
    assert all(value != "" for row in rows for name, value in row.items() if name != "prediction_set")


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_rows_of_other_tables_make_the_same_file(tmp_path: Path, name: str) -> None:
    whole, joined = write(tmp_path / "whole" / name, predictions(), LABELS), tmp_path / "joined" / name
    rows = [json_row(item, LABELS) for item in predictions()]
    if name == "t.csv":
        rows = whole.read_bytes().decode().splitlines(keepends=True)[1:]
    with open_table(joined, LABELS) as table:
        table.write_rows("")
        table.write_rows("".join(rows[:2]))
        table.write_rows("".join(rows[2:]))
    assert joined.read_bytes() == whole.read_bytes()


def test_a_csv_escapes_formulas(tmp_path: Path) -> None:
    items = [
        Prediction("=cmd()/a.png", error="-1 is no image"),
        Prediction("a-b.png", label="A", probability=0.75, probabilities={"A": 0.75, "B": 0.25}),
    ]
    rows = list(csv.reader(write(tmp_path / "out.csv", items, LABELS).read_text().splitlines()))
    assert rows[1][0] == "'=cmd()/a.png"
    assert rows[1][4] == "'-1 is no image"
    assert rows[2][:7] == ["a-b.png", "", "A", "0.75", "", "0.75", "0.25"]


def test_only_an_earlier_table_of_this_format_is_replaced(tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    table.touch()
    write(table, [ANSWER], LABELS)
    write(table, predictions(), LABELS)
    assert pq.read_metadata(table).num_rows == len(predictions())
    before = table.read_bytes()
    with pytest.raises(UsageError, match="exists and is not a table of predictions"):
        write(table, [], FINDINGS)
    assert table.read_bytes() == before
    table.write_bytes(write(tmp_path / "t.csv", [ANSWER], LABELS).read_bytes())
    with pytest.raises(UsageError, match="exists and is not a table of predictions"):
        write(table, [ANSWER], LABELS)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_run_that_fails_or_is_killed_leaves_no_table(tmp_path: Path, name: str) -> None:
    def fail() -> None:
        with open_table(tmp_path / name, LABELS) as table:
            table.write(ANSWER)
            raise RuntimeError("the network failed")

    with pytest.raises(RuntimeError, match="the network failed"):
        fail()
    assert list(tmp_path.iterdir()) == []
    code = f"""
import os, signal
from pathlib import Path
from reslink.api.predictions.table import open_table
from reslink.inference.prediction import Prediction
from reslink.labels import Labels
with open_table(Path({str(tmp_path / name)!r}), Labels(("A", "B"))) as table:
    for i in range(40_000):
        table.write(Prediction(f"{{i}}.png", error="broken"))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / name).exists()
    [part] = tmp_path.iterdir()
    assert part.stat().st_size > 1000, "it was killed while it wrote"
    assert part.name.startswith(f".{name}.")


def test_a_full_disk_leaves_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *a, **k: original(Path("/dev/full") if a == ("wb",) else path, *a, **k))
    with pytest.raises(StorageError, match=r"t\.parquet could not be written: No space left"):
        write(tmp_path / "t.parquet", predictions(), LABELS)
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"The package 'pyarrow' is not installed.*pip install"):
        write(tmp_path / "new" / "t.parquet", [ANSWER], LABELS)
    assert list(tmp_path.iterdir()) == []
    assert write(tmp_path / "t.csv", [ANSWER], LABELS).exists()
