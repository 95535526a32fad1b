"""Pool of worker processes that decode and preprocess uploaded files."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from reslink.serving.http import worker
from reslink.serving.http.problems import busy
from reslink.serving.http.worker import PreparedFile, PrepareRequest


class WorkerPool:
    """Worker processes, started before the first request.

    Args:
        preprocesses: The preprocessings as JSON.
        processes: Number of processes, at least 1.
    """

    def __init__(self, preprocesses: Sequence[str], processes: int) -> None:
        self._preprocesses, self.processes = tuple(preprocesses), processes
        self._executor = self._new_executor()

    def _new_executor(self) -> ProcessPoolExecutor:
        spawn = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks and the open connections
        return ProcessPoolExecutor(self.processes, spawn, worker.initialize, (self._preprocesses,))

    async def warm_up(self) -> None:
        """Starts all processes and their sandboxed children."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(self._executor, worker.warm_up, i) for i in range(2 * self.processes)))

    async def prepare(self, data: bytes, request: PrepareRequest) -> PreparedFile:
        """Prepares a file in a worker process.

        Raises:
            InputError: If the file cannot be read.
            Problem: With status 503 if a worker died; the next request starts a new pool.
        """
        executor = self._executor
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, worker.prepare, data, request)
        except BrokenProcessPool as error:
            if self._executor is executor:
                self._executor = self._new_executor()
                executor.shutdown(wait=False)
            raise busy("A worker process that decodes images ended") from error

    def close(self) -> None:
        """Ends the processes."""
        self._executor.shutdown(wait=True, cancel_futures=True)
