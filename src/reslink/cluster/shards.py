"""Shards: parts of a job that run as tasks of a Ray cluster, and can be resumed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from reslink.cluster.nodes import WorkingPlace
from reslink.cluster.stored import Stored
from reslink.errors import InputError, ReslinkError, counted
from reslink.files import optional_import, write_atomic
from reslink.remote_files import version_state
from reslink.remote_paths import parse_remote
from reslink.training.monitoring.progress import Progress, phase


class Part(NamedTuple):
    """What a task computes.

    Attributes:
        content: The content of the file.
        failed: Number of files that failed.
        is_final: Whether a later run keeps the part. Otherwise it computes it again, because a storage failed.
    """

    content: bytes
    failed: int = 0
    is_final: bool = True


Work: TypeAlias = Callable[[Any], tuple[bytes, int] | Part]
"""Computes the part of one shard from its content. A function of a module of reslink."""

RETRIES: Final = 4
"""How often a task begins again after its worker or node died."""

_CONCURRENT_QUERIES: Final = 16
"""Number of remote files about which the storage is asked at once."""

_TASKS_PER_CORE: Final = 2
"""Tasks in flight: one that runs, and one that waits for it to end."""


@dataclass(frozen=True)
class Shard:
    """A part of a job.

    Attributes:
        digest: SHA-256 of everything that decides the result; it is the name of the part.
        n_files: Number of files.
        first: The first file, for messages.
        content: What ``Work`` gets: paths and settings only.
    """

    digest: str
    n_files: int
    first: str
    content: Any

    def path(self, folder: Path) -> Path:
        """Returns the file of its part."""
        return folder / f"{self.digest}.part"

    def is_done(self, folder: Path) -> bool:
        """Returns whether its part is there, and final."""
        return self.path(folder).exists() and not self.mark(folder).exists()

    def mark(self, folder: Path) -> Path:
        """Returns the empty file beside a part that is not final."""
        return folder / f"{self.digest}.again"


def file_state(file: Path) -> list[str | int]:
    """Returns path, size and time of a file, which change with its content; only the path if it cannot be found.

    Of a remote file, its URL and :func:`reslink.remote_files.version_state`.
    """
    if (remote := parse_remote(file)) is not None:
        try:
            return [str(remote), version_state(remote)]
        except InputError:
            return [str(remote)]
    try:
        status = file.stat()
    except OSError:
        return [str(file)]
    return [str(file), status.st_size, status.st_mtime_ns]


def file_states(files: Sequence[Path]) -> list[list[str | int]]:
    """Returns the :func:`file_state` of each file; a storage is asked about several files at once, unless it listed them."""
    if not any((remote := parse_remote(file)) and not remote.version for file in files):
        return [file_state(file) for file in files]
    with ThreadPoolExecutor(_CONCURRENT_QUERIES) as pool:
        return list(pool.map(file_state, files))


def run_shards(shards: Iterable[Shard], work: Work, folder: Path, progress: Progress, label: str, noun: str = "file") -> None:
    """Computes the part of each shard on the connected cluster, one task per shard with one core and one thread.

    A part appears under its name once it is complete. Final parts that exist are not computed again, and a task that runs twice
    writes the same part. A task whose worker or node died begins again elsewhere. This process keeps the digests of the missing
    shards, and the content of those that run or wait.

    Args:
        shards: The shards; iterated twice, so no iterator. Those of many files are :class:`reslink.cluster.stored.Stored`.
        work: Computes a part.
        folder: The folder of the parts, on storage that all nodes share under the same path.
        progress: Receives the number of finished and failed files, and the files per second.
        label: Name of the work, for the progress.
        noun: What a file is, for the progress.

    Raises:
        InputError: If a task died more than ``RETRIES`` times.
        ReslinkError: What ``work`` raised, such as a ``UsageError`` for a node with another version of reslink.
    """
    missing: dict[str, int] = {}
    n_shards = 0
    for one in shards:
        n_shards += 1
        if not one.is_done(folder):
            missing[one.digest] = one.n_files
    if len(missing) < n_shards:
        progress.message(f"{n_shards - len(missing)} of {n_shards} parts are there already")
    total = sum(missing.values())
    ray: Any = optional_import("ray", "ray")
    task = ray.remote(_run_shard).options(num_cpus=1, max_retries=RETRIES)
    place = WorkingPlace.here(folder)
    running: dict[Any, Shard] = {}
    failed = done = 0
    started = time.monotonic()
    waiting = (one for one in shards if missing.pop(one.digest, None) is not None)
    with phase(progress, total, label, noun):
        while True:
            while len(running) < _TASKS_PER_CORE * n_cores(ray) and (shard := next(waiting, None)) is not None:
                running[task.remote(work, shard, place)] = shard
            if not running:
                break
            [finished], _ = ray.wait(list(running), num_returns=1)
            shard = running.pop(finished)
            failed += _result(ray, finished, shard)
            done += shard.n_files
            progress.step(shard.n_files, failed=failed, files_per_second=done / (time.monotonic() - started))


@contextlib.contextmanager
def kept_parts(shards: Collection[Shard] | Stored[Shard], folder: Path, progress: Progress) -> Iterator[None]:
    """Says how many parts are kept if the block is interrupted or fails."""
    try:
        yield
    except BaseException:
        kept = sum(shard.is_done(folder) for shard in shards)
        progress.message(f"{kept} of {len(shards)} parts are kept in {folder}; the same command resumes")
        raise


def n_cores(ray: Any) -> int:
    """Returns the number of cores of the cluster now, at least 1; nodes join and leave."""
    return max(1, int(ray.cluster_resources().get("CPU", 0)))


def _result(ray: Any, finished: Any, shard: Shard) -> int:
    """Returns the number of failed files of a finished task."""
    try:
        return int(ray.get(finished))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ReslinkError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise InputError(
            f"The {counted(shard.n_files, 'file')} from {shard.first} on were given up ({type(error).__name__})",
            f"A task begins again up to {RETRIES} times if its process or node dies",
            "Run the same command again; finished parts are kept",
        ) from error


def _run_shard(work: Work, shard: Shard, place: WorkingPlace) -> int:
    """Runs on a node: writes the part of a shard, and returns the number of failed files."""
    with place.enter():
        part = Part(*work(shard.content))
    folder = Path(place.output)
    if not part.is_final:
        write_atomic(shard.mark(folder), b"")  # first, so that no part is without it
    write_atomic(shard.path(folder), part.content)
    if part.is_final:
        shard.mark(folder).unlink(missing_ok=True)
    return part.failed
