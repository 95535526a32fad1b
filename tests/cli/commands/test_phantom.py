"""``reslink phantom``: cohorts of synthetic heads."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reslink.cli.commands.phantom import parse_settings
from reslink.cli.main import app
from reslink.errors import UsageError


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


def test_phantom_writes_a_cohort(tmp_path: Path) -> None:
    result = invoke("phantom", "--out", tmp_path / "heads", "--patients", "2", "--seed", "1", "--set", "size=128")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'heads' / 'manifest.csv'}\n")
    assert {"images", "masks", "manifest.csv"} <= {path.name for path in (tmp_path / "heads").iterdir()}
    header = (tmp_path / "heads" / "manifest.csv").read_text().splitlines()[0]
    assert header.split(",")[:4] == ["path", "label", "patient_id", "mask"]


def test_phantom_keeps_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    assert invoke("phantom", "--out", tmp_path, "--patients", "2").exit_code == 2
    assert (tmp_path / "thesis.txt").read_text() == "x"


def test_phantom_names_the_nearest_setting(tmp_path: Path) -> None:
    result = invoke("phantom", "--out", tmp_path / "heads", "--set", "modalty=CT")
    assert result.exit_code == 2
    assert "modality" in result.stderr


def test_settings_are_parsed_into_a_tree() -> None:
    assert parse_settings(["a.b=1", "a.c=[x, y]", "d=true"]) == {"a": {"b": 1, "c": ["x", "y"]}, "d": True}
    with pytest.raises(UsageError, match="has no '='"):
        parse_settings(["size"])
    with pytest.raises(UsageError, match="is not valid"):
        parse_settings(["size=[1"])
    with pytest.raises(UsageError, match="'a' is both a value and a section"):
        parse_settings(["a=1", "a.b=2"])
