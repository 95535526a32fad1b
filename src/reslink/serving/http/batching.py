"""Slices of many requests through one network together: whatever comes within a few milliseconds is one batch."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
A = TypeVar("A")


@dataclass(frozen=True)
class _Job(Generic[A]):
    """One slice, or a call that wants the network for itself."""

    pixels: Pixels | None
    call: Callable[[], A] | None
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[A]


class Batcher(Generic[A]):
    """A thread that owns a network and feeds it batches; what nobody waits for any more it leaves out.

    Args:
        run: Takes (B, planes, S, S) uint8 and returns an answer a slice.
        batch: Largest B.
        gather_seconds: How long the first slice of a batch waits for others.
        measure: Called with the size of each batch and the seconds that it took.
    """

    def __init__(
        self,
        run: Callable[[Pixels], list[A]],
        batch: int,
        gather_seconds: float,
        measure: Callable[[int, float], None] = lambda _size, _seconds: None,
    ) -> None:
        self.batch = batch
        self._run, self._gather, self._measure = run, gather_seconds, measure
        self._jobs: queue.SimpleQueue[_Job[A] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="network", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Slices that wait for the network."""
        return self._jobs.qsize()

    async def answer(self, pixels: Pixels) -> A:
        """Returns the answer to one slice, (planes, S, S) uint8."""
        return await self._put(pixels, None)

    async def alone(self, call: Callable[[], A]) -> A:
        """Calls a function in the network's thread, between two batches."""
        return await self._put(None, call)

    async def _put(self, pixels: Pixels | None, call: Callable[[], A] | None) -> A:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        self._jobs.put(_Job(pixels, call, loop, future))
        return await future

    def close(self) -> None:
        """Ends the thread once all that waits is answered."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch, last = [job], False
            end = time.monotonic() + self._gather
            while batch[-1].call is None and len(batch) < self.batch:
                try:
                    more = self._jobs.get(timeout=max(0.0, end - time.monotonic()))
                except queue.Empty:
                    break
                if more is None:
                    last = True
                    break
                batch.append(more)
            self._do([one for one in batch if one.call is None])
            self._do([one for one in batch if one.call is not None])
            if last:
                return

    def _do(self, jobs: list[_Job[A]]) -> None:
        jobs = [job for job in jobs if not job.future.done()]  # its request took too long, or failed elsewhere
        if not jobs:
            return
        began = time.monotonic()
        try:
            answers = self._answers(jobs)
        except Exception as error:  # noqa: BLE001  (whatever a runtime raises belongs to the requests, not to this thread)
            _tell(jobs, [error] * len(jobs))
            return
        self._measure(len(jobs), time.monotonic() - began)
        _tell(jobs, answers)

    def _answers(self, jobs: list[_Job[A]]) -> list[A]:
        if jobs[0].call is not None:
            return [jobs[0].call()]
        return self._run(np.stack([job.pixels for job in jobs if job.pixels is not None]))


def _tell(jobs: list[_Job[A]], answers: list[A] | list[Exception]) -> None:
    for job, answer in zip(jobs, answers, strict=True):
        try:
            job.loop.call_soon_threadsafe(_set, job.future, answer)
        except RuntimeError:  # the loop is closed: nobody waits any more
            continue


def _set(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
