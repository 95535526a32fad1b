"""Several trials at once, each in a process of its own with one thread, so that one that fails takes no other with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from reslink.datasets.cache.decode import refuse_in_worker
from reslink.errors import ReslinkError
from reslink.experiments.runner.run_spec import Data, Trial
from reslink.training.monitoring.progress import Progress, Silent
from reslink.training.signals import Interrupted

GRACE = 120.0
"""Seconds that processes have to save their state when the study is stopped."""


def run_all(trials: Sequence[Trial], data: Data, runs: Path, jobs: int, progress: Progress) -> dict[str, str]:
    """Does what is left to do of some trials.

    Args:
        trials: The runs; two with the same key are done once.
        data: What they learn from.
        runs: Folder of all runs.
        jobs: Processes at once; 0 does one after the other in this process, with as many threads as it has.
        progress: Hears of epochs and failures.

    Returns:
        Why a trial failed, by its key; empty where all went well.

    Raises:
        Interrupted: On Ctrl-C, once the running trials have saved their state.
        UsageError: In a script that is imported again by its own processes, for want of ``if __name__ == "__main__"``.
    """
    refuse_in_worker()
    left = {trial.key(data): trial for trial in trials if not trial.done(trial.folder(data, runs))}
    if not left:
        return {}
    progress.start(sum(trial.recipe.trainer.epochs for trial in left.values()), f"Training {len(left)} runs, epochs")
    try:
        return _Pool(left, data, runs, jobs, progress).run() if jobs else _here(left, data, runs, progress)
    finally:
        progress.end()


def _here(left: dict[str, Trial], data: Data, runs: Path, progress: Progress) -> dict[str, str]:
    """Does the trials in this process."""
    from reslink.experiments.runner.run_one import perform

    failed: dict[str, str] = {}
    for key, trial in left.items():
        try:
            perform(trial, data, runs, Silent())
        except Interrupted:
            raise
        except (ReslinkError, OSError) as error:
            failed[key] = str(error)
            progress.message(f"{trial.name} failed: {error}")
        progress.step(trial.recipe.trainer.epochs)
    return failed


@dataclass
class _Running:
    key: str
    trial: Trial
    process: SpawnProcess
    messages: Connection
    epochs: int = 0
    failure: str | None = None


class _Pool:
    def __init__(self, left: dict[str, Trial], data: Data, runs: Path, jobs: int, progress: Progress) -> None:
        self.waiting = list(left.items())
        self.data, self.runs, self.jobs, self.progress = data, runs, jobs, progress
        self.running: list[_Running] = []
        self.failed: dict[str, str] = {}
        self.total = len(left)

    def run(self) -> dict[str, str]:
        try:
            while self.waiting or self.running:
                while self.waiting and len(self.running) < self.jobs:
                    self.running.append(self._start(*self.waiting.pop(0)))
                self._listen()
        except KeyboardInterrupt:
            self._stop()
            done = self.total - len(self.waiting) - len(self.running)
            raise Interrupted(
                f"The study was stopped after {done} of {self.total} runs",
                "Runs that were under way have saved their state",
                "Run the same command again to go on",
            ) from None
        except BaseException:
            self._stop()
            raise
        return self.failed

    def _start(self, key: str, trial: Trial) -> _Running:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(trial, self.data, self.runs, sender), name=trial.name)
        with _no_interrupt():  # the child inherits it, so that Ctrl-C reaches the parent alone
            process.start()
        sender.close()
        return _Running(key, trial, process, receiver)

    def _listen(self) -> None:
        connection.wait([run.messages for run in self.running], timeout=1.0)
        for run in list(self.running):
            over = self._take(run)
            if over:
                run.process.join()
                self.running.remove(run)
                self._ended(run)

    def _take(self, run: _Running) -> bool:
        """Takes what a process has said; returns whether it is over."""
        try:
            while run.messages.poll():
                kind, text = run.messages.recv()
                if kind == "epoch":
                    run.epochs += 1
                    self.progress.step(1)
                elif kind == "failed":
                    run.failure = text
                else:
                    self.progress.message(f"{run.trial.name}: {text}")
        except EOFError:
            return True
        return False

    def _ended(self, run: _Running) -> None:
        code = run.process.exitcode
        if code and run.failure is None:
            run.failure = f"Its process ended with the code {code}, which may mean that memory ran out"
        if run.failure is not None:
            self.failed[run.key] = run.failure
            self.progress.message(f"{run.trial.name} failed: {run.failure}")
        self.progress.step(run.trial.recipe.trainer.epochs - run.epochs)

    def _stop(self) -> None:
        """Asks the processes to save their state, and ends those that do not."""
        for run in self.running:
            run.process.terminate()
        self.progress.message("Stopping: the runs under way save their state.")
        until = time.monotonic() + GRACE
        try:
            for run in self.running:
                run.process.join(max(0.0, until - time.monotonic()))
        finally:
            for run in self.running:
                run.process.kill()


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Relay:
    """Passes on what the parent should hear."""

    def __init__(self, messages: Connection) -> None:
        self.messages = messages
        self.label = ""

    def start(self, total_steps: int, label: str) -> None:  # noqa: ARG002
        self.label = label

    def step(self, n: int = 1, **values: float) -> None:
        pass

    def message(self, text: str) -> None:
        self.messages.send(("message", text))

    def end(self) -> None:
        if self.label.startswith("Epoch"):
            self.messages.send(("epoch", ""))
        self.label = ""


def _child(trial: Trial, data: Data, runs: Path, messages: Connection) -> None:
    """The process of one trial."""
    with contextlib.suppress(OSError):
        os.setsid()  # Ctrl-C in the terminal reaches the parent, which asks each process once to stop
    _end_with_parent()
    import torch

    from reslink.experiments.runner.run_one import perform

    torch.set_num_threads(1)
    try:
        perform(trial, data, runs, _Relay(messages))
    except ReslinkError as error:
        messages.send(("failed", str(error)))
    except Exception as error:  # noqa: BLE001  (one run that fails, for whatever reason, is named, and the others go on)
        messages.send(("failed", f"{type(error).__name__}: {error}"))
    finally:
        messages.close()


def _end_with_parent() -> None:
    """Asks this process to save its state and end when its parent is gone."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
