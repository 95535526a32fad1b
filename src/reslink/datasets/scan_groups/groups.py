"""Scan groups from signatures: candidate pairs, their log odds, and average linkage."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.scan_groups.linkage import average_linkage
from reslink.datasets.scan_groups.model import pair_model
from reslink.datasets.scan_groups.pairs import CandidatePairs, find_pairs
from reslink.datasets.scan_groups.signatures import Signatures

MISSING_LOG_ODDS: Final = 0.0
"""Log odds of pairs that are not candidates, and lowest log odds of candidates: distant slices of a scan look different too, so
that only similar pairs are evidence."""

MAX_LOG_ODDS: Final = 8.0

THRESHOLD: Final = 0.3
"""Mean log odds between two groups from which they are joined: the smallest with a precision of 0.95 on each data set. In this
choice, each pair was scored by a model that saw neither of its patients; see ``benchmarks/fit_scan_groups.py``."""


def scan_groups(signatures: Signatures, pictures: NDArray[np.intp] | None = None) -> list[int]:
    """Groups images that probably come from one scan.

    A scan is often divided into several groups, because distant slices have too little in common.

    Args:
        signatures: Of n images.
        pictures: (n,) number of the picture that each image shows, from 0; near duplicates have the same number and stay in one
            group. None if each shows another.

    Returns:
        n group numbers from 0 in the order of first appearance.
    """
    pairs = find_pairs(signatures)
    return link_pairs(len(signatures.heads), pairs, pair_model().log_odds(pairs.features), THRESHOLD, pictures)


def link_pairs(
    count: int,
    pairs: CandidatePairs,
    log_odds: NDArray[np.float64],
    threshold: float,
    pictures: NDArray[np.intp] | None = None,
) -> list[int]:
    """Groups ``count`` images by the log odds, (k,), of their candidate pairs, as ``scan_groups`` does."""
    log_odds = np.minimum(log_odds, MAX_LOG_ODDS)
    rows = np.stack([pairs.first, pairs.second], axis=1)
    if pictures is None:
        return average_linkage(count, rows, log_odds, MISSING_LOG_ODDS, threshold)
    rows, log_odds = _best_per_pair(np.sort(pictures[rows], axis=1), log_odds)
    groups = average_linkage(int(pictures.max(initial=-1)) + 1, rows, log_odds, MISSING_LOG_ODDS, threshold)
    return [groups[picture] for picture in pictures.tolist()]


def _best_per_pair(rows: NDArray[np.intp], values: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Returns each pair of two pictures once, with its highest value: a mirrored near duplicate resembles no neighbor."""
    order = np.argsort(-values, kind="stable")
    unique, chosen = np.unique(rows[order], axis=0, return_index=True)
    two = unique[:, 0] != unique[:, 1]
    return unique[two], values[order][chosen][two]
