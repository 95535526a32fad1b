"""``reslink.audit``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import reslink
from reslink.cli.main import app
from reslink.errors import UsageError

pytestmark = pytest.mark.usefixtures("few_trees")


def test_it_returns_what_the_command_prints(heads: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = reslink.audit(heads, out=tmp_path / "audit", workers=0)
    assert capfd.readouterr() == ("", "")
    assert result["images"] == 28
    assert (tmp_path / "audit" / "report.html").is_file()
    assert json.loads((tmp_path / "audit" / "audit.json").read_text()) == json.loads(json.dumps(result))
    printed = CliRunner().invoke(app, ["audit", str(heads), "--json", "--workers", "0"])
    assert json.loads(printed.stdout) == json.loads(json.dumps(result))
    with pytest.raises(UsageError, match="already holds an audit"):
        reslink.audit(heads, out=tmp_path / "audit")


def test_fix_writes_a_clean_copy(heads: Path, tmp_path: Path) -> None:
    reslink.audit(heads, fix=tmp_path / "clean", workers=0)
    assert len(reslink.Manifest.open(tmp_path / "clean")) > 0
