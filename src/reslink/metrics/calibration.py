"""Calibration of probabilities: Brier score, expected calibration error, calibration curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import sklearn.metrics as sk
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]

BINS = 15
"""Equal-width bins of the calibration error, as in Guo et al. 2017."""


@dataclass(frozen=True)
class CalibrationCurve:
    """Mean probability and observed frequency in each non-empty bin.

    Attributes:
        predicted: (b,) mean probability, 0 to 1.
        observed: (b,) share of cases of the class, 0 to 1.
        count: (b,) cases in the bin.
    """

    predicted: Floats
    observed: Floats
    count: NDArray[np.int64]


def bin_index(probabilities: Floats, bins: int = BINS) -> NDArray[np.int64]:
    """Returns the bin of each probability: ``bins`` equal-width bins, open below and closed above; 0 is in the first."""
    return np.clip(np.ceil(probabilities * bins).astype(np.int64) - 1, 0, bins - 1)


def calibration_curve(y_true: ArrayLike, y_prob: ArrayLike, bins: int = 10) -> CalibrationCurve:
    """Returns the calibration curve (reliability diagram) of one class.

    Args:
        y_true: (n,) whether a case is of the class, 0 or 1.
        y_prob: (n,) predicted probability of the class, 0 to 1.
        bins: Number of equal-width bins over 0 to 1.
    """
    truth, probabilities = np.asarray(y_true, dtype=np.float64), np.asarray(y_prob, dtype=np.float64)
    index = bin_index(probabilities, bins)
    count = np.bincount(index, minlength=bins)
    used = count > 0
    predicted = np.bincount(index, weights=probabilities, minlength=bins)[used] / count[used]
    observed = np.bincount(index, weights=truth, minlength=bins)[used] / count[used]
    return CalibrationCurve(predicted, observed, count[used].astype(np.int64))


def expected_calibration_error(y_true: ArrayLike, y_prob: ArrayLike, bins: int = BINS) -> float:
    """Returns the expected calibration error: the mean over cases of |frequency − mean probability| of their bin.

    Naeini et al. 2015 (AAAI), with equal-width bins. With two classes the probability of the positive (last) class is
    binned; with more, the result is the mean over classes of each class against the rest, the classwise error of Kull et
    al. 2019 (NeurIPS).

    Args:
        y_true: (n,) class indices.
        y_prob: (n, K) probabilities, or (n,) of the positive class of two.
        bins: Number of equal-width bins over 0 to 1.

    Returns:
        0 (calibrated) to 1.
    """
    truth, columns = _columns(y_true, y_prob)
    errors = []
    for index, probabilities in columns.items():
        curve = calibration_curve(truth == index, probabilities, bins)
        errors.append(float(np.sum(curve.count * np.abs(curve.observed - curve.predicted)) / len(truth)))
    return float(np.mean(errors))


def brier_score_loss(y_true: ArrayLike, y_prob: ArrayLike) -> float:
    """Returns the Brier score: the mean squared difference of probability and outcome (Brier 1950).

    With two classes it is that of the positive (last) class. With more it is the mean over classes of each class against
    the rest, which is Brier's own sum divided by K.

    Args:
        y_true: (n,) class indices.
        y_prob: (n, K) probabilities, or (n,) of the positive class of two.

    Returns:
        0 (perfect) to 1.
    """
    truth, columns = _columns(y_true, y_prob)
    losses = [sk.brier_score_loss(truth == index, values, pos_label=True) for index, values in columns.items()]
    return float(np.mean(losses))


def _columns(y_true: ArrayLike, y_prob: ArrayLike) -> tuple[NDArray[np.int64], dict[int, Floats]]:
    """Returns the class indices, and the probabilities of each class that counts: the positive of two, or all."""
    truth, probabilities = np.asarray(y_true, dtype=np.int64), np.asarray(y_prob, dtype=np.float64)
    if probabilities.ndim == 1:
        return truth, {1: probabilities}
    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    return truth, {index: probabilities[:, index] for index in classes}
