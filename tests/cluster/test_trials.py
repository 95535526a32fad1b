"""Trials on a real cluster: the bits of one machine, also if a worker is killed or the experiment is interrupted."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reslink.cluster.trials import ClusterRuns
from reslink.datasets.cache.shards import ShardFiller
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.trial import Trial
from reslink.files import sha256
from reslink.training.signals import Interrupted

sys.path.insert(0, str(Path(__file__).parent))
import work

pytestmark = pytest.mark.slow


@pytest.fixture
def on_cluster(connected: Any, toy_patients: Manifest, make_experiment: Callable[..., Experiment]) -> Callable[..., Any]:
    """Makes an experiment that trains on the cluster, and its trials."""

    def make(out: Path, *settings: str, jobs: int | None = None) -> tuple[Experiment, list[Trial]]:
        experiment = make_experiment(toy_patients, *settings, seeds=(0, 1), out=out, cluster=ClusterRuns(jobs))
        return experiment, [experiment.make_trial("full", seed) for seed in experiment.seeds]

    return make


def weights(experiment: Experiment, trial: Trial) -> str:
    return sha256(trial.folder(experiment.data, experiment.runs) / "bundle" / "model.safetensors")


def when(ready: Callable[[], object], action: Callable[[], object]) -> None:
    """Does something once a condition holds."""
    work.wait_for(ready)
    action()


def test_a_killed_worker_and_an_interruption_end_in_the_weights_of_one_machine(
    on_cluster, make_experiment, toy_patients, tmp_path, in_thread
):
    local = make_experiment(toy_patients, "trainer.epochs=8", seeds=(0, 1), out=tmp_path / "local", jobs=2)
    expected = [local.make_trial("full", seed) for seed in local.seeds]
    assert local.run_trials(expected) == {}

    experiment, trials = on_cluster(tmp_path / "cluster", "trainer.epochs=8")
    results = [trial.folder(experiment.data, experiment.runs) / "results.csv" for trial in trials]
    stopped = pytest.raises(Interrupted, match=r"interrupted after 0 of 1 runs\. The unfinished runs have saved their state")
    with in_thread(when, results[0].exists, lambda: signal.raise_signal(signal.SIGINT)), stopped:
        experiment.run_trials(trials[:1])
    assert not (results[0].parent / "checkpoints" / "finished.json").exists()

    killed: list[int] = []

    def kill() -> None:
        for process in work.processes_of("_run_trial"):
            killed.append(process.pid)
            process.kill()

    with in_thread(when, results[1].exists, kill):
        assert experiment.run_trials(trials) == {}
    assert killed
    assert [weights(experiment, trial) for trial in trials] == [weights(local, trial) for trial in expected]


def test_the_cluster_decodes_the_images(on_cluster, make_experiment, toy_patients, tmp_path, monkeypatch) -> None:
    expected = make_experiment(toy_patients, seeds=(0,), out=tmp_path / "local").cache

    def here(*_: object) -> None:
        pytest.fail("an image is decoded in this process")

    monkeypatch.setattr(ShardFiller, "_fill", here)
    experiment, _ = on_cluster(tmp_path / "cluster")
    assert (experiment.cache.pixels == expected.pixels).all()


def test_a_failed_trial_is_reported_and_the_others_continue(on_cluster, tmp_path) -> None:
    experiment, trials = on_cluster(tmp_path / "cluster", "trainer.epochs=1", jobs=1)
    blocked = trials[0].folder(experiment.data, experiment.runs)
    blocked.parent.mkdir(parents=True)
    blocked.write_text("no folder")
    failures = experiment_failures(experiment, trials)
    assert list(failures) == [trials[0].key(experiment.data)]
    assert "Not a directory" in failures[trials[0].key(experiment.data)] or "File exists" in str(failures)
    assert weights(experiment, trials[1])


def experiment_failures(experiment: Experiment, trials: list[Trial]) -> dict[str, str]:
    from reslink.experiments.runner.scheduler import run_trials

    return run_trials(trials, experiment.data, experiment.runs, experiment.run_queue, experiment.progress)


def test_a_node_that_cannot_work_ends_the_experiment(on_cluster, tmp_path, monkeypatch) -> None:
    experiment, trials = on_cluster(tmp_path / "cluster", "trainer.epochs=1")
    assert os.environ.get("RAY_AUTH_MODE") == "token"
    monkeypatch.setattr("reslink.__version__", "9.9")
    with pytest.raises(UsageError, match=r"A node of the cluster has reslink .*, and this machine 9\.9"):
        experiment_failures(experiment, trials)
