"""Decoding of image files into cache rows, in this process or in worker processes.

This module does not import torch, so that workers start quickly.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from reslink.cores import worker_pool
from reslink.datasets.near_duplicates.thumbnails import make_thumbnail
from reslink.errors import InputError, ReslinkError, UsageError
from reslink.imaging.head_mask import stated_content
from reslink.imaging.image import NOTHING_STATED, Image, Stated
from reslink.imaging.lesion_mask import aligned_mask
from reslink.imaging.limits import ImagingWarning
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.imaging.series_slices import read_series_slices
from reslink.labels import CaseKind
from reslink.remote_errors import RemoteStorageError

HEAD_SIZE = 56

UInt8Array = NDArray[np.uint8]

_JOBS_PER_WORKER = 8

_FEW_VALUES: Final = 8
_SAMPLED_PIXELS: Final = 4096
_FEW_VALUES_NOTE: Final = "holds only a few different values, as masks and blank images do. Remove it if it is not an image"


class Named(Protocol):
    """An object with a name for messages."""

    @property
    def name(self) -> str:
        """The name."""


J = TypeVar("J", bound=Named)
R = TypeVar("R")


@dataclass(frozen=True)
class DecodeJob:
    """One case to decode.

    Attributes:
        name: Name of the case, for messages.
        path: The image file.
        mask: The lesion mask file, or None.
        preprocess: The preprocessing of the image.
        with_mask: Return a mask even for a case without a mask file, filled with zeros.
        unit: Unit of the values, if the data set states it.
    """

    name: str
    path: Path
    mask: Path | None
    preprocess: Preprocess
    with_mask: bool
    unit: str | None = None


@dataclass(frozen=True)
class DecodedCase:
    """The cache rows of one case.

    Attributes:
        pixels: (planes, S, S) uint8.
        head: (56, 56) uint8, 1 inside the head.
        thumbnail: (64, 64) uint8 of the isolated head, for near-duplicate search; independent of ``preprocess``.
        mask: (S, S) uint8, 1 inside the lesion; None if the data set has no masks.
        unit: Unit of the values: HU, MR or gray.
        notes: What the reader assumed or converted, without the name of the file.
        stated: What the file states about its content.
    """

    pixels: UInt8Array
    head: UInt8Array
    thumbnail: UInt8Array
    mask: UInt8Array | None
    unit: str = "gray"
    notes: tuple[str, ...] = ()
    stated: Stated = NOTHING_STATED


@dataclass(frozen=True)
class DecodedSeries:
    """The cache rows of a case that is a series.

    Attributes:
        slices: The slices that show enough of the head; at least one. The first one carries the notes on the series.
        count: Number of readable slices of the series.
    """

    slices: tuple[DecodedCase, ...]
    count: int


def decode_case(job: DecodeJob) -> DecodedCase | str:
    """Reads and preprocesses one case.

    Returns:
        Its rows, or a message with the reason why it cannot be used.
    """
    return _decode(job, _decode_slice)


def decode_series(job: DecodeJob) -> DecodedSeries | str:
    """Reads and preprocesses one case that is a series.

    Returns:
        Its rows, or a message with the reason why it cannot be used.
    """
    return _decode(job, _decode_series)


def _decode_slice(job: DecodeJob) -> DecodedCase:
    image, notes = _read_with_notes(job)
    return _decoded(job, image, notes, _lesion_mask(job, image))


def _decode_series(job: DecodeJob) -> DecodedSeries:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ImagingWarning)
        series = read_series_slices(job.path, job.name, job.unit)
    rows: list[DecodedCase] = []
    failed: list[ReslinkError] = []
    for plane in series.planes:
        try:
            rows.append(_decoded(job, plane, (), None))
        except ReslinkError as error:
            failed.append(error)
    if not rows:
        raise failed[0]
    unusable = [f"A slice is left out: {text}" for text in (*series.unreadable, *map(str, failed))]
    notes = (*series.notes, *_warning_texts(job, caught), *unusable)
    relative = tuple(dict.fromkeys(note.replace(str(job.path), job.name) for note in notes))
    return DecodedSeries((replace(rows[0], notes=relative), *rows[1:]), series.count)


def _decoded(job: DecodeJob, image: Image, notes: tuple[str, ...], mask: UInt8Array | None) -> DecodedCase:
    pixels = job.preprocess.pixels(image)
    head = _head_mask(job.preprocess.resized_head_mask(image))
    return DecodedCase(pixels, head, make_thumbnail(image), mask, image.unit, notes, stated_content(image))


def _decode(job: DecodeJob, function: Callable[[DecodeJob], R]) -> R | str:
    try:
        return function(job)
    except RemoteStorageError:  # the file may be readable later, so the cache must not remember that it is not
        raise
    except ReslinkError as error:
        text = str(error).replace(str(job.path), job.name)  # results contain no absolute paths
        return text if job.mask is None else text.replace(str(job.mask), f"the mask of {job.name}")
    except MemoryError:
        return f"{job.name} needs more memory than is available"


def _read_with_notes(job: DecodeJob) -> tuple[Image, tuple[str, ...]]:
    """Returns the image, and the warnings of its reader as notes, which are reported once for the whole data set."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ImagingWarning)
        image = read_slice(job.path, job.name, job.unit)
    few = [_FEW_VALUES_NOTE] if _has_few_values(image.pixels) else []
    return image, tuple(dict.fromkeys((*image.notes, *_warning_texts(job, caught), *few)))


