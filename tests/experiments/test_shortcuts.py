"""The shortcuts experiment on toy heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reslink.datasets.manifest import Manifest
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.shortcuts import shortcuts


def test_shortcuts_train_on_four_views_and_evaluate_across(
    toy_patients: Manifest,
    make_experiment: Callable[..., Experiment],
    table_rows: Callable[[dict[str, Any], str], list[dict[str, Any]]],
) -> None:
    report = shortcuts(make_experiment(toy_patients))
    metrics = table_rows(report, "metrics")
    assert [row["condition"] for row in metrics] == ["isolated", "whole", "outside", "outline"]
    assert len(table_rows(report, "cross")) == 7
    outside = next(row for row in metrics if row["condition"] == "outside")
    assert outside["accuracy"]["estimate"] is not None
