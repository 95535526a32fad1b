"""Split-conformal prediction sets: sets of classes that contain the true class with a stated coverage.

The score is that of Sadinle, Lei and Wasserman 2019 ("Least ambiguous set-valued classifiers with bounded error levels",
JASA 114:223, called LAC): one minus the probability of the true class. Quantile and guarantee are those of Vovk,
Gammerman and Shafer 2005 and of Angelopoulos and Bates 2023 ("Conformal prediction: a gentle introduction", section 1);
one quantile per class is the label-conditional (Mondrian) form of Vovk 2012.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reslink.errors import InputError

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]


def nonconformity_scores(probabilities: ArrayLike) -> Floats:
    """Returns (n, K) nonconformity scores: one minus the probability of each class, 0 to 1."""
    return np.asarray(1 - np.asarray(probabilities, dtype=np.float64))


def min_calibration_cases(coverage: float) -> int:
    """Returns the smallest number of calibration cases that guarantees a coverage without sets of all classes.

    Args:
        coverage: Share of cases whose set contains the true class, above 0 and below 1.
    """
    _check_coverage(coverage)
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def conformal_quantile(true_scores: ArrayLike, coverage: float) -> float:
    """Returns the largest score of a class in the set: the ⌈(n + 1) · coverage⌉-th smallest score.

    Args:
        true_scores: (n,) nonconformity score of the true class of each calibration case.
        coverage: Share of cases whose set contains the true class, above 0 and below 1.

    Returns:
        0 to 1; infinity with fewer cases than :func:`min_calibration_cases`: then every set contains all classes.

    Raises:
        InputError: If the coverage is out of range or a score is not finite.
    """
    _check_coverage(coverage)
    ordered = np.sort(np.asarray(true_scores, dtype=np.float64))
    if not np.isfinite(ordered).all():
        raise InputError("A score is not finite", "Scores must be finite numbers", "Check the logits")
    rank = math.ceil((len(ordered) + 1) * coverage - 1e-9)
    return float(ordered[rank - 1]) if rank <= len(ordered) else math.inf


def conformal_quantiles(probabilities: ArrayLike, y_true: ArrayLike, coverage: float, *, per_class: bool) -> Floats:
    """Returns the largest score at which each class is in the set.

    Args:
        probabilities: (n, K) of the calibration cases, which the network was not trained on.
        y_true: (n,) class indices.
        coverage: Share of cases whose set contains the true class, above 0 and below 1.
        per_class: Whether the coverage applies within each class (Mondrian) or over all cases.

    Returns:
        (K,) quantiles, all equal unless ``per_class``; infinity for a class with too few cases.

    Raises:
        InputError: If the coverage is out of range or a probability is not finite.
    """
    truth = np.asarray(y_true, dtype=np.int64)
    scores = nonconformity_scores(probabilities)
    true_scores = np.take_along_axis(scores, truth[:, None], axis=1)[:, 0]
    classes = range(scores.shape[1])
    if per_class:
        return np.array([conformal_quantile(true_scores[truth == k], coverage) for k in classes])
    return np.full(len(classes), conformal_quantile(true_scores, coverage))


def prediction_sets(probabilities: ArrayLike, quantiles: ArrayLike) -> Bools:
    """Returns (n, K): whether each class is in the prediction set of each case; a set may be empty.

    Args:
        probabilities: (n, K).
        quantiles: (K,) from :func:`conformal_quantiles`.
    """
    return np.asarray(nonconformity_scores(probabilities) <= np.asarray(quantiles, dtype=np.float64))


def is_covered(sets: Bools, y_true: ArrayLike) -> Bools:
    """Returns (n,) whether the prediction set of each case contains its true class."""
    contains: Bools = np.take_along_axis(sets, np.asarray(y_true, dtype=np.int64)[:, None], axis=1)[:, 0]
    return contains


def _check_coverage(coverage: float) -> None:
    if not 0 < coverage < 1:
        raise InputError(f"The coverage is {coverage:g}", "The coverage must be between 0 and 1", "Use 0.95")
