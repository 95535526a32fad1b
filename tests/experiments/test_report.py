"""The files of an experiment's report, read back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from reslink.experiments.report import ExperimentReport, Table


def make_report() -> ExperimentReport:
    table = Table(
        "metrics", "Metrics", {"title": ("", "text"), "n": ("cases", "count")}, [{"title": "full", "n": 7}], "A note."
    )
    return ExperimentReport(
        "ablation",
        "Ablation",
        "Does attention help?",
        ["It does."],
        {"Data": "toy"},
        [table],
        runs=[{"seed": 0, "accuracy": 0.5}, {"seed": 1, "accuracy": None, "failure": "it, diverged"}],
        failed=[{"run": "full, seed 1", "reason": "it diverged"}],
    )


def test_json_csv_and_page_are_written(tmp_path: Path) -> None:
    content = make_report().write(tmp_path)
    assert json.loads((tmp_path / "experiment.json").read_text()) == content
    assert (content["experiment"], content["research_use_only"]) == ("ablation", True)
    assert content["tables"][0] == {
        "name": "metrics",
        "title": "Metrics",
        "columns": [{"key": "title", "title": "", "kind": "text"}, {"key": "n", "title": "cases", "kind": "count"}],
        "rows": [{"title": "full", "n": 7}],
        "note": "A note.",
    }
    page = (tmp_path / "report.html").read_text()
    assert all(text in page for text in ("Does attention help?", "It does.", "A note.", "it diverged"))


def test_the_csv_has_every_column_of_any_run(tmp_path: Path) -> None:
    make_report().write(tmp_path)
    with (tmp_path / "experiment.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows == [
        {"seed": "0", "accuracy": "0.5", "failure": ""},
        {"seed": "1", "accuracy": "", "failure": "it, diverged"},
    ]
