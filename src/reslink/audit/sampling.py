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
"""Number of cases of a rare class in the sample, as far as there are so many."""


def sample_cases(targets: Ints, groups: Sequence[str], seed: int) -> Ints:
    """Returns the cases on which models are fitted: all, or a sample stratified by class.

    Groups are drawn at random, and their cases are taken together, until the share of each class is reached. It is the share
    in the data set, but at least 1,000 cases.

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
    ranks = np.random.default_rng(seed).permutation(int(numbers.max()) + 1)[numbers]
    sampled = []
    for k in np.unique(targets):
        rows = np.flatnonzero(targets == k)
        share = max(MAX_CASES * len(rows) // len(targets), MIN_CASES_OF_CLASS)
        sampled.append(rows[np.argsort(ranks[rows], kind="stable")[:share]])
    return np.sort(np.concatenate(sampled))


def describe_sample(sample: int, total: int) -> str:
    """Returns a clause on the size of a sample, such as ``on a sample of 20,000 of 1,000,000 images``."""
    return f"on a sample of {sample:,} of {total:,} images"
