"""``reslink report``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner, Result

from reslink.cli.main import app


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, [str(word) for word in words])


def test_report_lists_the_items_for_the_author(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run()
    result = invoke("report", run, "--checklist", "claim")
    assert result.exit_code == 0
    assert "42\tFunding\tto be written by the author" in result.stdout
    assert (run / "review-claim.html").is_file()
    value = json.loads(invoke("report", run, "--checklist", "stard-ai", "--json").stdout)
    assert value["checklist"]["counts"]
    assert value["research_use_only"] is True
    assert json.loads(invoke("report", run, "--json").stdout)["checklist"] is None
    assert invoke("report", run, "--checklist", "clam").exit_code == 2
    assert invoke("report", tmp_path / "nowhere").exit_code == 1
