"""AUROCs of several classifiers on the same cases, with their covariance (DeLong), also over groups of cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from reslink.errors import InputError

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class CorrelatedAUROCs:
    """AUROCs of several classifiers on the same cases.

    Attributes:
        values: (c,) AUROC, 0 to 1.
        covariance: (c, c) their estimated covariance.
    """

    values: Floats
    covariance: Floats


def delong(y_true: ArrayLike, scores: ArrayLike, groups: Sequence[str] | None = None) -> CorrelatedAUROCs:
    """Returns AUROCs with their covariance.

    DeLong, DeLong and Clarke-Pearson 1988 (Biometrics 44:837) by the fast algorithm of Sun and Xu 2014 (IEEE Signal
    Processing Letters 21:1389). Where groups have several cases, the covariance is that of Obuchowski 1997 (Biometrics
    53:567), which equals DeLong's with one case per group. Neither SciPy nor scikit-learn implements it.

    Args:
        y_true: (n,) whether a case is positive.
        scores: (c, n) scores of c classifiers, the higher, the more positive.
        groups: (n,) the patient or duplicate group of each case; None treats all cases as independent.

    Raises:
        InputError: If a class has no cases or fewer than two groups, or if the shapes do not match.
    """
    truth, values = np.asarray(y_true, dtype=bool), np.atleast_2d(np.asarray(scores, dtype=np.float64))
    index = np.arange(len(truth)) if groups is None else np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    _check_scores(truth, values, index)
    areas, placements = _placements(truth, values)
    n_groups = int(index.max()) + 1
    components = [(placements - areas[:, None]) * (truth == label) for label in (True, False)]
    by_group = [_group_sums(component, index, n_groups) for component in components]
    groups_per_class = [len(np.unique(index[truth == label])) for label in (True, False)]
    cases_per_class = [int(truth.sum()), int((~truth).sum())]
    covariance = sum(
        (k / (k - 1) * sums @ sums.T / m**2 for k, m, sums in zip(groups_per_class, cases_per_class, by_group, strict=True)),
        start=np.zeros((len(values), len(values))),
    )
    cross = by_group[0] @ by_group[1].T / (cases_per_class[0] * cases_per_class[1])
    return CorrelatedAUROCs(areas, covariance + n_groups / (n_groups - 1) * (cross + cross.T))


def delong_macro(y_true: ArrayLike, scores: ArrayLike, groups: Sequence[str]) -> CorrelatedAUROCs:
    """Returns mean AUROCs of each class against the rest, with their covariance over groups.

    The structural components are those of :func:`delong`. They are added over the classes before their products are
    computed, so the correlation between classes is included.

    Args:
        y_true: (n,) class indices.
        scores: (c, n, K) scores of c classifiers.
        groups: (n,) the patient or duplicate group of each case.

    Raises:
        InputError: As :func:`delong`, for each class.
    """
    truth, values = np.asarray(y_true, dtype=np.int64), np.asarray(scores, dtype=np.float64)
    index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    n_groups, num_classes = int(index.max()) + 1, values.shape[2]
    means, components = np.zeros(len(values)), np.zeros(values.shape[:2])
    for k in range(num_classes):
        positive = truth == k
        _check_scores(positive, values[:, :, k], index)
        areas, placements = _placements(positive, values[:, :, k])
        means += areas / num_classes
        class_sizes = np.where(positive, positive.sum(), (~positive).sum())
        components += (placements - areas[:, None]) / class_sizes / num_classes
    sums = _group_sums(components, index, n_groups)
    return CorrelatedAUROCs(means, n_groups / (n_groups - 1) * sums @ sums.T)


def _placements(truth: NDArray[np.bool_], values: Floats) -> tuple[Floats, Floats]:
    """Returns (c,) AUROCs and (c, n) placements: the share of the other class against which a case is ranked correctly."""
    m, n = int(truth.sum()), int((~truth).sum())
    placements = np.empty_like(values)
    ranks = rankdata(values, axis=1)
    placements[:, truth] = (ranks[:, truth] - rankdata(values[:, truth], axis=1)) / n
    placements[:, ~truth] = 1 - (ranks[:, ~truth] - rankdata(values[:, ~truth], axis=1)) / m
    return placements[:, truth].mean(axis=1), placements


def _group_sums(values: Floats, index: NDArray[np.intp], n_groups: int) -> Floats:
    """Returns (c, groups) sums over the cases of each group."""
    return np.stack([np.bincount(index, weights=row, minlength=n_groups) for row in values])


def _check_scores(truth: NDArray[np.bool_], values: Floats, index: NDArray[np.intp]) -> None:
    if values.shape[1:] != truth.shape or index.shape != truth.shape or not np.isfinite(values).all():
        raise InputError(
            f"Scores of shape {values.shape} and {len(index)} groups do not match {len(truth)} cases, or are not finite",
            "Each case needs a finite score and a group",
            "Check the arrays",
        )
    if min(len(np.unique(index[truth])), len(np.unique(index[~truth]))) < 2:
        raise InputError(
            f"The AUROC of {int(truth.sum())} positive and {int((~truth).sum())} negative cases has no variance",
            "Each class needs cases of at least two patients or duplicate groups",
            "Evaluate on data that contains both classes",
        )
