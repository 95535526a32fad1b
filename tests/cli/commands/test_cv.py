"""``reslink cv``: output of the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from reslink.api import cv as api
from reslink.cli.main import app

REPORT: dict[str, Any] = {"answer": ["Out of fold: fine."], "failed": [], "not_done": ["No OOD detector"], "tables": []}


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["cv", *map(str, words)])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    recorded: list[dict[str, Any]] = []

    def cv(data: Path, out: Path, **options: Any) -> dict[str, Any]:
        recorded.append(options)
        failed = [{"run": "fold 1, seed 0", "reason": "no disk"}] if options["epochs"] == 7 else []
        return REPORT | {
            "bundle": f"{out}/bundle",
            "distilled": None,
            "predictions": f"{out}/out_of_fold.csv",
            "failed": failed,
        }

    monkeypatch.setattr(api, "cv", cv)
    return recorded


def test_help_ends_with_examples() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    assert "reslink cv" in result.stdout.partition("Examples:")[2]


def test_the_answer_goes_to_stdout_and_the_files_to_stderr(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    result = invoke(tmp_path, "--out", tmp_path / "cv", "--folds", "4", "--seeds", "2", "--seed", "5", "--jobs", "3")
    assert result.exit_code == 0
    assert result.stdout == "Out of fold: fine.\n"
    assert f"bundle: {tmp_path}/cv/bundle" in result.stderr
    assert "Skipped: No OOD detector" in result.stderr
    assert [calls[0][name] for name in ("folds", "seeds", "seed", "jobs", "holdout")] == [4, 2, 5, 3, None]
    assert json.loads(invoke(tmp_path, "--out", tmp_path / "cv", "--json").stdout)["bundle"] == f"{tmp_path}/cv/bundle"


def test_a_failed_run_has_exit_code_1(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    result = invoke(tmp_path, "--out", tmp_path / "cv", "--epochs", "7")
    assert result.exit_code == 1
    assert "fold 1, seed 0 failed: no disk" in result.stderr
    assert calls
