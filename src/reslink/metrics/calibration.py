"""How far probabilities are from frequencies: Brier score, expected calibration error, reliability curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import brier_score_loss

Floats: TypeAlias = NDArray[np.float64]

BINS = 15
"""Equal bins of the calibration error, as in Guo et al. 2017."""


@dataclass(frozen=True)
class ReliabilityCurve:
    """Mean probability and observed frequency in each bin that holds a case.

    Attributes:
        predicted: (b,) mean probability, 0 to 1.
        observed: (b,) share of cases of the class, 0 to 1.
        count: (b,) cases in the bin.
    """

    predicted: Floats
    observed: Floats
    count: NDArray[np.int64]


def bin_index(probabilities: Floats, bins: int = BINS) -> NDArray[np.int64]:
    """Returns the bin of each probability: ``bins`` equal bins, open below and closed above, 0 in the first."""
    return np.clip(np.ceil(probabilities * bins).astype(np.int64) - 1, 0, bins - 1)


def reliability_curve(positive: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> ReliabilityCurve:
    """Returns the reliability curve of one class.

    Args:
        positive: (n,) whether a case is of the class, 0 or 1.
        probabilities: (n,) predicted probability of the class, 0 to 1.
        bins: Equal bins over 0 to 1.
    """
    truth, scores = np.asarray(positive, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    index = bin_index(scores, bins)
    count = np.bincount(index, minlength=bins)
    used = count > 0
    predicted = np.bincount(index, weights=scores, minlength=bins)[used] / count[used]
    observed = np.bincount(index, weights=truth, minlength=bins)[used] / count[used]
    return ReliabilityCurve(predicted, observed, count[used].astype(np.int64))


def expected_calibration_error(y_true: ArrayLike, y_prob: ArrayLike, bins: int = BINS) -> float:
    """Returns the expected calibration error: mean over cases of |frequency − mean probability| of their bin.

    Naeini et al. 2015 (AAAI), with equal bins. With two classes the probability of the positive (last) class is binned;
    with more, the mean over classes of each class against the rest, the classwise error of Kull et al. 2019 (NeurIPS).

    Args:
        y_true: (n,) class indices.
        y_prob: (n, K) probabilities, or (n,) of the positive class of two.
        bins: Equal bins over 0 to 1.

    Returns:
        0 (calibrated) to 1.
    """
    truth, columns = _columns(y_true, y_prob)
    errors = []
    for index, scores in columns.items():
        curve = reliability_curve(truth == index, scores, bins)
        errors.append(float(np.sum(curve.count * np.abs(curve.observed - curve.predicted)) / len(truth)))
    return float(np.mean(errors))


def brier_score(y_true: ArrayLike, y_prob: ArrayLike) -> float:
    """Returns the Brier score: mean squared difference of probability and outcome (Brier 1950).

    With two classes that of the positive (last) class; with more the mean over classes of each class against the rest,
    which is Brier's own sum divided by K.

    Args:
        y_true: (n,) class indices.
        y_prob: (n, K) probabilities, or (n,) of the positive class of two.

    Returns:
        0 (perfect) to 1.
    """
    truth, columns = _columns(y_true, y_prob)
    scores = [brier_score_loss(truth == index, scores, pos_label=True) for index, scores in columns.items()]
    return float(np.mean(scores))


def _columns(y_true: ArrayLike, y_prob: ArrayLike) -> tuple[NDArray[np.int64], dict[int, Floats]]:
    """Returns the class indices, and the probabilities of each class that counts: one of two, or all."""
    truth, scores = np.asarray(y_true, dtype=np.int64), np.asarray(y_prob, dtype=np.float64)
    if scores.ndim == 1:
        return truth, {1: scores}
    classes = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    return truth, {index: scores[:, index] for index in classes}
