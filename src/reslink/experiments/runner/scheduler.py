"""Runs several trials at once, in processes with one thread each, so a failing trial does not affect the others."""

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
from reslink.datasets.manifest import Manifest
from reslink.errors import ReslinkError, counted
from reslink.experiments.runner.trial import SharedData, Trial
from reslink.imaging.preprocess import Preprocess
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


class QueueRunner(Protocol):
    """Runs what a queue gives until it has no further run and all have ended."""

    def __call__(self, queue: RunQueue, data: SharedData, runs: Path, progress: Progress) -> None:
        """Runs the queue; arguments and errors as for :func:`run_queue`."""


class Cluster(QueueRunner, Protocol):
    """Runs queues on a cluster, where the images are decoded too."""

    def fill_cache(self, manifest: Manifest, preprocess: Preprocess, folder: Path, progress: Progress) -> None:
        """Fills the cache of a data set of slices, so that ``PixelCache.open`` decodes nothing."""


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


def run_trials(trials: Sequence[Trial], data: SharedData, runs: Path, run: QueueRunner, progress: Progress) -> dict[str, str]:
    """Runs the trials that are not complete.

    Args:
        trials: The trials; two with the same key are run once.
        data: The data.
        runs: Folder of all trials.
        run: Runs the queue of these trials.
        progress: Receives epochs and failures.

    Returns:
        The reason of each failure by trial key; empty if all succeeded.

    Raises:
        Interrupted: On Ctrl-C, after the running trials have saved their state.
    """
    pending = {trial.key(data): trial for trial in trials if not trial.is_complete(trial.folder(data, runs))}
    if not pending:
        return {}
    queue = _FixedRuns(pending)
    epochs = sum(trial.recipe.trainer.epochs for trial in pending.values())
    with phase(progress, epochs, f"Training {counted(len(pending), 'run')}", "epoch"):
        run(queue, data, runs, progress)
    return queue.failures


