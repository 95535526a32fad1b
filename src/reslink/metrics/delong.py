"""Areas under several ROC curves on the same cases, with their covariance (DeLong), also over groups of cases."""

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
class Areas:
    """Areas under the ROC curves of several classifiers on the same cases.

    Attributes:
        areas: (c,) AUROC, 0 to 1.
        covariance: (c, c) their estimated covariance.
    """

    areas: Floats
    covariance: Floats


def delong(positive: ArrayLike, scores: ArrayLike, groups: Sequence[str] | None = None) -> Areas:
    """Returns areas under ROC curves with their covariance.

    DeLong, DeLong and Clarke-Pearson 1988 (Biometrics 44:837) by the fast algorithm of Sun and Xu 2014 (IEEE Signal
    Processing Letters 21:1389). Where groups hold several cases, the covariance is that of Obuchowski 1997 (Biometrics
    53:567), which is DeLong's where each holds one. Own code: neither SciPy nor scikit-learn has it.

    Args:
        positive: (n,) whether a case is of the positive class.
        scores: (c, n) scores of c classifiers, the higher, the more positive.
        groups: (n,) the patient or twin group of each case; None takes all cases for independent.

    Raises:
        InputError: If a class has no case, if the groups of one class are fewer than two, or if the shapes do not fit.
    """
    truth, values = np.asarray(positive, dtype=bool), np.atleast_2d(np.asarray(scores, dtype=np.float64))
    index = np.arange(len(truth)) if groups is None else np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    _check_areas(truth, values, index)
    areas, wins = _placements(truth, values)
    total = int(index.max()) + 1
    above, below = ((wins - areas[:, None]) * (truth == side) for side in (True, False))
    by_group = [_sums(part, index, total) for part in (above, below)]
    count = [len(np.unique(index[truth == side])) for side in (True, False)]
    cases = [int(truth.sum()), int((~truth).sum())]
    covariance = sum(
        (k / (k - 1) * part @ part.T / m**2 for k, m, part in zip(count, cases, by_group, strict=True)),
        start=np.zeros((len(values), len(values))),
    )
    cross = by_group[0] @ by_group[1].T / (cases[0] * cases[1])
    return Areas(areas, covariance + total / (total - 1) * (cross + cross.T))


def macro_areas(y_true: ArrayLike, scores: ArrayLike, groups: Sequence[str]) -> Areas:
    """Returns mean areas under the ROC curves of each class against the rest, with their covariance over groups.

    The same structural components as in :func:`delong`, added up over the classes before their products are taken, so
    that what the classes have in common counts.

    Args:
        y_true: (n,) class indices.
        scores: (c, n, K) scores of c classifiers.
        groups: (n,) the patient or twin group of each case.

    Raises:
        InputError: As :func:`delong`, for each class.
    """
    truth, values = np.asarray(y_true, dtype=np.int64), np.asarray(scores, dtype=np.float64)
    index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    total, classes = int(index.max()) + 1, values.shape[2]
    areas, moves = np.zeros(len(values)), np.zeros(values.shape[:2])
    for k in range(classes):
        positive = truth == k
        _check_areas(positive, values[:, :, k], index)
        found, wins = _placements(positive, values[:, :, k])
        areas += found / classes
        moves += (wins - found[:, None]) / np.where(positive, positive.sum(), (~positive).sum()) / classes
    sums = _sums(moves, index, total)
    return Areas(areas, total / (total - 1) * sums @ sums.T)


def _placements(truth: NDArray[np.bool_], values: Floats) -> tuple[Floats, Floats]:
    """Returns (c,) areas and, for each case, the (c, n) share of the other class that it is ranked rightly against."""
    m, n = int(truth.sum()), int((~truth).sum())
    wins = np.empty_like(values)
    ranks = rankdata(values, axis=1)
    wins[:, truth] = (ranks[:, truth] - rankdata(values[:, truth], axis=1)) / n
    wins[:, ~truth] = 1 - (ranks[:, ~truth] - rankdata(values[:, ~truth], axis=1)) / m
    return wins[:, truth].mean(axis=1), wins


def _sums(values: Floats, index: NDArray[np.intp], total: int) -> Floats:
    """Returns (c, groups) sums over the cases of each group."""
    return np.stack([np.bincount(index, weights=row, minlength=total) for row in values])


def _check_areas(truth: NDArray[np.bool_], values: Floats, index: NDArray[np.intp]) -> None:
    if values.shape[1:] != truth.shape or index.shape != truth.shape or not np.isfinite(values).all():
        raise InputError(
            f"Scores of shape {values.shape} and {len(index)} groups do not fit {len(truth)} cases, or are not finite",
            "There is a finite score and a group for each case",
            "Check how the cases were collected",
        )
    if min(len(np.unique(index[truth])), len(np.unique(index[~truth]))) < 2:
        raise InputError(
            f"{int(truth.sum())} positive and {int((~truth).sum())} negative cases give no variance of an AUROC",
            "Each class needs cases of two patients or twin groups at least",
            "Judge on data that holds both classes",
        )
