"""What one request may take of the processes and the networks, with neither of them there."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from reslink.serving.http.handlers import Desk
from reslink.serving.http.limits import Limits
from reslink.serving.http.metrics import Metrics
from reslink.serving.http.problems import Problem
from reslink.serving.http.uploads.form import Form, Upload
from reslink.serving.http.worker import Prepared, Wish


class Volumes:
    """Processes to which every file is a volume of so many slices."""

    processes = 1

    def __init__(self, slices: int) -> None:
        self.slices, self.prepared = slices, 0

    async def prepare(self, _data: bytes, _wish: Wish) -> Prepared:
        self.prepared += 1
        await asyncio.sleep(0)
        return Prepared(self.slices, "HU", "CT")


def test_what_is_prepared_counts_as_memory_and_what_was_sent_no_longer() -> None:
    class Slices(Volumes):
        async def prepare(self, _data: bytes, _wish: Wish) -> Prepared:
            return Prepared(2, "HU", "CT", {0: [np.zeros((1, 8, 8), np.uint8), "no head"]})

    desk = Desk([], Slices(2), Limits(held_bytes=1000), Metrics())  # type: ignore[arg-type]
    with desk.memory() as hold:
        hold(900)
        form = Form([Upload("a.nii", b"x" * 900)], hold=hold)
        asyncio.run(desk._prepare(form, Wish((0,))))
        assert desk.held_bytes == 64
        form.files = [Upload(f"{i}.nii", b"") for i in range(15)]
        with pytest.raises(Problem, match="too much to do"):
            asyncio.run(desk._prepare(form, Wish((0,))))
    assert desk.held_bytes == 0


def test_many_volumes_are_refused_before_all_of_them_are_read() -> None:
    pool = Volumes(60)
    desk = Desk([], pool, Limits(slices=100), Metrics())  # type: ignore[arg-type]
    with pytest.raises(Problem, match="too large") as caught:
        asyncio.run(desk.view(Form([Upload(f"{i}.nii.gz", b"x") for i in range(50)])))
    assert caught.value.status == 413
    assert pool.prepared <= 3, "more than the one too many, and one that had begun"
    assert "120 slices" in caught.value.detail
    assert "100 slices" in caught.value.detail
