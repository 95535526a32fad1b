"""Scan groups from signatures: candidate pairs, their log odds, and average linkage."""

from __future__ import annotations

from typing import Final

import numpy as np

from reslink.datasets.scan_groups.linkage import average_linkage
from reslink.datasets.scan_groups.model import PairModel, pair_model
from reslink.datasets.scan_groups.pairs import CandidatePairs, find_pairs
from reslink.datasets.scan_groups.signatures import Signatures

MISSING_LOG_ODDS: Final = -3.0
"""Log odds of pairs that are no candidates, and lowest log odds of candidates: distant slices of a scan look different too."""

MAX_LOG_ODDS: Final = 8.0

THRESHOLD: Final = -1.5
"""Mean log odds between two groups from which they are joined, the smallest with a mean precision of 0.95 on the
patients that the model was fitted on; see ``benchmarks/fit_scan_groups.py``."""


def scan_groups(signatures: Signatures) -> list[int]:
    """Groups images that probably come from one scan.

    A scan is often divided into several groups, because distant slices have too little in common.

    Args:
        signatures: Of n images.

    Returns:
        n group numbers from 0 in the order of first appearance.
    """
    return link_pairs(len(signatures.heads), find_pairs(signatures), pair_model(), THRESHOLD)


def link_pairs(count: int, pairs: CandidatePairs, model: PairModel, threshold: float) -> list[int]:
    """Groups ``count`` images by the log odds of their candidate pairs, as ``scan_groups`` does."""
    log_odds = np.minimum(model.log_odds(pairs.features), MAX_LOG_ODDS)
    return average_linkage(count, np.stack([pairs.first, pairs.second], axis=1), log_odds, MISSING_LOG_ODDS, threshold)
