"""Pairs of images that may come from one scan, and how similar the two are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.near_duplicates.features import Features
from reslink.datasets.scan_groups.signatures import Signatures

NEIGHBORS: Final = 25
"""Most similar images by each kind of plane that become candidates of an image."""

CHUNK_SIZE: Final = 256
SEARCHED: Final = (0, 1, 3, 4, 6, 8)
"""Kinds of planes that candidates are searched by."""

FIRST_ABSOLUTE: Final = 14
"""Numbers from here on are also compared without the spread of the data set: those of position, form and filling."""

MAX_SPREADS: Final = 6.0
MIN_SPREAD: Final = 1e-3

Numbers = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class CandidatePairs:
    """Pairs of images that may come from one scan.

    Attributes:
        first: (k,) row of the first image.
        second: (k,) row of the second image, larger than ``first``.
        features: (k, 64) how similar the two are.
    """

    first: Numbers
    second: Numbers
    features: Features


def find_pairs(signatures: Signatures) -> CandidatePairs:
    """Finds the most similar images of each image, and compares the two of each pair.

    The features of a pair are the correlations of its planes and the overlap of its heads; the same relative to the mean and
    deviation over all other images, of either image; and the differences of its numbers, relative to their spread over the
    images, and for position, form and filling also absolute.

    Args:
        signatures: Of n images.
    """
    count = len(signatures.heads)
    kinds = len(signatures.planes) + 1
    firsts, seconds, values = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)], [np.zeros((0, kinds), np.float32)]
    means, deviations = np.zeros((count, kinds), np.float32), np.ones((count, kinds), np.float32)
    for start in range(0, count if count > 1 else 0, CHUNK_SIZE):
        rows = np.arange(start, min(start + CHUNK_SIZE, count))
        similarities = _similarities(signatures, rows)
        means[rows], deviations[rows] = _row_statistics(similarities, rows)
        local, other = np.nonzero(_nearest(similarities, rows))
        firsts.append(rows[local])
        seconds.append(other)
        values.append(similarities[:, local, other].T)
    first, second, similarity = np.concatenate(firsts), np.concatenate(seconds), np.concatenate(values)
    lower, upper = np.minimum(first, second), np.maximum(first, second)
    keys, chosen = np.unique(lower * count + upper, return_index=True)
    lower, upper = np.divmod(keys, max(count, 1))
    relative = [(similarity[chosen] - means[i]) / deviations[i] for i in (lower, upper)]
    columns = [
        similarity[chosen],
        np.minimum(*relative),
        np.maximum(*relative),
        *_differences(signatures.numbers, lower, upper),
    ]
    return CandidatePairs(lower, upper, np.concatenate(columns, axis=1, dtype=np.float32))


def _similarities(signatures: Signatures, rows: Numbers) -> Features:
    """Returns the similarity of some images to all others, (kinds, rows, n)."""
    heads = signatures.heads
    shared, areas = heads[rows] @ heads.T, np.square(heads).sum(axis=1)
    overlap = shared / np.maximum(areas[rows, None] + areas - shared, 1)
    return np.stack([*(plane[rows] @ plane.T for plane in signatures.planes), overlap])


def _row_statistics(similarities: Features, rows: Numbers) -> tuple[Features, Features]:
    """Returns mean and standard deviation of the similarity to the other images, (rows, kinds) each."""
    others, own = similarities.shape[2] - 1, similarities[:, np.arange(len(rows)), rows]
    mean = (similarities.sum(axis=2) - own) / others
    power = (np.square(similarities).sum(axis=2) - np.square(own)) / others
    return mean.T, np.sqrt(np.maximum(power - np.square(mean), 0)).T + np.float32(MIN_SPREAD)


def _nearest(similarities: Features, rows: Numbers) -> NDArray[np.bool_]:
    """Returns (rows, n) whether an image is among the most similar ones by a kind of plane."""
    count = similarities.shape[2]
    neighbors = min(NEIGHBORS, count - 1)
    chosen = np.zeros(similarities.shape[1:], np.bool_)
    local = np.arange(len(rows))
    for kind in SEARCHED:
        similarity = similarities[kind].copy()
        similarity[local, rows] = -np.inf
        chosen[local[:, None], np.argpartition(-similarity, neighbors - 1, axis=1)[:, :neighbors]] = True
    return chosen


def _differences(numbers: Features, first: Numbers, second: Numbers) -> list[Features]:
    low, high = np.percentile(numbers, [25, 75], axis=0) if len(numbers) else np.zeros((2, numbers.shape[1]))
    absolute = np.abs(numbers[first] - numbers[second])
    return [np.minimum(absolute / (high - low + MIN_SPREAD), MAX_SPREADS), absolute[:, FIRST_ABSOLUTE:]]
