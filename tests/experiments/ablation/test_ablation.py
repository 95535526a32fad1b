"""The ablation experiment on toy heads; no trial runs twice, and a failing trial does not affect the others."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.experiments.ablation.ablation import ablation
from reslink.experiments.runner.experiment import Experiment

MakeExperiment = Callable[..., Experiment]
TableRows = Callable[[dict[str, Any], str], list[dict[str, Any]]]


def test_ablation_writes_a_report_and_runs_no_trial_twice(
    toy_patients: Manifest,
    make_experiment: MakeExperiment,
    table_rows: TableRows,
    forbid_training: Callable[[], None],
) -> None:
    experiment = make_experiment(toy_patients)
    report = ablation(experiment, ["no_attention"], [1])
    folder = experiment.out / "ablation"
    assert json.loads((folder / "experiment.json").read_text()) == report
    assert report["experiment"] == "ablation"
    assert [row["condition"] for row in table_rows(report, "metrics")] == ["full", "no_attention", "area_1"]
    full = next(row for row in table_rows(report, "stability") if row["condition"] == "full")
    assert 0 < full["final_gradient_share"] < 1
    assert 0 < full["final_parameter_share"] < 1
    assert full["gradient_max"] >= full["gradient_median"] > 0
    assert full["diverged"] == "0 of 1"
    attention = [row for row in table_rows(report, "attention") if row["condition"] == "full"]
    assert {(row["layer"], row["region"]) for row in attention} == {
        ("first", "head"), ("first", "lesion"), ("final", "head"), ("final", "lesion")
    }  # fmt: skip
    assert [row["condition"] for row in table_rows(report, "borders")] == ["full"]
    with (folder / "experiment.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["condition"], row["seed"]) for row in rows] == [("full", "0"), ("no_attention", "0"), ("area_1", "0")]
    page = (folder / "report.html").read_text()
    assert "Research use only" in page
    assert re.search(r"\bnan\b", page, re.IGNORECASE) is None

    forbid_training()
    assert ablation(make_experiment(toy_patients), ["no_attention"], [1]) == report


def test_allowed_leakage_gives_a_warning(toy_patients: Manifest, make_experiment: MakeExperiment) -> None:
    leaky = make_experiment(toy_patients, "data.group_by=none", "data.allow_leakage=true")
    report = ablation(leaky, ["no_attention"], [])
    assert "all metrics may be too optimistic" in report["answer"][0]
    assert "all metrics may be too optimistic" in report["tables"][0]["note"]


def test_a_diverging_trial_is_reported_and_the_others_continue(
    toy_patients: Manifest,
    make_experiment: MakeExperiment,
    table_rows: TableRows,
    forbid_training: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network without residual links whose gradient is not finite."""
    from reslink.training.step import Learner, NotFiniteError

    step = Learner._step

    def failing_step(self: Learner, *args: Any) -> Any:
        if not self.network.config.residual:
            raise NotFiniteError("gradient")
        return step(self, *args)

    monkeypatch.setattr(Learner, "_step", failing_step)
    report = ablation(make_experiment(toy_patients), ["no_residual"], [])
    assert [failure["run"] for failure in report["failed"]] == ["no_residual, seed 0"]
    assert "not finite" in report["failed"][0]["reason"]
    row = next(row for row in table_rows(report, "stability") if row["condition"] == "no_residual")
    assert row["diverged"] == "1 of 1"
    full, missing = table_rows(report, "metrics")
    assert missing["condition"] == "no_residual"
    assert missing["accuracy"]["estimate"] is None
    assert full["accuracy"]["estimate"] is not None
    forbid_training()
    assert ablation(make_experiment(toy_patients), ["no_residual"], [])["failed"] == report["failed"]


def test_an_unknown_condition_raises_before_any_training(
    toy_patients: Manifest, make_experiment: MakeExperiment, tmp_path: Any
) -> None:
    experiment = make_experiment(toy_patients, out=tmp_path)
    with pytest.raises(UsageError, match="Did you mean 'no_attention'"):
        ablation(experiment, ["no_atention"])
    assert not experiment.runs.exists()
