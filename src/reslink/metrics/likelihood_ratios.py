"""Likelihood ratios of a positive and of a negative answer, and the diagnostic odds ratio, with intervals over groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from reslink.metrics.intervals import CONFIDENCE, MIN_GROUPS, Estimate, few_groups, undefined, without_interval

NAMES = {
    "lr_plus": "LR+ (positive likelihood ratio)",
    "lr_minus": "LR− (negative likelihood ratio)",
    "dor": "DOR (diagnostic odds ratio)",
}
"""Every ratio with the name that a report prints."""
_EMPTY = {
    "lr_plus": "there is no false or no true positive answer",
    "lr_minus": "there is no false or no true negative answer",
    "dor": "a cell of the two-by-two table is empty",
}


def likelihood_ratios(true: ArrayLike, called: ArrayLike, groups: Sequence[str]) -> dict[str, Estimate]:
    """Returns LR+ = sensitivity / (1 − specificity), LR− = (1 − sensitivity) / specificity, and DOR = LR+ / LR−.

    Intervals are those of the logarithm (Simel, Samsa and Matchar 1991, Journal of Clinical Epidemiology 44:763), with
    the linearised variance over groups and Student's t; with one case a group the variance is theirs. A bootstrap would
    often draw a sample without a false positive, where LR+ is infinite.

    Args:
        true: (n,) whether a case is of the class.
        called: (n,) whether it was called so.
        groups: (n,) the patient or twin group of each case.

    Returns:
        ``lr_plus``, ``lr_minus`` and ``dor``, each 0 to infinity; None with the reason where a cell that it needs is
        empty.
    """
    truth, calls = np.asarray(true, dtype=bool), np.asarray(called, dtype=bool)
    index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    if not truth.any() or truth.all():
        return {name: undefined("all cases are of one side", len(truth)) for name in NAMES}
    hit, alarm = _log_rate(truth, calls), _log_rate(~truth, calls)
    miss, rest = _log_rate(truth, ~calls), _log_rate(~truth, ~calls)
    fewest = min(len(np.unique(index[truth])), len(np.unique(index[~truth])))
    return {
        "lr_plus": _estimate("lr_plus", [hit], [alarm], index, fewest),
        "lr_minus": _estimate("lr_minus", [miss], [rest], index, fewest),
        "dor": _estimate("dor", [hit, rest], [alarm, miss], index, fewest),
    }


_Rate = tuple[float, NDArray[np.float64]]


def _log_rate(within: NDArray[np.bool_], counted: NDArray[np.bool_]) -> _Rate:
    """Returns the log of a rate and how far each of the n cases moves it; −inf where no case counts."""
    rate = float(counted[within].mean())
    if rate == 0:
        return -np.inf, np.zeros(len(within))
    return float(np.log(rate)), within * (counted - rate) / (within.sum() * rate)


def _estimate(name: str, above: list[_Rate], below: list[_Rate], index: NDArray[np.intp], fewest: int) -> Estimate:
    n = len(index)
    if not all(np.isfinite(log) for log, _ in (*above, *below)):
        return undefined(_EMPTY[name], n)
    value = sum(log for log, _ in above) - sum(log for log, _ in below)
    moves = sum((move for _, move in above), np.zeros(n)) - sum((move for _, move in below), np.zeros(n))
    if fewest < MIN_GROUPS:
        return without_interval(float(np.exp(value)), few_groups(fewest), n)
    sums = np.bincount(index, weights=moves)
    reach = float(student.ppf((1 + CONFIDENCE) / 2, fewest - 1)) * float(np.sqrt((sums**2).sum()))
    method = f"log method with the variance over {len(sums)} groups"
    return Estimate(float(np.exp(value)), float(np.exp(value - reach)), float(np.exp(value + reach)), method, n)
