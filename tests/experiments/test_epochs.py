"""The epochs experiment on toy heads, and the verdict on over- and under-fitting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.experiments.epochs import epochs, verdict
from reslink.experiments.runner.experiment import Experiment

MakeExperiment = Callable[..., Experiment]


def test_few_validation_groups_give_no_verdict(
    toy_patients: Manifest,
    make_experiment: MakeExperiment,
    table_rows: Callable[[dict[str, Any], str], list[dict[str, Any]]],
) -> None:
    report = epochs(make_experiment(toy_patients), [1, 2])
    assert [row["title"] for row in table_rows(report, "metrics")] == ["1 epoch", "2 epochs"]
    [groups] = {row["groups"] for row in table_rows(report, "fit")}
    assert groups < 10
    assert {row["verdict"] for row in table_rows(report, "fit")} == {f"unknown: only {groups} groups"}
    assert any("too few patients" in sentence for sentence in report["answer"])


@pytest.mark.parametrize(
    ("gap", "losses", "expected"),
    [
        (0.0, [0.6, 0.4, 0.3], "under-fitted"),
        (0.0, [0.6, 0.3, 0.299], "neither"),
        (0.0, [0.6, 0.3, 0.4], "over-fitted"),
        (0.2, [0.6, 0.4, 0.3], "over-fitted"),
        (0.0, [0.6], "neither"),
    ],
)
def test_verdict(gap: float, losses: list[float], expected: str) -> None:
    assert verdict(gap, [np.array(losses)], [None]) == expected


def test_a_single_number_of_epochs_raises_before_any_training(
    toy_patients: Manifest, make_experiment: MakeExperiment, tmp_path: Path
) -> None:
    experiment = make_experiment(toy_patients, out=tmp_path)
    with pytest.raises(UsageError, match="two or more different numbers"):
        epochs(experiment, [5])
    assert not experiment.runs.exists()
