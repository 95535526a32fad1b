"""Which images make up a step, and how they become the network's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reslink.imaging.preprocess import Preprocess
from reslink.training.seeding import numbers

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Shard:
    """The part of one step's batch that one process works on.

    Attributes:
        indices: Positions of its images in the cache.
        share: What its mean loss is multiplied by, so that the mean over processes is the mean over the whole batch.
    """

    indices: Indices
    share: float


def plan_epoch(
    indices: Indices, batch_size: int, seed: int, epoch: int, weights: NDArray[np.float64] | None = None
) -> list[Indices]:
    """Returns the batches of an epoch: each image once, in a new order, in batches of nearly equal size.

    There is no short last batch, whose BatchNorm statistics would be those of a few images.

    Args:
        indices: Positions of the training images.
        batch_size: Largest batch.
        seed: The recipe's seed.
        epoch: From 1.
        weights: For the weighted sampler: how likely each image is drawn; images are then drawn with replacement.
    """
    stream = numbers(seed, "order", epoch)
    if weights is None:
        order = stream.permutation(indices)
    else:
        order = stream.choice(indices, size=len(indices), p=weights / weights.sum())
    return np.array_split(order, -(-len(order) // batch_size))


def shard(batch: Indices, process: int, processes: int) -> Shard:
    """Returns one process's part of a batch.

    Args:
        batch: Positions of all images of the step.
        process: Which process, from 0.
        processes: How many there are.
    """
    own = batch[process::processes]
    return Shard(own, len(own) * processes / len(batch))


def sampler_weights(targets: Sequence[int] | Indices) -> NDArray[np.float64]:
    """Returns how likely each image is drawn so that each class is drawn equally often."""
    labels = np.asarray(targets)
    counts = np.bincount(labels)
    return np.asarray(1.0 / counts[labels], dtype=np.float64)


def normalise(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """Does on the device what ``Preprocess.normalise`` does in NumPy.

    Args:
        pixels: (B, planes, S, S) in 0 to 1.
        preprocess: The settings.

    Returns:
        (B, channels, S, S).
    """
    values = (pixels - preprocess.mean) / preprocess.std
    return values if values.shape[1] == preprocess.channels else values.expand(-1, preprocess.channels, -1, -1)


def to_unit(pixels: Tensor, device: torch.device) -> Tensor:
    """Returns uint8 pixels as float32 in 0 to 1 on the device."""
    return pixels.to(device, non_blocking=True).float().div_(255)
