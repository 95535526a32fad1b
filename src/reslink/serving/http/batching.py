"""Dynamic batching: slices of concurrent requests run through one network together."""

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
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class _Job(Generic[ResultT]):
    """One slice to predict, or a call that needs the network for itself."""

    pixels: Pixels | None
    call: Callable[[], ResultT] | None
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[ResultT]


class Batcher(Generic[ResultT]):
    """A thread that owns a network and runs it on batches. Jobs of cancelled requests are skipped.

    Args:
        run: Maps (B, planes, S, S) uint8 to one result per slice.
        batch_size: Largest B.
        wait_seconds: How long the first slice of a batch waits for others.
        on_batch: Called with the size of each batch and its duration in seconds.
    """

    def __init__(
        self,
        run: Callable[[Pixels], list[ResultT]],
        batch_size: int,
        wait_seconds: float,
        on_batch: Callable[[int, float], None] = lambda _size, _seconds: None,
    ) -> None:
        self.batch_size = batch_size
        self._run, self._wait_seconds, self._on_batch = run, wait_seconds, on_batch
        self._jobs: queue.SimpleQueue[_Job[ResultT] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="network", daemon=True)
        self._thread.start()

    async def predict(self, pixels: Pixels) -> ResultT:
        """Returns the result for one slice, (planes, S, S) uint8."""
        return await self._submit(pixels, None)

    async def run_exclusive(self, call: Callable[[], ResultT]) -> ResultT:
        """Calls a function in the network's thread, between two batches."""
        return await self._submit(None, call)

    async def _submit(self, pixels: Pixels | None, call: Callable[[], ResultT] | None) -> ResultT:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ResultT] = loop.create_future()
        self._jobs.put(_Job(pixels, call, loop, future))
        return await future

    def close(self) -> None:
        """Ends the thread after all queued jobs."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch, last = [job], False
            deadline = time.monotonic() + self._wait_seconds
            while batch[-1].call is None and len(batch) < self.batch_size:
                try:
                    next_job = self._jobs.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    break
                if next_job is None:
                    last = True
                    break
                batch.append(next_job)
            self._execute([job for job in batch if job.call is None])
            self._execute([job for job in batch if job.call is not None])
            if last:
                return

    def _execute(self, jobs: list[_Job[ResultT]]) -> None:
        jobs = [job for job in jobs if not job.future.done()]  # done: the request timed out or failed elsewhere
        if not jobs:
            return
        start = time.monotonic()
        try:
            results = self._results(jobs)
        except Exception as error:  # noqa: BLE001  (an error of the runtime fails the requests, not this thread)
            _deliver(jobs, [error] * len(jobs))
            return
        self._on_batch(len(jobs), time.monotonic() - start)
        _deliver(jobs, results)

    def _results(self, jobs: list[_Job[ResultT]]) -> list[ResultT]:
        if jobs[0].call is not None:
            return [jobs[0].call()]
        return self._run(np.stack([job.pixels for job in jobs if job.pixels is not None]))


def _deliver(jobs: list[_Job[ResultT]], results: list[ResultT] | list[Exception]) -> None:
    for job, result in zip(jobs, results, strict=True):
        try:
            job.loop.call_soon_threadsafe(_resolve, job.future, result)
        except RuntimeError:  # the event loop is closed, so nobody waits for the result
            continue


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