def _warning_texts(job: DecodeJob, caught: Iterable[warnings.WarningMessage]) -> list[str]:
    return [
        str(warning.message).removeprefix(f"{job.path} ").removeprefix(f"{job.name} ")
        for warning in caught
        if warning.category is ImagingWarning
    ]


def _has_few_values(pixels: NDArray[np.generic]) -> bool:
    """Returns whether a slice holds few values, or hardly any between dark and bright (a mask with lossy compression)."""
    values = np.asarray(pixels[np.isfinite(pixels)], np.float32)
    sample = values[:: max(1, values.size // _SAMPLED_PIXELS)]
    if len(np.unique(sample)) <= _FEW_VALUES:
        return len(np.unique(values)) <= _FEW_VALUES
    low, high = float(values.min()), float(values.max())
    dark, bright = low + 0.2 * (high - low), low + 0.8 * (high - low)
    return float(np.mean(values > bright)) > 0.001 and float(np.mean((values > dark) & (values < bright))) < 0.01


def decode_all(
    jobs: Sequence[DecodeJob], pool: WorkerPool, case: CaseKind = "slice"
) -> Generator[DecodedCase | DecodedSeries | str, None, None]:
    """Decodes cases in order; see ``WorkerPool.map``.

    Args:
        jobs: The cases.
        pool: The worker processes.
        case: Whether a case is a slice or a series.

    Yields:
        The results of ``decode_case`` or ``decode_series``, in the order of the jobs.
    """
    if case == "series":
        yield from pool.map(decode_series, jobs)
    else:
        yield from pool.map(decode_case, jobs)


def map_jobs(function: Callable[[J], R | str], jobs: Sequence[J], workers: int) -> Generator[R | str, None, None]:
    """Applies a function to jobs in order, in worker processes that end with the last job; see ``WorkerPool.map``.

    Args:
        function: Applied to each job.
        jobs: The jobs.
        workers: Number of worker processes; 0 uses this process.
    """
    with WorkerPool(workers) as pool:
        yield from pool.map(function, jobs)


class WorkerPool:
    """Worker processes, which start with the first job and end with the context.

    Args:
        workers: Number of worker processes; 0 uses this process.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None

    def map(self, function: Callable[[J], R | str], jobs: Sequence[J]) -> Generator[R | str, None, None]:
        """Applies a function to jobs in order; a job that kills its worker is reported, not fatal.

        Args:
            function: Applied to each job; a module-level function, because worker processes import it.
            jobs: The jobs.

        Yields:
            The results in the order of the jobs; a message for a job that kills its worker.

        Raises:
            UsageError: If no worker process can be started.
        """
        if self.workers == 0:
            yield from map(function, jobs)
            return
        done = 0
        while done < len(jobs):
            try:
                for result in self._run(function, jobs[done:]):
                    yield result
                    done += 1
            except BrokenProcessPool:
                self.__exit__()
                yield _run_isolated(function, jobs[done])
                done += 1

    def _run(self, function: Callable[[J], R | str], jobs: Sequence[J]) -> Iterator[R | str]:
        """Yields results in order with a bounded number of pending jobs, which limits memory use."""
        self._executor = executor = self._executor or worker_pool(self.workers)
        pending = iter(jobs)
        futures: deque[Future[R | str]] = deque()
        try:
            futures.extend(executor.submit(function, job) for job in itertools.islice(pending, self.workers * _JOBS_PER_WORKER))
            while futures:
                yield futures.popleft().result()
                futures.extend(executor.submit(function, job) for job in itertools.islice(pending, 1))
        finally:
            for future in futures:
                future.cancel()


def _run_isolated(function: Callable[[J], R | str], job: J) -> R | str:
    """Runs a job that may have killed a worker in a fresh worker."""
    with worker_pool(1) as pool:
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool as error:
            raise _no_workers_error() from error
        try:
            return pool.submit(function, job).result()
        except BrokenProcessPool:
            return f"{job.name} crashes the process that decodes it and is left out. Save the image again"


def check_not_in_worker() -> None:
    """Stops a script that a starting worker process imports; otherwise it would wait for the lock of its own parent.

    Raises:
        UsageError: If this process is a worker that is still importing its main module.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # multiprocessing makes the same check
        raise _no_workers_error()


def _no_workers_error() -> UsageError:
    return UsageError(
        "The worker processes that decode images cannot be started",
        'A script that starts them must guard its main code with: if __name__ == "__main__"',
        "Add this guard to the script, or set workers=0",
    )


class SeveralSlicesError(InputError):
    """A file has several slices where one is needed."""


def read_slice(path: Path, name: str, unit: str | None = None) -> Image:
    """Reads a file with one slice, in any format.

    Args:
        path: The file.
        name: Its name for messages.
        unit: As for ``read_image``.

    Raises:
        InputError: If the file cannot be read.
        SeveralSlicesError: If it has several slices; the message uses ``name``.
    """
    image = read_image(path, unit)
    slices = image.slices()
    if len(slices) != 1:
        raise SeveralSlicesError(
            f"{name} holds {len(slices)} slices",
            "A case is one slice, unless each volume has one label",
            "If it has, use reslink split --case series, which finds leakage, and reslink train --case series; otherwise save "
            "each slice as its own file, with the same patient_id",
        )
    return slices[0]


def _head_mask(mask: NDArray[np.bool_]) -> UInt8Array:
    small = Picture.fromarray(mask.astype(np.uint8) * np.uint8(255)).resize((HEAD_SIZE, HEAD_SIZE), Picture.Resampling.BOX)
    return (np.asarray(small) > 127).astype(np.uint8)


def _lesion_mask(job: DecodeJob, image: Image) -> UInt8Array | None:
    if job.mask is None:
        side = job.preprocess.size
        return np.zeros((side, side), np.uint8) if job.with_mask else None
    mask = aligned_mask(read_slice(job.mask, f"The mask of {job.name}"), image).pixels
    if mask.shape != image.pixels.shape:
        raise InputError(
            f"The mask of {job.name} has {mask.shape} pixels, but the image has {image.pixels.shape}",
            "A mask has the same size as its image",
            "Save the mask at the size of the image",
        )
    return job.preprocess.placement(image).to_network(mask).astype(np.uint8)
