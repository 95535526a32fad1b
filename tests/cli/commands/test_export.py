"""``reslink export``: output and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reslink.cli.main import app


def run(*words: object) -> object:
    return CliRunner().invoke(app, ["export", *map(str, words)])


def test_an_export_is_written_once(finished_run: Path, ring_heads: Path, tmp_path: Path) -> None:
    words = (finished_run, "--format", "hf", "--data", ring_heads, "--images", 3, "--out", tmp_path / "out")
    done = run(*words, "--json")
    assert done.exit_code == 0, done.stderr  # type: ignore[attr-defined]
    said = json.loads(done.stdout)  # type: ignore[attr-defined]
    assert said["files"]["model.safetensors"]["labels"] == 0
    assert said["images"] == 3
    again = run(*words)
    assert again.exit_code == 2  # type: ignore[attr-defined]
    assert "already holds an export" in again.stderr  # type: ignore[attr-defined]
    plain = run(*words, "--overwrite")
    assert plain.exit_code == 0  # type: ignore[attr-defined]
    assert "Research use only" in plain.stderr  # type: ignore[attr-defined]
    assert plain.stdout.splitlines()[1].startswith("model.safetensors\t3\t")  # type: ignore[attr-defined]


def test_a_failed_parity_check_ends_with_3(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reslink.export import folder

    monkeypatch.setitem(folder.TOLERANCES, "fp32", -1.0)
    done = run(finished_run, "--format", "hf", "--images", 1, "--out", tmp_path / "out")
    assert done.exit_code == 3  # type: ignore[attr-defined]
    assert "synthetic heads" in done.stderr  # type: ignore[attr-defined]
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_wrong_usage(finished_run: Path, tmp_path: Path) -> None:
    done = run(finished_run, "--format", "int8", "--out", tmp_path / "out")
    assert done.exit_code == 2  # type: ignore[attr-defined]
    assert "torch-export" in done.stderr  # type: ignore[attr-defined]
