"""Printed result of an experiment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from reslink.cli.console import Console
from reslink.cli.experiment_output import print_experiment


def result(**changes: Any) -> dict[str, Any]:
    return {"answer": ["Five epochs are enough."], "failed": [], "not_done": ["One seed has no spread."], **changes}


def test_people_get_the_conclusions_and_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    print_experiment(Console(), result(), {"report": Path("out") / "report.html"}, json=False)
    printed = capsys.readouterr()
    assert printed.out == "Five epochs are enough.\n"
    assert printed.err.splitlines()[:2] == ["Skipped: One seed has no spread.", "report: out/report.html"]
    assert "Research use only" in printed.err


def test_a_failed_run_is_a_warning_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    failed = result(failed=[{"run": "a_0", "reason": "no space"}])
    with pytest.raises(typer.Exit) as ended:
        print_experiment(Console(), failed, {"report": Path("out") / "report.html"}, json=True)
    printed = capsys.readouterr()
    assert ended.value.exit_code == 1
    assert json.loads(printed.out) == failed
    assert printed.err == "Warning: a_0 failed: no space\n"