def run_queue(queue: RunQueue, data: SharedData, runs: Path, progress: Progress, jobs: int) -> None:
    """Runs what a queue gives on this machine until it has no further run and all have ended.

    Args:
        queue: The runs.
        data: The data.
        runs: Folder of all trials.
        progress: Receives epochs and failures.
        jobs: Number of processes; 0 runs one trial after the other in this process, with all its threads.

    Raises:
        Interrupted: On Ctrl-C, after the running trials have saved their state.
        UsageError: In a script without ``if __name__ == "__main__"``, which its own processes import again.
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
class _Worker:
    """A process that runs one trial after the other, because its imports take longer than a short training."""

    process: SpawnProcess
    pipe: Connection
    trial: Trial | None = None
    epochs: int = 0
    failure: str | None = None


class _Scheduler:
    def __init__(self, queue: RunQueue, data: SharedData, runs: Path, jobs: int, progress: Progress) -> None:
        self.queue = queue
        self.data, self.runs, self.jobs, self.progress = data, runs, jobs, progress
        self.workers: list[_Worker] = []

    def run(self) -> None:
        try:
            while self._start_runs() or any(worker.trial for worker in self.workers):
                self._read_all_messages()
        except KeyboardInterrupt:
            self._stop()
            raise interruption(self.queue) from None
        except BaseException:
            self._stop()
            raise
        for worker in self.workers:
            worker.pipe.close()  # ends its process
            worker.process.join()

    def _start_runs(self) -> bool:
        """Starts runs while a process is free; returns whether any was started."""
        started = False
        while sum(worker.trial is not None for worker in self.workers) < self.jobs:
            trial = self.queue.next_run()
            if trial is None:
                break
            worker = next((worker for worker in self.workers if worker.trial is None), None) or self._new_worker(trial.name)
            worker.trial, worker.epochs, worker.failure = trial, 0, None
            with contextlib.suppress(BrokenPipeError):  # the process has died; its end is read as that of this run
                worker.pipe.send(trial)
            started = True
        return started

    def _new_worker(self, name: str) -> _Worker:
        context = multiprocessing.get_context("spawn")
        own, other = context.Pipe()
        process = context.Process(target=_worker_process, args=(self.data, self.runs, other), name=name)
        with _ignore_interrupt():  # inherited by the child, so Ctrl-C reaches only the parent
            process.start()
        other.close()
        self.workers.append(_Worker(process, own))
        return self.workers[-1]

    def _read_all_messages(self) -> None:
        connection.wait([worker.pipe for worker in self.workers if worker.trial], timeout=1.0)
        for worker in list(self.workers):
            if worker.trial is None or not self._read_messages(worker):
                continue
            trial, worker.trial = worker.trial, None
            if worker.pipe.closed:
                self.workers.remove(worker)
            self._finish(trial, worker)

    def _read_messages(self, worker: _Worker) -> bool:
        """Reads the messages of a process; returns whether its run has ended."""
        try:
            while worker.pipe.poll():
                kind, text = worker.pipe.recv()
                if kind == "ended":
                    return True
                if kind == "epoch":
                    worker.epochs += 1
                    self.progress.step(1)
                elif kind == "failed":
                    worker.failure = text
                elif worker.trial is not None:
                    self.progress.message(f"{worker.trial.name}: {text}")
        except (EOFError, ConnectionResetError):
            worker.pipe.close()
            worker.process.join()
            code = worker.process.exitcode
            if worker.failure is None:
                worker.failure = f"The process ended with exit code {code}, possibly because memory ran out"
            return True
        return False

    def _finish(self, trial: Trial, worker: _Worker) -> None:
        if worker.failure is not None:
            self.progress.message(f"{trial.name} failed: {worker.failure}")
        self.progress.step(trial.recipe.trainer.epochs - worker.epochs)
        self.queue.end_run(trial, worker.failure)

    def _stop(self) -> None:
        """Asks the processes to save their state, and kills those that do not end in time."""
        for worker in self.workers:
            worker.process.terminate()
        self.progress.message("Stopping: the running trials save their state.")
        deadline = time.monotonic() + GRACE
        try:
            for worker in self.workers:
                worker.process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for worker in self.workers:
                worker.process.kill()


def interruption(queue: RunQueue) -> Interrupted:
    """Returns the message for a queue whose running trials were stopped and have saved their state."""
    return Interrupted(
        f"The experiment was interrupted after {queue.state()}",
        "The unfinished runs have saved their state",
        "Run the same command again to resume",
    )


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

    def start(self, total_steps: int, label: str, noun: str = "step") -> None:  # noqa: ARG002
        self.label = label

    def step(self, n: int = 1, **values: float) -> None:
        pass

    def message(self, text: str) -> None:
        self.messages.send(("message", text))

    def end(self) -> None:
        if self.label.startswith("Epoch"):
            self.messages.send(("epoch", ""))
        self.label = ""


def _worker_process(data: SharedData, runs: Path, pipe: Connection) -> None:
    """Runs the trials that come through the pipe, until it is closed."""
    with contextlib.suppress(OSError):
        os.setsid()  # Ctrl-C in the terminal reaches the parent, which stops each process
    _stop_with_parent()
    while True:
        try:
            trial = pipe.recv()
        except EOFError:
            return
        try:
            failure = try_trial(trial, data, runs, _ProgressRelay(pipe))
        except Interrupted:
            return
        if failure is not None:
            pipe.send(("failed", failure))
        pipe.send(("ended", ""))


def try_trial(trial: Trial, data: SharedData, runs: Path, progress: Progress) -> str | None:
    """Runs a trial with one thread; returns the reason if it failed, so that the other trials continue.

    Raises:
        Interrupted: If this process was asked to stop, after the trial has saved its state.
    """
    import torch

    from reslink.experiments.runner.run_trial import run_trial

    torch.set_num_threads(1)
    try:
        run_trial(trial, data, runs, progress)
    except Interrupted:
        raise
    except ReslinkError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  (any failure is reported)
        return f"{type(error).__name__}: {error}"
    return None


def _stop_with_parent() -> None:
    """Stops this process, with its state saved, when the parent process ends."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
