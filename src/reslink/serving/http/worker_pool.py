"""The processes that prepare files: as many as there are processors, started before the first request."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from reslink.serving.http import worker
from reslink.serving.http.problems import busy
from reslink.serving.http.worker import Prepared, Wish


class Pool:
    """Processes that prepare files.

    Args:
        ways: The preprocessings, as JSON.
        processes: How many, at least 1.
    """

    def __init__(self, ways: Sequence[str], processes: int) -> None:
        self._ways, self.processes = tuple(ways), processes
        self._executor = self._new()

    def _new(self) -> ProcessPoolExecutor:
        spawn = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks and the open connections
        return ProcessPoolExecutor(self.processes, spawn, worker.start, (self._ways,))

    async def warm(self) -> None:
        """Starts all processes, with their guarded children."""
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(self._executor, worker.warm, i) for i in range(2 * self.processes)))

    async def prepare(self, data: bytes, wish: Wish) -> Prepared:
        """Prepares a file.

        Raises:
            InputError: If the file is at fault.
            Problem: With status 503, if the process died; the next request finds a new one.
        """
        executor = self._executor
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, worker.prepare, data, wish)
        except BrokenProcessPool as error:
            if self._executor is executor:
                self._executor = self._new()
                executor.shutdown(wait=False)
            raise busy("A process that decodes images ended") from error

    def close(self) -> None:
        """Ends the processes."""
        self._executor.shutdown(wait=True, cancel_futures=True)
