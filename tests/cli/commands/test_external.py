"""``reslink external``: output of the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reslink.cli.main import app
from reslink.files import lock_folder


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["external", *map(str, words)])


@pytest.mark.usefixtures("zoo_with_ct")
def test_the_report_lies_in_the_output_folder(ring_heads: Path, tmp_path: Path) -> None:
    words = ("ct", ring_heads, "--images", "20", "--device", "cpu", "--out", tmp_path / "out")
    result = invoke(*words, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report == json.loads((tmp_path / "out" / "experiment.json").read_text())
    assert report["experiment"] == "external"
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / ring_heads.name / "predictions.csv").is_file()
    refused = invoke(*words)
    assert refused.exit_code == 2
    assert "already holds an external evaluation" in refused.stderr
    spoken = invoke(*words, "--overwrite")
    assert spoken.stdout.splitlines() == report["answer"]
    assert "% of the images in scope, and" in spoken.stdout
    assert "report.html" in spoken.stderr


@pytest.mark.usefixtures("zoo_with_ct")
def test_an_unknown_class_suggests_the_nearest(ring_heads: Path, tmp_path: Path) -> None:
    result = invoke("ct", ring_heads, "--map", "x=Tumour", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "Did you mean 'Tumor'" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("zoo_with_ct")
def test_two_commands_cannot_write_one_folder(ring_heads: Path, tmp_path: Path) -> None:
    with lock_folder(tmp_path / "out"):
        result = invoke("ct", ring_heads, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "in use by another reslink process" in result.stderr


@pytest.mark.usefixtures("zoo_with_ct")
@pytest.mark.parametrize("held", ["config.yaml", "bundle.json", "bundle/bundle.json"])
def test_the_folder_of_a_run_or_a_bundle_is_never_overwritten(ring_heads: Path, tmp_path: Path, held: str) -> None:
    (tmp_path / "run" / held).parent.mkdir(parents=True)
    (tmp_path / "run" / held).touch()
    (tmp_path / "run" / "report.html").write_text("report of the run")
    result = invoke("ct", ring_heads, "--out", tmp_path / "run", "--overwrite")
    assert result.exit_code == 2
    assert f"holds a run or a bundle: {held}" in result.stderr
    assert "has a folder of its own" in result.stderr
    assert "run-external" in result.stderr
    assert (tmp_path / "run" / "report.html").read_text() == "report of the run"
