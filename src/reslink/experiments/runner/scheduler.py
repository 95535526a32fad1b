"""Runs several trials at once, each in its own process with one thread, so a failing trial does not affect the others."""

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
from typing import Protocol

from reslink.datasets.cache.decode import check_not_in_worker
from reslink.errors import ReslinkError
from reslink.experiments.runner.trial import SharedData, Trial
from reslink.training.monitoring.progress import Progress, SilentProgress, phase
from reslink.training.signals import Interrupted

GRACE = 120.0
"""Seconds that processes have to save their state when the experiment is stopped."""


class RunQueue(Protocol):
    """Runs that are started one after the other; which run is next may depend on the results of earlier ones."""

    def next_run(self) -> Trial | None:
        """Returns the next run to start; None if there is none now. The queue is asked again after a run has ended."""

    def end_run(self, trial: Trial, failure: str | None) -> None:
        """Receives a run that has ended, with the reason if it failed."""

    def state(self) -> str:
        """Returns what is complete, such as ``3 of 12 runs``."""


class _FixedRuns:
    """Runs that are all known at the start."""

    def __init__(self, pending: dict[str, Trial]) -> None:
        self.keys = {id(trial): key for key, trial in pending.items()}
        self.pending = list(pending.values())
        self.failures: dict[str, str] = {}
        self.ended = 0

    def next_run(self) -> Trial | None:
        return self.pending.pop(0) if self.pending else None

    def end_run(self, trial: Trial, failure: str | None) -> None:
        self.ended += 1
        if failure is not None:
            self.failures[self.keys[id(trial)]] = failure

    def state(self) -> str:
        return f"{self.ended} of {len(self.keys)} runs"


def run_trials(trials: Sequence[Trial], data: SharedData, runs: Path, jobs: int, progress: Progress) -> dict[str, str]:
    """Runs the trials that are not complete.

    Args:
        trials: The trials; two with the same key are run once.
        data: The data.
        runs: Folder of all trials.
        jobs: Number of processes; 0 runs one trial after the other in this process, with all its threads.
        progress: Receives epochs and failures.

    Returns:
        The reason of each failure by trial key; empty if all succeeded.

    Raises:
        Interrupted: On Ctrl-C, after the running trials have saved their state.
        UsageError: In a script without ``if __name__ == "__main__"``, which its own processes import again.
    """
    check_not_in_worker()
    pending = {trial.key(data): trial for trial in trials if not trial.is_complete(trial.folder(data, runs))}
    if not pending:
        return {}
    queue = _FixedRuns(pending)
    with phase(
        progress, sum(trial.recipe.trainer.epochs for trial in pending.values()), f"Training {len(pending)} runs, epochs"
    ):
        run_queue(queue, data, runs, jobs, progress)
    return queue.failures


def run_queue(queue: RunQueue, data: SharedData, runs: Path, jobs: int, progress: Progress) -> None:
    """Runs what a queue gives until it has no further run and all have ended; arguments as for :func:`run_trials`.

    Raises:
        Interrupted: On Ctrl-C, after the running trials have saved their state.
        UsageError: As :func:`run_trials`.
    """
    check_not_in_worker()
    if jobs:
        _Scheduler(queue, data, runs, jobs, progress).run()
    else:
        _run_here(queue, data, runs, progress)


def _run_here(queue: RunQueue, data: SharedData, runs: Path, progress: Progress) -> None:
    """Runs the trials in this process."""
    from reslink.experiments.runner.run_trial import run_trial

    while (trial := queue.next_run()) is not None:
        failure = None
        try:
            run_trial(trial, data, runs, SilentProgress())
        except Interrupted:
            raise
        except (ReslinkError, OSError) as error:
            failure = str(error)
            progress.message(f"{trial.name} failed: {error}")
        progress.step(trial.recipe.trainer.epochs)
        queue.end_run(trial, failure)


@dataclass
class _Running:
    trial: Trial
    process: SpawnProcess
    messages: Connection
    epochs: int = 0
    failure: str | None = None


class _Scheduler:
    def __init__(self, queue: RunQueue, data: SharedData, runs: Path, jobs: int, progress: Progress) -> None:
        self.queue = queue
        self.data, self.runs, self.jobs, self.progress = data, runs, jobs, progress
        self.running: list[_Running] = []

    def run(self) -> None:
        try:
            while self._start_runs() or self.running:
                self._read_all_messages()
        except KeyboardInterrupt:
            self._stop()
            raise Interrupted(
                f"The experiment was interrupted after {self.queue.state()}",
                "The unfinished runs have saved their state",
                "Run the same command again to resume",
            ) from None
        except BaseException:
            self._stop()
            raise

    def _start_runs(self) -> bool:
        """Starts runs while a process is free; returns whether any was started."""
        started = False
        while len(self.running) < self.jobs and (trial := self.queue.next_run()) is not None:
            self.running.append(self._start(trial))
            started = True
        return started

    def _start(self, trial: Trial) -> _Running:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_trial_process, args=(trial, self.data, self.runs, sender), name=trial.name)
        with _ignore_interrupt():  # inherited by the child, so Ctrl-C reaches only the parent
            process.start()
        sender.close()
        return _Running(trial, process, receiver)

    def _read_all_messages(self) -> None:
        connection.wait([run.messages for run in self.running], timeout=1.0)
        for run in list(self.running):
            if self._read_messages(run):
                run.process.join()
                self.running.remove(run)
                self._finish(run)

    def _read_messages(self, run: _Running) -> bool:
        """Reads the messages of a process; returns whether the process has ended."""
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

    def _finish(self, run: _Running) -> None:
        code = run.process.exitcode
        if code and run.failure is None:
            run.failure = f"The process ended with exit code {code}, possibly because memory ran out"
        if run.failure is not None:
            self.progress.message(f"{run.trial.name} failed: {run.failure}")
        self.progress.step(run.trial.recipe.trainer.epochs - run.epochs)
        self.queue.end_run(run.trial, run.failure)

    def _stop(self) -> None:
        """Asks the processes to save their state, and kills those that do not end in time."""
        for run in self.running:
            run.process.terminate()
        self.progress.message("Stopping: the running trials save their state.")
        deadline = time.monotonic() + GRACE
        try:
            for run in self.running:
                run.process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for run in self.running:
                run.process.kill()


@contextlib.contextmanager
def _ignore_interrupt() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _ProgressRelay:
    """Sends the progress of a trial to the parent process."""

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


def _trial_process(trial: Trial, data: SharedData, runs: Path, messages: Connection) -> None:
    """Runs one trial in its own process."""
    with contextlib.suppress(OSError):
        os.setsid()  # Ctrl-C in the terminal reaches the parent, which stops each process
    _stop_with_parent()
    import torch

    from reslink.experiments.runner.run_trial import run_trial

    torch.set_num_threads(1)
    try:
        run_trial(trial, data, runs, _ProgressRelay(messages))
    except ReslinkError as error:
        messages.send(("failed", str(error)))
    except Exception as error:  # noqa: BLE001  (any failure is reported, and the other trials continue)
        messages.send(("failed", f"{type(error).__name__}: {error}"))
    finally:
        messages.close()


def _stop_with_parent() -> None:
    """Stops this process, with its state saved, when the parent process ends."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
