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
    spoken = invoke(*words)
    assert spoken.stdout.splitlines() == report["answer"]
    assert "% of the images, and" in spoken.stdout
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
