"""Which steps of a trial run, and which are skipped."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from reslink.datasets.manifest import Manifest
from reslink.errors import DivergedError
from reslink.experiments.runner import run_trial as module
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.run_trial import make_training_data, run_trial
from reslink.experiments.runner.trial import Trial
from reslink.training.monitoring.progress import SilentProgress


@pytest.fixture
def trial(toy_patients: Manifest, make_experiment: Callable[..., Experiment]) -> tuple[Experiment, Trial]:
    """A small experiment and a trial of it."""
    experiment = make_experiment(toy_patients.subset(range(12)))
    splits = tuple(("train", "validation", "test")[i // 2 % 3] for i in range(len(experiment.data.groups)))
    return experiment, Trial("full", 0, experiment.make_recipe(0), splits)


def test_a_diverged_trial_is_recorded_and_not_tried_again(
    trial: tuple[Experiment, Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def diverge(*_: object, **settings: object) -> None:
        calls.append(settings["resume"])
        raise DivergedError("The loss is NaN", "It must be finite", "Lower optimizer.lr")

    monkeypatch.setattr(module, "train", diverge)
    experiment, diverging = trial
    for _ in range(2):
        run_trial(diverging, experiment.data, experiment.runs, SilentProgress())
    assert calls == [True]
    reason = json.loads((diverging.folder(experiment.data, experiment.runs) / "diverged.json").read_text())["reason"]
    assert reason.startswith("The loss is NaN.")


def test_the_training_data_has_the_splits_of_the_trial(trial: tuple[Experiment, Trial]) -> None:
    experiment, some = trial
    data = make_training_data(some, experiment.data, experiment.cache)
    for split in ("train", "validation", "test"):
        assert data.indices(split).tolist() == [i for i, name in enumerate(some.splits) if name == split]
    assert data.leaked_cases() == {}, "two images of a patient are in one split"
