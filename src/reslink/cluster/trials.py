"""Experiments on a Ray cluster: it decodes the images, and a trial is a task with one core and one thread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from reslink.cluster.cache import fill_cache
from reslink.cluster.connection import connect, parse_address
from reslink.cluster.nodes import WorkingPlace
from reslink.cluster.shards import RETRIES, n_cores
from reslink.datasets.manifest import Manifest
from reslink.experiments.runner.scheduler import GRACE, RunQueue, interruption, try_trial
from reslink.experiments.runner.trial import SharedData, Trial
from reslink.files import optional_import
from reslink.imaging.preprocess import Preprocess
from reslink.training.monitoring.progress import Progress, SilentProgress

_WAIT_SECONDS: Final = 5.0
"""How long to wait for a trial before the cores of the cluster are counted again."""


@contextlib.contextmanager
def trials_on(cluster: str | None, jobs: int | None = None) -> Iterator[ClusterRuns | None]:
    """Connects to a cluster while the block runs, and yields what runs trials there.

    Args:
        cluster: ``ray``, ``HOST:PORT`` or ``ray://HOST:PORT``; None yields None, which stands for this machine.
        jobs: Number of trials at once; None or 0 for one per core of the cluster.

    Raises:
        UsageError: If the cluster cannot be used.
    """
    if cluster is None:
        yield None
        return
    with connect(parse_address(cluster)):
        yield ClusterRuns(jobs or None)


class ClusterRuns:
    """Decodes images and runs the trials of queues on the connected cluster.

    A trial whose worker or node died begins again elsewhere, from the state that it saved last.

    Args:
        jobs: Number of trials at once; None for one per core of the cluster.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs = jobs

    def fill_cache(self, manifest: Manifest, preprocess: Preprocess, folder: Path, progress: Progress) -> None:
        """Fills the cache of a data set of slices; errors as for :func:`reslink.cluster.cache.fill_cache`."""
        fill_cache(manifest, preprocess, folder, "slice", progress)

    def __call__(self, queue: RunQueue, data: SharedData, runs: Path, progress: Progress) -> None:
        """Runs the queue; arguments as for ``scheduler.run_queue``.

        Raises:
            Interrupted: On Ctrl-C, after the running trials have saved their state.
            UsageError: If a node has another version of reslink, or does not share the storage.
        """
        ray: Any = optional_import("ray", "ray")
        runs.mkdir(parents=True, exist_ok=True)
        task = ray.remote(_run_trial).options(num_cpus=1, max_retries=RETRIES)
        shared, place = ray.put(data), WorkingPlace.here(runs)
        running: dict[Any, Trial] = {}
        try:
            while True:
                while len(running) < (self.jobs or n_cores(ray)) and (trial := queue.next_run()) is not None:
                    running[task.remote(trial, shared, str(runs), place)] = trial
                if not running:
                    return
                for ended in ray.wait(list(running), num_returns=1, timeout=_WAIT_SECONDS)[0]:
                    _end(ray, ended, running.pop(ended), queue, progress)
        except KeyboardInterrupt:
            progress.message("Stopping: the running trials save their state.")
            _stop(ray, list(running))
            raise interruption(queue) from None
        except BaseException:
            _stop(ray, list(running))
            raise


def _run_trial(trial: Trial, data: SharedData, runs: str, place: WorkingPlace) -> str | None:
    """Runs on a node: runs a trial; returns the reason if it failed."""
    with place.enter():
        return try_trial(trial, data, Path(runs), SilentProgress())


def _end(ray: Any, ended: Any, trial: Trial, queue: RunQueue, progress: Progress) -> None:
    try:
        failure = ray.get(ended)
    except ray.exceptions.RayTaskError as error:  # try_trial returns failures: the node cannot work, or was asked to stop
        raise error.cause from None
    except ray.exceptions.RayError as error:
        reason = f"{type(error).__name__}, possibly because memory ran out"
        failure = f"Its process or node died more than {RETRIES} times ({reason})"
    if failure is not None:
        progress.message(f"{trial.name} failed: {failure}")
    progress.step(trial.recipe.trainer.epochs)
    queue.end_run(trial, failure)


def _stop(ray: Any, running: list[Any]) -> None:
    """Asks trials to save their state, and waits for their end."""
    for one in running:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.cancel(one)
    if running:
        ray.wait(running, num_returns=len(running), timeout=GRACE)
