"""Processes of a study: stopped, killed, refused; what is left goes on, and ends with the same bits."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reslink.datasets.manifest import Manifest
from reslink.experiments.runner.experiment import Setting
from reslink.files import sha256
from reslink.training.signals import Interrupted


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stopped_killed_and_gone_on(patients: Manifest, setting: Callable[..., Setting], tmp_path: Path) -> None:
    """A study is stopped by Ctrl-C in its first epoch; going on, one process is killed from outside, the other ends well."""
    made = setting(patients, "trainer.epochs=3", seeds=(0, 1), out=tmp_path / "stopped", jobs=2)
    trials = [made.trial("full", seed) for seed in made.seeds]
    folders = [trial.folder(made.data, made.runs) for trial in trials]
    thread = threading.Thread(target=_interrupt_when, args=((folders[0] / "results.csv").exists,))
    thread.start()
    with pytest.raises(Interrupted, match="Run the same command again"):
        made.do(trials[:1])
    thread.join()
    assert not multiprocessing.active_children()
    assert list((folders[0] / "checkpoints").iterdir())
    assert not (folders[0] / "checkpoints" / "finished.json").exists()

    killer = threading.Thread(target=_kill, args=("full, seed 1",))
    killer.start()
    failed = made.do(trials)
    killer.join()
    assert list(failed) == [trials[1].key(made.data)]
    assert "ended with the code -9" in failed[trials[1].key(made.data)]
    assert (folders[0] / "predictions.csv").exists()

    again = setting(patients, "trainer.epochs=3", seeds=(0,), out=tmp_path / "whole")
    assert again.do([again.trial("full", 0)]) == {}
    other = again.trial("full", 0).folder(again.data, again.runs)
    assert sha256(other / "bundle" / "model.safetensors") == sha256(folders[0] / "bundle" / "model.safetensors")


def _interrupt_when(ready: Callable[[], bool]) -> None:
    import os
    import signal

    end = time.monotonic() + 240
    while not ready() and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGINT)


def _kill(name: str) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        for process in multiprocessing.active_children():
            if process.name == name:
                process.kill()
                return
        time.sleep(0.02)
