"""Arrays of several labels at once: the rows in which each label is known, and its two classes. Imports only NumPy."""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

_ABSENT: Final = 0


def known_rows(states: Ints) -> list[Ints]:
    """Returns, for each label, the rows in which its state is known.

    Args:
        states: (n, K) 1 present, 0 absent, -1 unknown.
    """
    return [np.flatnonzero(column >= _ABSENT) for column in states.T]


def strata(held: NDArray[np.bool_]) -> Ints:
    """Returns (n,) the rarest class of each case, for stratified folds; K for a case without any.

    Args:
        held: (n, K) whether each case is of each class, or has each of several labels.
    """
    rarest = np.where(held, held.sum(axis=0), np.inf).argmin(axis=1)
    return np.asarray(np.where(held.any(axis=1), rarest, held.shape[1]), dtype=np.int64)


def two_columns(probability: Floats) -> Floats:
    """Returns (n, 2) the probabilities that a label is absent and present, for (n,) the latter."""
    return np.column_stack([1 - probability, probability])
