"""Split-conformal prediction sets: sets of classes that hold the true one in a stated share of cases.

The score is that of Sadinle, Lei and Wasserman 2019 ("Least ambiguous set-valued classifiers with bounded error levels",
JASA 114:223, called LAC): one minus the probability of the true class. Quantile and guarantee are those of Vovk,
Gammerman and Shafer 2005 and of Angelopoulos and Bates 2023 ("Conformal prediction: a gentle introduction", section 1);
one quantile a class is the label-conditional (Mondrian) form of Vovk 2012.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reslink.errors import InputError

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]


def scores(probabilities: ArrayLike) -> Floats:
    """Returns (n, K) scores of how badly each class fits each case: one minus its probability, 0 to 1."""
    return np.asarray(1 - np.asarray(probabilities, dtype=np.float64))


def fewest(coverage: float) -> int:
    """Returns the fewest calibration cases at which a coverage can be promised without naming every class each time.

    Args:
        coverage: Share of cases whose set holds the true class, above 0 and below 1.
    """
    _check_coverage(coverage)
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def quantile(true_scores: ArrayLike, coverage: float) -> float:
    """Returns the score up to which a class belongs to the set: the ⌈(n + 1) · coverage⌉-th smallest.

    Args:
        true_scores: (n,) score of the true class of each calibration case.
        coverage: Share of cases whose set holds the true class, above 0 and below 1.

    Returns:
        0 to 1; infinity where there are fewer cases than :func:`fewest`, so that every class belongs to every set.

    Raises:
        InputError: If the coverage is out of range or a score is not finite.
    """
    _check_coverage(coverage)
    found = np.sort(np.asarray(true_scores, dtype=np.float64))
    if not np.isfinite(found).all():
        raise InputError("A score is not finite", "Scores are finite numbers", "Check the logits they come from")
    rank = math.ceil((len(found) + 1) * coverage - 1e-9)
    return float(found[rank - 1]) if rank <= len(found) else math.inf


def quantiles(probabilities: ArrayLike, y_true: ArrayLike, coverage: float, *, per_class: bool) -> Floats:
    """Returns the score up to which each class belongs to the set.

    Args:
        probabilities: (n, K) of the calibration cases, from a network that did not learn from them.
        y_true: (n,) class indices.
        coverage: Share of cases whose set holds the true class, above 0 and below 1.
        per_class: Whether the coverage is to hold within each class (Mondrian) or over all cases.

    Returns:
        (K,) quantiles, all alike unless per class; infinity for a class with too few cases.

    Raises:
        InputError: If the coverage is out of range or a probability is not finite.
    """
    truth = np.asarray(y_true, dtype=np.int64)
    every = scores(probabilities)
    true = np.take_along_axis(every, truth[:, None], axis=1)[:, 0]
    classes = range(every.shape[1])
    if per_class:
        return np.array([quantile(true[truth == k], coverage) for k in classes])
    return np.full(len(classes), quantile(true, coverage))


def prediction_sets(probabilities: ArrayLike, limits: ArrayLike) -> Bools:
    """Returns (n, K): whether each class belongs to the set of each case; a set may be empty.

    Args:
        probabilities: (n, K).
        limits: (K,) from :func:`quantiles`.
    """
    return np.asarray(scores(probabilities) <= np.asarray(limits, dtype=np.float64))


def covered(sets: Bools, y_true: ArrayLike) -> Bools:
    """Returns (n,) whether the set of each case holds its true class."""
    held: Bools = np.take_along_axis(sets, np.asarray(y_true, dtype=np.int64)[:, None], axis=1)[:, 0]
    return held


def _check_coverage(coverage: float) -> None:
    if not 0 < coverage < 1:
        raise InputError(f"The coverage is {coverage:g}", "A coverage lies between 0 and 1, such as 0.95", "Use 0.95")
