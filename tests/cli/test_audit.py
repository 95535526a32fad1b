"""The verb: what goes where, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reslink.cli.main import app
from reslink.datasets.phantom import PhantomSettings, make_cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    make_cohort(folder, PhantomSettings.parse({"patients": 4, "slices": 1, "size": 160}))
    return folder


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reslink.audit.shortcuts.TREES", 10)


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, words)])


def test_json_is_all_that_stands_on_stdout(cohort: Path) -> None:
    result = run(cohort, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["images"], found["verdict"]) == (4, "pass")


def test_the_page_and_the_list_are_written_and_not_replaced_unasked(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(cohort, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "Research use only" in result.stderr
    assert "shortcuts: outside_head\tnot done\tthere are 4 independent groups" in result.stdout
    assert (out / "audit.json").exists()
    assert (out / "report.html").exists()
    again = run(cohort, "--out", out)
    assert again.exit_code == 2
    assert "holds an audit already" in again.stderr
    assert run(cohort, "--out", out, "--overwrite", "--quiet").exit_code == 0


def test_a_failed_gate_ends_with_3(cohort: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name, label in (("P0001", "A"), ("P0002", "B")):
        (data / label).mkdir(parents=True)
        for other in ("A", "B"):
            (data / label / f"{other}{name}.png").write_bytes((cohort / "images" / f"{name}_00.png").read_bytes())
    (data / "B" / "copy.png").write_bytes((cohort / "images" / "P0001_00.png").read_bytes())
    result = run(data, "--json")
    assert result.exit_code == 3
    assert "1 image under more than one label" in result.stderr
    assert json.loads(result.stdout)["verdict"] == "fail"


def test_a_broken_file_ends_with_1_and_is_named(cohort: Path, tmp_path: Path) -> None:
    for label in "AB":
        (tmp_path / label).mkdir()
        for i, source in enumerate(sorted((cohort / "images").iterdir())[:2]):
            (tmp_path / label / f"{i}.png").write_bytes(source.read_bytes() if label == "A" else b"broken")
    result = run(tmp_path, "--json")
    assert result.exit_code == 1
    assert "B/0.png is left out" in result.stderr
    assert len(json.loads(result.stdout)["files"]["corrupt"]) == 2


def test_a_folder_that_is_missing_ends_with_2(tmp_path: Path) -> None:
    result = run(tmp_path / "nothing", "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "does not exist" in result.stderr
