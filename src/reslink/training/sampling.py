"""Plans the batches of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reslink.training.seeding import numpy_generator

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Shard:
    """The part of a batch that one process works on.

    Attributes:
        indices: Cache indices of its images.
        share: Factor of its mean loss, so that the mean over processes is the mean over the whole batch.
    """

    indices: Indices
    share: float


def plan_epoch(
    indices: Indices, batch_size: int, seed: int, epoch: int, weights: NDArray[np.float64] | None = None
) -> list[Indices]:
    """Returns the batches of an epoch: each image once, in a new order, in batches of nearly equal size.

    There is no short last batch, so BatchNorm statistics never come from a few images.

    Args:
        indices: Cache indices of the training images.
        batch_size: Largest batch size.
        seed: The recipe's seed.
        epoch: From 1.
        weights: Sampling weight of each image for the weighted sampler, which draws with replacement.
    """
    rng, n = numpy_generator(seed, "order", epoch), len(indices)
    order = rng.permutation(indices) if weights is None else rng.choice(indices, size=n, p=weights / weights.sum())
    return np.array_split(order, -(-n // batch_size))


def shard(batch: Indices, process: int, processes: int) -> Shard:
    """Returns the part of a batch for one process.

    Args:
        batch: Cache indices of all images of the step.
        process: Index of the process, from 0.
        processes: Number of processes.
    """
    own = batch[process::processes]
    return Shard(own, len(own) * processes / len(batch))


def draw_slices(count: int, slices: int, rng: np.random.Generator) -> Indices:
    """Draws slices of a series: evenly spaced, with a random offset.

    Args:
        count: Number of slices of the series.
        slices: Number to draw; a series with fewer gives all.
        rng: Draws the offset.

    Returns:
        Ascending positions, each once.
    """
    if count <= slices:
        return np.arange(count)
    return np.floor((np.arange(slices) + rng.random()) * count / slices).astype(np.int64)


def sampler_weights(targets: Sequence[int] | Indices) -> NDArray[np.float64]:
    """Returns sampling weights with which each class is drawn equally often."""
    labels = np.asarray(targets)
    counts = np.bincount(labels)
    return np.asarray(1.0 / counts[labels], dtype=np.float64)


def balanced_weights(sources: Sequence[str | None], targets: Sequence[int] | Indices) -> NDArray[np.float64]:
    """Returns sampling weights with which each class of each source is drawn equally often.

    Args:
        sources: The source of each image; images without one are one more source.
        targets: The class index of each image.
    """
    strata = [f"{target} {source!r}" for source, target in zip(sources, targets, strict=True)]
    return sampler_weights(np.unique(strata, return_inverse=True)[1])
