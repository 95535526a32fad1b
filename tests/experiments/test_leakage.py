"""The leakage experiment on toy heads with duplicates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.experiments.leakage import leakage
from reslink.experiments.runner.experiment import Experiment

MakeExperiment = Callable[..., Experiment]


def test_data_without_related_images_raises(make_experiment: MakeExperiment, tmp_path: Path, toy_patients: Manifest) -> None:
    single = tmp_path / "single.csv"
    rows = [f"{case.path.name},{case.label}" for case in toy_patients.cases[::2]]
    for case in toy_patients.cases[::2]:
        (tmp_path / case.path.name).write_bytes(case.path.read_bytes())
    single.write_text("path,label\n" + "\n".join(rows) + "\n")
    with pytest.raises(UsageError, match="near duplicates"):
        leakage(make_experiment(Manifest.open(single)))


def test_leakage_trains_on_both_splits_and_counts_related_images(
    toy_duplicates: Manifest,
    make_experiment: MakeExperiment,
    table_rows: Callable[[dict[str, Any], str], list[dict[str, Any]]],
) -> None:
    experiment = make_experiment(toy_duplicates)
    report = leakage(experiment)
    assert [row["condition"] for row in table_rows(report, "metrics")] == ["clean", "random"]
    assert "preprocess.size 64" in report["facts"]["Settings other than the defaults"]
    assert report["facts"]["Images that share a group"] == 48
    evaluations = {
        row["condition"]: json.loads((experiment.runs / row["run"] / "evaluation.json").read_text()) for row in report["runs"]
    }
    assert evaluations["clean"]["leakage"]["status"] == "none found"
    assert evaluations["random"]["leakage"]["status"] == "allowed"
    assert evaluations["random"]["metrics"]["accuracy"]["leakage"] is True
