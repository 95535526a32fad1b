"""What all commands have in common: help texts, and output paths that are refused before the work."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reslink.cli.main import app

COMMANDS = (
    *("demo", "split", "train", "tune", "adapt", "evaluate", "models", "predict", "explain"),
    *("audit", "report", "describe", "bench", "phantom", "info", "doctor"),
)


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


@pytest.mark.parametrize(
    ("option", "words"),
    [
        *(
            ("--out", ("phantom",)),
            ("--out", ("demo",)),
            ("--out", ("train", "data")),
            ("--out", ("tune", "data")),
            ("--out", ("experiment", "epochs", "data")),
        ),
        *(("--out", ("experiment", "robustness", "ct", "data")), ("--out", ("external", "ct", "data"))),
        *(("--out", ("explain", "ct", "scan.png")), ("--out", ("evaluate", "ct", "data"))),
        *(("--out", ("data", "download", "sartaj")), ("--out", ("data", "import", "data"))),
        ("--out", ("dicom", "answer", "ct", "series")),
        ("--queue", ("dicom", "listen", "ct", "--send-to", "PACS@127.0.0.1:104")),
        ("--queue", ("dicom", "watch", "ct", "--url", "http://127.0.0.1/dicom-web")),
    ],
)
def test_a_file_in_place_of_a_folder_is_refused_before_the_work(option: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "lost").symlink_to(tmp_path / "gone")
    for out, named, what in (("mine", "mine", "file"), ("mine/deeper", "mine", "file"), ("lost", "lost", "broken link")):
        result = invoke(*words, option, tmp_path / out)
        assert (result.exit_code, result.stdout) == (2, "")
        told = f"Error: {tmp_path / named} is a {what}.\n  {option} must name a folder.\n  For example, use {option} "
        assert result.stderr.startswith(f"{told}{tmp_path / named}-folder.")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", ["epochs", "robustness"])
def test_a_file_in_place_of_the_folder_of_an_experiment_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    words = ("ct", "data") if name == "robustness" else ("data",)
    result = invoke("experiment", name, *words, "--out", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {tmp_path / name} is a file.\n  --out must name a folder.\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_examples(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"reslink {command}" in result.stdout.partition("Examples:")[2]
