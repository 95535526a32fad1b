"""Names of files that are not UTF-8 or hold control characters go through every function to the end."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from typer.testing import CliRunner

import reslink
from reslink.cli.main import app
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.printable_names import escape_name, unescape_name

ODD = [
    os.fsdecode(b"m\xe9d.png"),
    "cr\r.png",
    "tab\t.png",
    "new\nline.png",
    "esc\x1b[31m.png",
    " space .png",
    "=1+1.png",
    "a,b;c.png",
    'quo"te.png',
    "back\\slash\\xe9.png",
    "nbsp\u202f.png",
    "\u202egnp.png",
]


@pytest.fixture(scope="module")
def odd_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd") / os.fsdecode(b"dat\xe9")
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:64, :64]
    for label, level in (("Healthy", 90), ("Tumor", 150)):
        (folder / label).mkdir(parents=True)
        for name in ODD:
            disc = np.hypot(y - 32, x - 32) < rng.integers(20, 28)
            Picture.fromarray((disc * (level + rng.integers(0, 60, (64, 64)))).astype(np.uint8)).save(
                folder / label / name, "PNG"
            )
    return folder


def test_case_names_are_printable_and_lead_back_to_the_files(odd_data: Path) -> None:
    cases = Manifest.open(odd_data).cases
    assert {case.name for case in cases} == {escape_name(f"{label}/{name}") for label in ("Healthy", "Tumor") for name in ODD}
    assert all(odd_data / unescape_name(case.name) == case.path and case.name.isprintable() for case in cases)


def test_a_split_of_odd_names_names_the_same_files(odd_data: Path, tmp_path: Path) -> None:
    table = tmp_path / "split.csv"
    summary = reslink.split(odd_data, table, group_by="patient")
    assert (summary["n"], summary["left_out"]) == (len(ODD) * 2, {})
    table.read_text(encoding="utf-8")
    assert sorted(case.path for case in Manifest.open(table).cases) == sorted(
        Path(os.path.realpath(case.path)) for case in Manifest.open(odd_data).cases
    )


@pytest.mark.usefixtures("few_trees")
def test_an_audit_and_its_clean_copy_hold_every_file(odd_data: Path, tmp_path: Path) -> None:
    result = reslink.audit(odd_data, out=tmp_path / "audit", fix=tmp_path / "clean", workers=0)
    assert result["images"] == len(ODD) * 2
    assert result["files"]["corrupt"] == []
    (tmp_path / "audit" / "report.html").read_text(encoding="utf-8")
    with (tmp_path / "clean" / "private" / "changes.csv").open(newline="", encoding="utf-8") as stream:
        sources = {row["source"].removeprefix("'") for row in csv.DictReader(stream)}
    assert sources == {case.name for case in Manifest.open(odd_data).cases}


def test_evaluate_predict_and_explain_end(trained: tuple[Path, str, str], odd_data: Path, tmp_path: Path) -> None:
    result = reslink.evaluate(str(trained[0] / "bundle"), odd_data, tmp_path / "evaluated", device="cpu", allow_leakage=True)
    assert result["n"] + len(result["excluded"]) + len(result["leaked"]) == len(ODD) * 2
    (tmp_path / "evaluated" / "report.html").read_text(encoding="utf-8")
    with (tmp_path / "evaluated" / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        assert len(list(csv.DictReader(stream))) == result["n"]

    predictions = reslink.predict(str(trained[0] / "bundle"), odd_data, csv=tmp_path / "p.csv", device="cpu")
    assert [p.error for p in predictions] == [None] * len(ODD) * 2
    assert {p.path for p in predictions} == {str(case.path) for case in Manifest.open(odd_data).cases}
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [unescape_name(row["path"]) for row in rows] == [p.path for p in predictions]
    assert all(repr(p).isprintable() for p in predictions)

    few = [odd_data / "Tumor" / name for name in ODD[:5]]
    shown = reslink.explain(
        str(trained[0] / "bundle"), few, tmp_path / "ex", methods=["final_attention"], sanity=False, device="cpu"
    )
    assert [explanation.error for explanation in shown] == [None] * 5
    index = json.loads((tmp_path / "ex" / "explain.json").read_text(encoding="utf-8"))
    assert [entry["path"] for entry in index["images"]] == [str(path) for path in few]


def test_the_command_prints_each_prediction_on_one_line(trained: tuple[Path, str, str], odd_data: Path, tmp_path: Path) -> None:
    words = ["predict", str(trained[0] / "bundle"), str(odd_data), "--device", "cpu"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(done.stdout.split("\n")) - 1 == len(ODD) * 2
    assert all(line.replace("\t", "").isprintable() and line.count("\t") == 2 for line in done.stdout.splitlines())
    done = CliRunner().invoke(app, [*words, "--json"])
    paths = [json.loads(line)["path"] for line in done.stdout_bytes.decode("utf-8").splitlines()]
    assert sorted(map(os.fsencode, paths)) == sorted(os.fsencode(case.path) for case in Manifest.open(odd_data).cases)


def test_a_class_whose_name_is_not_utf8_is_refused_before_any_work(odd_data: Path, tmp_path: Path) -> None:
    shutil.copytree(odd_data, tmp_path / "data")
    (tmp_path / "data" / "Healthy").rename(tmp_path / "data" / os.fsdecode(b"Ges\xfcnder"))
    with pytest.raises(UsageError, match=r"class name 'Ges\\xfcnder' is not UTF-8.*Rename the folder"):
        Manifest.open(tmp_path / "data")
