"""How fast a classifier answers: one image stage by stage, and many in batches; each measurement ends when its time is up."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from reslink.imaging.reading import read_image
from reslink.inference.classifier import Classifier

STAGES: Final = ("decode", "preprocess", "network", "decision")
ALONE: Final = ("preprocess", "decision")
"""Stages that one thread computes; decoding may wait for a child process, the network for other threads."""

WARM_UP: Final = 2
"""Answers before the first that counts: first calls build tables and fill caches."""

LEAST: Final = 3
"""Answers that count at least, however slow they are."""


Clocks: TypeAlias = tuple[float, float]
"""Wall time and processor time of the calling thread, in seconds."""


@dataclass(frozen=True)
class Latency:
    """The time from the bytes of a file to the answer, one image at a time.

    Attributes:
        n: Answers that were measured.
        median_ms: Median, in milliseconds.
        p95_ms: 95th percentile, in milliseconds.
        processor_share: Processor time of the calling thread over wall time in ``ALONE``, the stages in which it waits for
            no helper. About 1, and less where other work took the core.
        stages: Median of each of ``STAGES``, in milliseconds; the head mask counts as preprocessing, and the input
            statistics of a gate as decision.
    """

    n: int
    median_ms: float
    p95_ms: float
    processor_share: float
    stages: dict[str, float]


@dataclass(frozen=True)
class Throughput:
    """Files answered in a row.

    Attributes:
        n: Answers.
        seconds: That they took.
        images_per_second: Their quotient.
    """

    n: int
    seconds: float
    images_per_second: float


def latency(classifier: Classifier, images: Sequence[bytes], seconds: float) -> Latency:
    """Measures single images, one after the other, round and round; of a volume the first slice.

    Args:
        classifier: A loaded bundle.
        images: Contents of files, at least one.
        seconds: When to stop.

    Raises:
        InputError: If an image cannot be read.
    """
    rounds = itertools.cycle(images)
    for _ in range(WARM_UP):
        _answer(classifier, next(rounds))
    rows: list[list[Clocks]] = []
    end = time.perf_counter() + seconds
    while len(rows) < LEAST or time.perf_counter() < end:
        rows.append(_answer(classifier, next(rounds)))
    wall, processor = np.moveaxis(np.diff(np.array(rows), axis=1), 2, 0)
    whole = 1000 * wall.sum(axis=1)
    stages = {name: float(np.median(1000 * column)) for name, column in zip(STAGES, wall.T, strict=True)}
    alone = [name in ALONE for name in STAGES]
    share = float(processor[:, alone].sum() / wall[:, alone].sum())
    return Latency(len(rows), float(np.median(whole)), float(np.percentile(whole, 95)), share, stages)


def _answer(classifier: Classifier, content: bytes) -> list[Clocks]:
    """Returns the clocks before the first stage and after each."""
    times = [_clocks()]
    plane = read_image(content).slices()[0]
    times.append(_clocks())
    pixels = classifier.bundle.preprocess.pixels(plane)[None]
    times.append(_clocks())
    found = classifier.outputs(pixels, statistics=False)
    times.append(_clocks())
    classifier.decide(found, pixels)
    times.append(_clocks())
    return times


def _clocks() -> Clocks:
    return time.perf_counter(), time.thread_time()


def throughput(classifier: Classifier, files: Sequence[Path], batch_size: int, seconds: float) -> Throughput:
    """Measures files in batches, as ``predict`` takes them, round and round.

    Args:
        classifier: A loaded bundle.
        files: At least one.
        batch_size: Slices that the network sees at a time.
        seconds: When to stop; the batch that has begun still counts.
    """
    list(classifier.predict(files[:1], batch_size=1))
    began = time.perf_counter()
    rounds = itertools.takewhile(lambda _: time.perf_counter() - began < seconds, itertools.cycle(files))
    n = sum(1 for _ in classifier.predict(rounds, batch_size=batch_size))
    taken = time.perf_counter() - began
    return Throughput(n, taken, n / taken)
