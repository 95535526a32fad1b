"""Memory and slice limits of one request, with fake workers and no network."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from reslink.serving.http.handlers import RequestHandlers
from reslink.serving.http.limits import Limits
from reslink.serving.http.metrics import Metrics
from reslink.serving.http.problems import Problem
from reslink.serving.http.uploads.form import Form, Upload
from reslink.serving.http.worker import PreparedFile, PrepareRequest


class Volumes:
    """A worker pool in which every file is a volume with the given number of slices."""

    processes = 1

    def __init__(self, slices: int) -> None:
        self.slices, self.prepared = slices, 0

    async def prepare(self, _data: bytes, _request: PrepareRequest) -> PreparedFile:
        self.prepared += 1
        await asyncio.sleep(0)
        return PreparedFile(self.slices, "HU", "CT")


def test_prepared_slices_count_as_memory_and_sent_files_no_longer() -> None:
    class Slices(Volumes):
        async def prepare(self, _data: bytes, _request: PrepareRequest) -> PreparedFile:
            return PreparedFile(2, "HU", "CT", {0: [np.zeros((1, 8, 8), np.uint8), "no head"]})

    handlers = RequestHandlers([], Slices(2), Limits(held_bytes=1000), Metrics())  # type: ignore[arg-type]
    with handlers.memory() as hold:
        hold(900)
        form = Form([Upload("a.nii", b"x" * 900)], hold=hold)
        asyncio.run(handlers._prepare(form, PrepareRequest((0,))))
        assert handlers.held_bytes == 64
        form.files = [Upload(f"{i}.nii", b"") for i in range(15)]
        with pytest.raises(Problem, match="service is busy"):
            asyncio.run(handlers._prepare(form, PrepareRequest((0,))))
    assert handlers.held_bytes == 0


def test_many_volumes_are_refused_before_all_of_them_are_read() -> None:
    pool = Volumes(60)
    handlers = RequestHandlers([], pool, Limits(slices=100), Metrics())  # type: ignore[arg-type]
    with pytest.raises(Problem, match="too large") as caught:
        asyncio.run(handlers.view(Form([Upload(f"{i}.nii.gz", b"x") for i in range(50)])))
    assert caught.value.status == 413
    assert pool.prepared <= 3, "one file beyond the limit, and one already started"
    assert "120 slices" in caught.value.detail
    assert "100 slices" in caught.value.detail
