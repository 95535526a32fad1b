"""A stratified sample of the cases of a large data set, on which models are fitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from reslink.audit.cross_validation import Ints

MAX_CASES: Final = 20_000
"""Number of cases up to which models are fitted on all, and size of the sample of more cases. The interval of
a share of 0.9 is then 0.004 wide on each side with one case in a group, and 0.013 with ten."""

MIN_CASES_OF_CLASS: Final = 1000
"""Number of cases of a rare class in the sample, if there are that many."""


def sample_cases(targets: Ints, groups: Sequence[str], seed: int) -> Ints:
    """Returns the cases on which models are fitted: all, or a sample stratified by class.

    The share of each class is that in the data set, but at least 1,000 cases. One case of each group is taken, then a second
    one of each, and so on, in random order: so the sample has as many groups as possible, which are independent.

    Args:
        targets: (n,) class indices.
        groups: The group of each case.
        seed: Seed of the sample.

    Returns:
        (m,) sorted rows.
    """
    if len(targets) <= MAX_CASES:
        return np.arange(len(targets))
    _, numbers = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    rng = np.random.default_rng(seed)
    sampled = []
    for k in np.unique(targets):
        rows = rng.permutation(np.flatnonzero(targets == k))
        share = max(MAX_CASES * len(rows) // len(targets), MIN_CASES_OF_CLASS)
        sampled.append(rows[np.argsort(_rounds(numbers[rows]), kind="stable")[:share]])
    return np.sort(np.concatenate(sampled))


def _rounds(groups: Ints) -> Ints:
    """Returns how many earlier cases have the same group, (n,)."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.searchsorted(ordered, ordered, side="left")
    rounds = np.empty_like(order)
    rounds[order] = np.arange(len(groups)) - starts
    return rounds


def describe_sample(sample: int, total: int) -> str:
    """Returns a clause on the size of a sample, such as ``on a sample of 20,000 of 1,000,000 images``."""
    return f"on a sample of {sample:,} of {total:,} images"
