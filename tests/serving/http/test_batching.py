"""Dynamic batching: cancelled jobs are skipped, and one request does not block others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from reslink.bundles.scope import Scope
from reslink.inference.prediction import Prediction
from reslink.serving.http.batching import Batcher, Pixels
from reslink.serving.http.handlers import _predict_file
from reslink.serving.http.models import ServedModel
from reslink.serving.http.uploads.form import Upload
from reslink.serving.http.worker import PreparedFile


def one_slice(number: int) -> Pixels:
    return np.full((1, 2, 2), number, np.uint8)


@contextmanager
def batching(run: Callable[[Pixels], list[Any]], batch: int) -> Iterator[Batcher[Any]]:
    batcher: Batcher[Any] = Batcher(run, batch, 0.0)
    try:
        yield batcher
    finally:
        batcher.close()


def test_slices_of_requests_that_have_ended_are_not_computed() -> None:
    go, computed = threading.Event(), []

    def run(pixels: Pixels) -> list[int]:
        computed.extend(int(one.flat[0]) for one in pixels)
        go.wait(20)
        return [int(one.flat[0]) for one in pixels]

    async def ask(batcher: Batcher[int]) -> list[Any]:
        jobs = [asyncio.ensure_future(batcher.predict(one_slice(number))) for number in range(6)]
        jobs.append(asyncio.ensure_future(batcher.run_exclusive(lambda: computed.append(99) or 99)))
        while not computed:
            await asyncio.sleep(0.001)
        for job in (jobs[1], jobs[2], jobs[4], jobs[6]):
            job.cancel()
        await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(*jobs, return_exceptions=True)

    with batching(run, 1) as batcher:
        answers = asyncio.run(ask(batcher))
    assert [one for one in answers if not isinstance(one, asyncio.CancelledError)] == [0, 3, 5]
    assert computed == [0, 3, 5]


@pytest.mark.parametrize("batch", [1, 4])
def test_a_large_volume_does_not_fill_the_queue(batch: int) -> None:
    queued: list[int] = []

    def run(pixels: Pixels) -> list[Prediction]:
        queued.append(batcher._jobs.qsize() + len(pixels))
        return [Prediction("", label=str(one.flat[0])) for one in pixels]

    slices = [one_slice(number) if number != 7 else "why not" for number in range(100)]
    with batching(run, batch) as batcher:
        classifier = SimpleNamespace(refusal=lambda _pixels, _stated: None, bundle=SimpleNamespace(scope=Scope(), statement=""))
        model = ServedModel("head", classifier, 0, batcher)  # type: ignore[arg-type]
        file, prepared = Upload("a.nii", b""), PreparedFile(len(slices), "HU", "CT", {0: slices})
        answer, _ = asyncio.run(_predict_file(file, prepared, [model], 0))
    assert max(queued) <= 2 * batch
    entries = answer["answers"][0]["slices"]
    assert [entry["label"] for entry in entries] == [None if i == 7 else str(i) for i in range(100)]
    assert entries[7]["error"] == "why not"
