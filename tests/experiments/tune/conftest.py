"""A search without training: the AUROC of a run is a function of its learning rate."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reslink.datasets.manifest import Manifest
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.trial import DIVERGED, SharedData, Trial
from reslink.experiments.tune.options import TuneOptions
from reslink.experiments.tune.space import load_space
from reslink.files import csv_text, sha256, write_atomic, write_json
from reslink.training.run_folder import FINISHED

SPACE = {"optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}, "model.drop_rate": [0.0, 0.2]}
BEST_RATE = 3e-3


@dataclass
class Training:
    """What the fake training has done.

    Attributes:
        runs: Names of the runs in their order.
        keys: Their keys.
        diverges: Learning rate above which a run diverges.
        equal_weights: Whether all runs have the same weights.
        threshold: Probability above which the second class is predicted.
        stop_at: Name of the run at which Ctrl-C is pressed; None for never.
    """

    runs: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    diverges: float = math.inf
    equal_weights: bool = False
    threshold: float = 0.5
    stop_at: str | None = None

    def run(self, trial: Trial, data: SharedData, runs: Path, _progress: object) -> None:
        """Writes what a run leaves."""
        if trial.condition == self.stop_at:
            raise KeyboardInterrupt
        folder = trial.folder(data, runs)
        assert not trial.is_complete(folder), "a run is complete and was started again"
        self.runs.append(trial.condition)
        self.keys.append(trial.key(data))
        if trial.recipe.optimizer.lr > self.diverges:
            write_json(
                folder / DIVERGED, {"reason": "The loss is not finite at step 3. It must be a number. Lower optimizer.lr."}
            )
            return
        write_atomic(folder / "predictions.csv", predictions(trial, data, self.threshold))
        write_json(folder / "evaluation.json", {"bundle_sha256": sha256("" if self.equal_weights else trial.key(data))})
        write_json(folder / FINISHED, {"best_epoch": 1})
        (folder / "metrics.jsonl").touch()


def predictions(trial: Trial, data: SharedData, threshold: float) -> str:
    """Predictions whose AUROC falls with the distance of the learning rate from the best one."""
    rows = [i for i, split in enumerate(trial.splits) if split == "test"]
    noise = 0.5 + abs(math.log10(trial.recipe.optimizer.lr / BEST_RATE))
    rng = np.random.default_rng(rows[0])
    names = data.manifest.labels.names
    table = []
    for row in rows:
        case = data.manifest.cases[row]
        p = 1 / (1 + math.exp(-(2 * (case.label == names[1]) - 1) - noise * rng.normal()))
        table.append(
            {"sample_id": case.name, "group": data.groups[row], "label": case.label, "prediction": names[int(p > threshold)]}
            | {f"p_{names[0]}": 1 - p, f"p_{names[1]}": p}
        )
    return csv_text(list(table[0]), table)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    """Replaces the training of a run."""
    fake = Training()
    monkeypatch.setattr("reslink.experiments.runner.run_trial.run_trial", fake.run)
    return fake


Search = Callable[..., dict[str, Any]]


@pytest.fixture
def search(make_experiment: Callable[..., Experiment], toy_patients: Manifest, tmp_path: Path) -> Search:
    """Searches in a folder of the test, or goes on with the search there."""
    from reslink.experiments.tune.tune import tune

    def run(
        *overrides: str, space: Mapping[str, Any] = SPACE, data: Manifest = toy_patients, out: str = "tuned", **options: Any
    ) -> dict[str, Any]:
        experiment = make_experiment(data, *overrides, out=tmp_path / out)
        loaded = load_space(space, None, experiment.recipe)
        return tune(experiment, TuneOptions(loaded, **({"folds": 4, "trials": 6} | options)))

    return run


@pytest.fixture
def journal(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """Returns the lines of the journal."""
    return lambda: [json.loads(line) for line in (tmp_path / "tuned" / "journal.log").read_text().splitlines()]
