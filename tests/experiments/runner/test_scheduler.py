"""The scheduler: interrupted and killed trials resume and end with identical weights."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reslink.datasets.manifest import Manifest
from reslink.experiments.runner.experiment import Experiment
from reslink.files import sha256
from reslink.training.signals import Interrupted


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_interrupted_and_killed_trials_resume(
    toy_patients: Manifest, make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """Ctrl-C interrupts the first epoch; after the restart one process is killed and the other completes."""
    experiment = make_experiment(toy_patients, "trainer.epochs=3", seeds=(0, 1), out=tmp_path / "stopped", jobs=2)
    trials = [experiment.make_trial("full", seed) for seed in experiment.seeds]
    folders = [trial.folder(experiment.data, experiment.runs) for trial in trials]
    thread = threading.Thread(target=_interrupt_when, args=((folders[0] / "results.csv").exists,))
    thread.start()
    with pytest.raises(Interrupted, match="Run the same command again"):
        experiment.run_trials(trials[:1])
    thread.join()
    assert not multiprocessing.active_children()
    assert list((folders[0] / "checkpoints").iterdir())
    assert not (folders[0] / "checkpoints" / "finished.json").exists()

    killer = threading.Thread(target=_kill, args=("full, seed 1",))
    killer.start()
    failures = experiment.run_trials(trials)
    killer.join()
    assert list(failures) == [trials[1].key(experiment.data)]
    assert "ended with exit code -9" in failures[trials[1].key(experiment.data)]
    assert (folders[0] / "predictions.csv").exists()

    uninterrupted = make_experiment(toy_patients, "trainer.epochs=3", seeds=(0,), out=tmp_path / "whole")
    trial = uninterrupted.make_trial("full", 0)
    assert uninterrupted.run_trials([trial]) == {}
    reference = trial.folder(uninterrupted.data, uninterrupted.runs)
    assert sha256(reference / "bundle" / "model.safetensors") == sha256(folders[0] / "bundle" / "model.safetensors")


def _interrupt_when(ready: Callable[[], bool]) -> None:
    import signal

    end = time.monotonic() + 240
    while not ready() and time.monotonic() < end:
        time.sleep(0.02)
    signal.raise_signal(signal.SIGINT)


def _kill(name: str) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        for process in multiprocessing.active_children():
            if process.name == name:
                process.kill()
                return
        time.sleep(0.02)
