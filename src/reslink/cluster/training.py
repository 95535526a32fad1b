"""Data-parallel training of one network on a Ray cluster, which survives killed workers and nodes."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reslink.cluster.cache import fill_cache
from reslink.cluster.connection import LOCAL, connect, parse_address
from reslink.cluster.nodes import WorkingPlace
from reslink.cluster.shards import RETRIES
from reslink.datasets.manifest import Manifest
from reslink.errors import ReslinkError, TrainingError, UsageError, counted
from reslink.files import optional_import
from reslink.training.monitoring.progress import Progress, phase
from reslink.training.recipe.recipe import Recipe
from reslink.training.run_folder import RESULTS, RunFolder
from reslink.training.signals import Interrupted, handlers_as_before

_RAY_FOLDER: Final = ".ray"
"""Folder in the run folder for what Ray Train writes; removed at the end."""

_POLL_SECONDS: Final = 1.0
_NODES_SECONDS: Final = 60
"""How long to wait for nodes that join."""


@dataclass(frozen=True)
class _TrainingJob:
    manifest: Manifest
    recipe: Recipe
    out: str
    cache: str
    place: WorkingPlace


def train_on_cluster(
    manifest: Manifest,
    recipe: Recipe,
    out: Path,
    cache: Path,
    cluster: str,
    processes: int,
    *,
    resume: bool,
    overwrite: bool,
    progress: Progress,
) -> None:
    """Trains a network in several processes, and leaves a finished run in ``out``.

    The processes are those of ``torchrun``: each has a share of every batch. After the death of a process or node, all of them
    continue from the last checkpoint, and end with the weights of an undisturbed run.

    Args:
        manifest: The data set.
        recipe: The settings.
        out: The run folder, on storage that all nodes share.
        cache: Folder for the decoded images, on such storage too.
        cluster: As for :func:`parse_address`.
        processes: Number of processes, with one core and one thread each, or with one GPU each if ``trainer.device`` of the
            recipe is ``cuda``.
        resume: Continue the run in ``out``.
        overwrite: Replace the run in ``out``.
        progress: Receives the finished epochs.

    Raises:
        UsageError: If ``out`` holds a run, the cluster cannot be used, or it has fewer cores than processes.
        Interrupted: On Ctrl-C; the last checkpoint is kept.
        TrainingError: If processes died too often.
        ReslinkError: What the training raised.
    """
    with RunFolder(out).locked(resume=resume, overwrite=overwrite):
        pass  # the first process locks it again
    with connect(parse_address(cluster)):
        ray: Any = optional_import("ray", "ray")
        _wait_for_nodes(ray, recipe, cluster, processes, progress)
        fill_cache(manifest, recipe.preprocess, cache, recipe.trainer.case, progress)
        job = _TrainingJob(manifest, recipe, str(out), str(cache.absolute()), WorkingPlace.here(out))
        try:
            with _epochs(recipe, out, progress), handlers_as_before():
                _train(job, out, processes, progress)
        finally:
            shutil.rmtree(out / _RAY_FOLDER, ignore_errors=True)


def _uses_gpu(recipe: Recipe) -> bool:
    return recipe.trainer.device.startswith("cuda")


def _wait_for_nodes(ray: Any, recipe: Recipe, cluster: str, processes: int, progress: Progress) -> None:
    """Waits until the cluster has a core, or a GPU, for each process: a while, unless it was started here and no node joins.

    Raises:
        UsageError: If it does not get them.
    """
    name, what = ("GPU", "GPU") if _uses_gpu(recipe) else ("CPU", "core")
    for second in range(1 if cluster == LOCAL else _NODES_SECONDS + 1):
        available = int(ray.cluster_resources().get(name, 0))
        if available >= processes:
            return
        if second == 0 and cluster != LOCAL:
            progress.message(f"Waiting for nodes: the cluster has {counted(available, what)} for {processes} processes.")
        time.sleep(1)
    raise UsageError(
        f"The cluster has {counted(available, what)}, and {processes} processes were asked for",
        f"Each process needs one {what}",
        f"Use --processes {max(1, available)}, or {'a larger cluster' if cluster == LOCAL else 'add nodes'}",
    )


def _train(job: _TrainingJob, out: Path, processes: int, progress: Progress) -> None:
    """Trains until the end, and begins again from the last checkpoint after the death of a process or node.

    Ray's own repetition would also repeat what the training itself raises.
    """
    for attempt in range(RETRIES + 1):
        try:
            _fit(job, out, processes, f"attempt-{attempt}")
            return
        except _ProcessDiedError as error:
            if attempt == RETRIES:
                raise TrainingError(
                    f"The training was given up: {error}",
                    f"After the death of a process or node it continues up to {RETRIES} times",
                    "Run the same command with --resume; the last checkpoint is kept",
                ) from error
            progress.message(f"A process or node died ({error}). All processes continue from the last checkpoint.")


class _ProcessDiedError(Exception):
    """A process did not end by itself."""


def _fit(job: _TrainingJob, out: Path, processes: int, name: str) -> None:
    from ray import train
    from ray.train.torch import TorchConfig, TorchTrainer

    use_gpu = _uses_gpu(job.recipe)
    trainer = TorchTrainer(
        _train_process,
        train_loop_config={"job": job},
        scaling_config=train.ScalingConfig(num_workers=processes, use_gpu=use_gpu, resources_per_worker={"CPU": 1}),
        run_config=train.RunConfig(
            name=name,
            storage_path=str((out / _RAY_FOLDER).absolute()),
            failure_config=train.FailureConfig(max_failures=0),
        ),
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
    )
    try:
        trainer.fit()
    except (KeyboardInterrupt, SystemExit):  # the handler of Ray for Ctrl-C ends the process with code 0
        raise Interrupted(
            "Training was stopped", "The last checkpoint is kept", f"Run the same command with --resume (run folder {out})"
        ) from None
    except train.TrainingFailedError as error:
        causes = [getattr(cause, "cause", cause) for cause in getattr(error, "worker_failures", {}).values()]
        own = next((cause for cause in causes if isinstance(cause, ReslinkError)), None)
        if own is not None:
            raise own from None
        raise _ProcessDiedError(str(error).strip().splitlines()[0]) from error


def _train_process(config: dict[str, Any]) -> None:
    """Runs on a node: trains as one of several processes."""
    job: _TrainingJob = config["job"]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as reslink.train; cuBLAS reads it when CUDA starts
    import torch

    from reslink.training.trainer import train

    torch.set_num_threads(1)
    with job.place.enter():
        train(job.manifest, job.recipe, job.out, resume=True, cache=job.cache)


@contextlib.contextmanager
def _epochs(recipe: Recipe, out: Path, progress: Progress) -> Iterator[None]:
    """Reports the epochs in the run folder while the block runs; they are finished in other processes."""
    ended = threading.Event()

    def watch() -> None:
        seen = 0
        while not ended.wait(_POLL_SECONDS):
            rows = len(RunFolder(out).read_results()) if (out / RESULTS).exists() else 0
            progress.step(max(0, rows - seen))
            seen = max(seen, rows)

    watcher = threading.Thread(target=watch, daemon=True)
    with phase(progress, recipe.trainer.epochs, "Training", "epoch"):
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
