"""From files to rows of the cache, in this process or in several; imports no torch, so that a worker starts quickly."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from reslink.datasets.near_duplicates.thumbnails import thumbnail
from reslink.errors import InputError, ReslinkError, UsageError
from reslink.imaging.image import Image
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image

HEAD_SIZE = 56

Grey = NDArray[np.uint8]

_AHEAD = 8


class Named(Protocol):
    """Anything with a name for messages."""

    @property
    def name(self) -> str:
        """The name."""


J = TypeVar("J", bound=Named)
R = TypeVar("R")


@dataclass(frozen=True)
class Job:
    """One case to decode.

    Attributes:
        name: The case's name, for messages.
        path: The image.
        mask: The lesion mask, or None.
        preprocess: What is done to the image.
        with_mask: Whether a row of the mask array is wanted even for a case without a mask.
    """

    name: str
    path: Path
    mask: Path | None
    preprocess: Preprocess
    with_mask: bool


@dataclass(frozen=True)
class Decoded:
    """The rows of one case.

    Attributes:
        pixels: (planes, S, S).
        head: (56, 56), 1 where the head is.
        thumbnail: (64, 64) of the isolated head, for the search for near copies, whatever the settings say.
        mask: (S, S), 1 where the lesion is; None where the data set has no masks.
    """

    pixels: Grey
    head: Grey
    thumbnail: Grey
    mask: Grey | None


def decode(job: Job) -> Decoded | str:
    """Reads and preprocesses one case.

    Returns:
        Its rows, or the message that says why it cannot be used.
    """
    try:
        image = read_slice(job.path, job.name)
        pixels = job.preprocess.pixels(image)
        head = _head(job.preprocess.head(image))
        return Decoded(pixels, head, thumbnail(image), _mask(job, image))
    except ReslinkError as error:
        text = str(error).replace(str(job.path), job.name)  # no absolute path goes into results
        return text if job.mask is None else text.replace(str(job.mask), f"the mask of {job.name}")
    except MemoryError:
        return f"{job.name} needs more memory than there is"


def decode_all(jobs: Sequence[Job], workers: int) -> Generator[Decoded | str, None, None]:
    """Decodes cases in order, as ``each`` does its jobs.

    Yields:
        What ``decode`` returns, in the order of the jobs.
    """
    yield from each(decode, jobs, workers)


def each(work: Callable[[J], R | str], jobs: Sequence[J], workers: int) -> Generator[R | str, None, None]:
    """Does jobs in order; one that kills its process is reported and left out like any other bad file.

    Args:
        work: What is done to each job; a function of a module, since worker processes import it.
        jobs: The jobs.
        workers: Processes to use; 0 works in this one.

    Yields:
        What ``work`` returns, in the order of the jobs; a message for a job that kills its process.

    Raises:
        UsageError: If no worker process can be started.
    """
    if workers == 0:
        yield from map(work, jobs)
        return
    done = 0
    while done < len(jobs):
        try:
            for result in _in_pool(work, jobs[done:], workers):
                yield result
                done += 1
        except BrokenProcessPool:
            yield _alone(work, jobs[done])
            done += 1


def _in_pool(work: Callable[[J], R | str], jobs: Sequence[J], workers: int) -> Iterator[R | str]:
    """Yields results in order with a bounded number of cases under way, so that memory stays small."""
    rest = iter(jobs)
    with _pool(workers) as pool:
        waiting: deque[Future[R | str]] = deque()
        try:
            waiting.extend(pool.submit(work, job) for job in itertools.islice(rest, workers * _AHEAD))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(work, job) for job in itertools.islice(rest, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _alone(work: Callable[[J], R | str], job: J) -> R | str:
    """Does the job that may have killed a worker in a worker of its own."""
    with _pool(1) as pool:
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool as error:
            raise _no_workers() from error
        try:
            return pool.submit(work, job).result()
        except BrokenProcessPool:
            return f"{job.name} kills the process that decodes it. It is left out. Save the image again"


def refuse_in_worker() -> None:
    """Stops a script that runs again because a worker imports it; it would wait for the lock of its own parent.

    Raises:
        UsageError: If this process is such a worker, still importing.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # what multiprocessing asks itself
        raise _no_workers()


def _no_workers() -> UsageError:
    return UsageError(
        "The worker processes that decode images cannot be started",
        'A script that starts them has its main part under: if __name__ == "__main__"',
        "Add that line to the script, or set workers=0",
    )


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    """Leaves Ctrl-C to the main process, and ends with it when that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def read_slice(path: Path, name: str) -> Image:
    """Reads a file that holds one slice, whatever its format.

    Raises:
        InputError: If it cannot be read, or holds several slices; the message calls it by ``name`` then.
    """
    image = read_image(path)
    slices = image.slices()
    if len(slices) != 1:
        raise InputError(
            f"{name} holds {len(slices)} slices",
            "A case is one slice: a volume has no single label here",
            "Save the slices as files of their own, with the same patient_id",
        )
    return slices[0]


def _head(mask: NDArray[np.bool_]) -> Grey:
    small = Picture.fromarray(mask.astype(np.uint8) * np.uint8(255)).resize((HEAD_SIZE, HEAD_SIZE), Picture.Resampling.BOX)
    return (np.asarray(small) > 127).astype(np.uint8)


def _mask(job: Job, image: Image) -> Grey | None:
    if job.mask is None:
        side = job.preprocess.size
        return np.zeros((side, side), np.uint8) if job.with_mask else None
    mask = read_slice(job.mask, f"The mask of {job.name}").pixels
    if mask.shape != image.pixels.shape:
        raise InputError(
            f"The mask of {job.name} has {mask.shape} pixels, the image {image.pixels.shape}",
            "A mask has as many rows and columns as its image",
            "Save the mask in the size of the image",
        )
    return job.preprocess.place(image).to_network(mask).astype(np.uint8)
