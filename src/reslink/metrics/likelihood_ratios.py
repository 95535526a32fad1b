"""Likelihood ratios of a positive and a negative prediction, and the diagnostic odds ratio, with intervals over groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from reslink.metrics.intervals import CONFIDENCE, MIN_GROUPS, Estimate, too_few_groups, undefined, without_interval

LIKELIHOOD_RATIO_NAMES = {
    "lr_plus": "LR+ (positive likelihood ratio)",
    "lr_minus": "LR− (negative likelihood ratio)",
    "dor": "DOR (diagnostic odds ratio)",
}
"""Every ratio with the name that a report prints."""
_UNDEFINED = {
    "lr_plus": "there are no false positives or no true positives",
    "lr_minus": "there are no false negatives or no true negatives",
    "dor": "a cell of the two-by-two table is empty",
}


def likelihood_ratios(y_true: ArrayLike, y_pred: ArrayLike, groups: Sequence[str]) -> dict[str, Estimate]:
    """Returns LR+ = sensitivity / (1 − specificity), LR− = (1 − sensitivity) / specificity, and DOR = LR+ / LR−.

    Intervals are computed on the log scale (Simel, Samsa and Matchar 1991, Journal of Clinical Epidemiology 44:763), with
    the linearized variance over groups and Student's t; with one case per group this is their variance. A bootstrap would
    often draw a sample without a false positive, where LR+ is infinite.

    Args:
        y_true: (n,) whether a case is of the class.
        y_pred: (n,) whether it was predicted as the class.
        groups: (n,) the patient or duplicate group of each case.

    Returns:
        ``lr_plus``, ``lr_minus`` and ``dor``, each 0 to infinity; None with the reason where a required cell is empty.
    """
    truth, predicted = np.asarray(y_true, dtype=bool), np.asarray(y_pred, dtype=bool)
    index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    if not truth.any() or truth.all():
        return {name: undefined("there are cases of one class only", len(truth)) for name in LIKELIHOOD_RATIO_NAMES}
    true_positive, false_positive = _log_rate(truth, predicted), _log_rate(~truth, predicted)
    false_negative, true_negative = _log_rate(truth, ~predicted), _log_rate(~truth, ~predicted)
    min_groups = min(len(np.unique(index[truth])), len(np.unique(index[~truth])))
    return {
        "lr_plus": _estimate("lr_plus", [true_positive], [false_positive], index, min_groups),
        "lr_minus": _estimate("lr_minus", [false_negative], [true_negative], index, min_groups),
        "dor": _estimate("dor", [true_positive, true_negative], [false_positive, false_negative], index, min_groups),
    }


_Rate = tuple[float, NDArray[np.float64]]


def _log_rate(denominator: NDArray[np.bool_], numerator: NDArray[np.bool_]) -> _Rate:
    """Returns the log of a rate and the influence of each of the n cases on it; −inf where the numerator is empty."""
    rate = float(numerator[denominator].mean())
    if rate == 0:
        return -np.inf, np.zeros(len(denominator))
    return float(np.log(rate)), denominator * (numerator - rate) / (denominator.sum() * rate)


def _estimate(
    name: str, numerator: list[_Rate], denominator: list[_Rate], index: NDArray[np.intp], min_groups: int
) -> Estimate:
    n = len(index)
    if not all(np.isfinite(log_rate) for log_rate, _ in (*numerator, *denominator)):
        return undefined(_UNDEFINED[name], n)
    log_ratio = sum(log_rate for log_rate, _ in numerator) - sum(log_rate for log_rate, _ in denominator)
    if min_groups < MIN_GROUPS:
        return without_interval(float(np.exp(log_ratio)), too_few_groups(min_groups), n)
    influence = sum((values for _, values in numerator), np.zeros(n)) - sum((values for _, values in denominator), np.zeros(n))
    sums = np.bincount(index, weights=influence)
    margin = float(student.ppf((1 + CONFIDENCE) / 2, min_groups - 1)) * float(np.sqrt((sums**2).sum()))
    low, value, high = (float(np.exp(log_ratio + shift)) for shift in (-margin, 0.0, margin))
    return Estimate(value, low, high, f"log method with the variance over {len(sums)} groups", n)
