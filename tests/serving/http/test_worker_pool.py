"""Memory use of the worker processes."""

from __future__ import annotations

import asyncio
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from reslink.imaging.preprocess import Preprocess
from reslink.serving.http.worker import PrepareRequest
from reslink.serving.http.worker_pool import WorkerPool


def _faults(process: int) -> int:
    """Minor page faults of a process so far (proc_pid_stat(5), field 10)."""
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[7])


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are read from /proc")
def test_memory_is_reused_from_one_image_to_the_next(rng: np.random.Generator) -> None:
    gray = np.kron(rng.integers(0, 255, (64, 64)), np.ones((8, 8))).astype(np.uint8)
    stream = io.BytesIO()
    Picture.fromarray(gray).save(stream, "PNG")

    async def faults(pool: WorkerPool) -> int:
        request = PrepareRequest(preprocess_indices=(0,))
        for _ in range(5):
            await pool.prepare(stream.getvalue(), request)
        [process] = pool._executor._processes
        before = _faults(process)
        for _ in range(20):
            await pool.prepare(stream.getvalue(), request)
        return (_faults(process) - before) // 20

    pool = WorkerPool([Preprocess().model_dump_json()], 1)
    try:
        assert asyncio.run(faults(pool)) < 50
    finally:
        pool.close()
