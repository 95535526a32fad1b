"""Timing of a classifier: latency of one image by stage, and throughput in batches, each for a limited time."""

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
SINGLE_THREADED: Final = ("preprocess", "decision")
"""Stages that run on the calling thread only; decoding may wait for a child process, the network for other threads."""

WARM_UP: Final = 2
"""Predictions before the measurement: first calls build tables and fill caches."""

MIN_ANSWERS: Final = 3
"""Minimum number of measured predictions, however slow they are."""


Clocks: TypeAlias = tuple[float, float]
"""Wall time and processor time of the calling thread, in seconds."""


@dataclass(frozen=True)
class Latency:
    """The time from the bytes of a file to the prediction, one image at a time.

    Attributes:
        n: Number of measured predictions.
        median_ms: Median in milliseconds.
        p95_ms: 95th percentile in milliseconds.
        processor_share: Processor time of the calling thread divided by wall time, over the stages in ``SINGLE_THREADED``.
            About 1; lower if other programs used the core.
        stages: Median of each of ``STAGES`` in milliseconds. The head mask belongs to preprocessing; the input statistics
            of an OOD detector belong to the decision.
    """

    n: int
    median_ms: float
    p95_ms: float
    processor_share: float
    stages: dict[str, float]


@dataclass(frozen=True)
class Throughput:
    """The rate of predictions in batches.

    Attributes:
        n: Number of predictions.
        seconds: Wall time in seconds.
        images_per_second: ``n / seconds``.
    """

    n: int
    seconds: float
    images_per_second: float


def measure_latency(classifier: Classifier, images: Sequence[bytes], seconds: float) -> Latency:
    """Measures the latency of single images, in a loop over the images; the first slice of a volume.

    Args:
        classifier: The classifier.
        images: Contents of image files, at least one.
        seconds: Duration of the measurement.

    Raises:
        InputError: If an image cannot be read.
    """
    contents = itertools.cycle(images)
    for _ in range(WARM_UP):
        _time_stages(classifier, next(contents))
    rows: list[list[Clocks]] = []
    end = time.perf_counter() + seconds
    while len(rows) < MIN_ANSWERS or time.perf_counter() < end:
        rows.append(_time_stages(classifier, next(contents)))
    wall, processor = np.moveaxis(np.diff(np.array(rows), axis=1), 2, 0)
    total_ms = 1000 * wall.sum(axis=1)
    stages = {name: float(np.median(1000 * column)) for name, column in zip(STAGES, wall.T, strict=True)}
    single_threaded = [name in SINGLE_THREADED for name in STAGES]
    share = float(processor[:, single_threaded].sum() / wall[:, single_threaded].sum())
    return Latency(len(rows), float(np.median(total_ms)), float(np.percentile(total_ms, 95)), share, stages)


def _time_stages(classifier: Classifier, content: bytes) -> list[Clocks]:
    """Returns the clocks before the first stage and after each stage."""
    times = [_clocks()]
    plane = read_image(content).slices()[0]
    times.append(_clocks())
    pixels = classifier.bundle.preprocess.pixels(plane)[None]
    times.append(_clocks())
    outputs = classifier.outputs(pixels, statistics=False)
    times.append(_clocks())
    classifier.decide(outputs, pixels)
    times.append(_clocks())
    return times


def _clocks() -> Clocks:
    return time.perf_counter(), time.thread_time()


def measure_throughput(classifier: Classifier, files: Sequence[Path], batch_size: int, seconds: float) -> Throughput:
    """Measures the throughput of ``Classifier.predict``, in a loop over the files.

    Args:
        classifier: The classifier.
        files: Image files, at least one.
        batch_size: Number of slices per batch.
        seconds: Duration of the measurement; the batch that is running at its end still counts.
    """
    list(classifier.predict(files[:1], batch_size=1))
    began = time.perf_counter()
    repeated = itertools.takewhile(lambda _: time.perf_counter() - began < seconds, itertools.cycle(files))
    n = sum(1 for _ in classifier.predict(repeated, batch_size=batch_size))
    elapsed = time.perf_counter() - began
    return Throughput(n, elapsed, n / elapsed)
