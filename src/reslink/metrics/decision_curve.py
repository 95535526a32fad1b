"""Decision curves: the net benefit of acting on the probabilities at each threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reslink.errors import InputError
from reslink.metrics.intervals import (
    MIN_GROUPS,
    Estimate,
    GroupBootstrap,
    bootstrap_interval,
    too_few_groups,
    without_interval,
)
from reslink.metrics.weighted import ratio

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]

THRESHOLDS = tuple(round(0.01 * k, 2) for k in range(1, 100))


def net_benefit(weights: Floats, y_true: Bools, y_prob: Floats, thresholds: Floats) -> Floats:
    """Returns (m, t) net benefits per case: true positives minus false positives at the odds of the threshold.

    Vickers and Elkin 2006 (Medical Decision Making 26:565). A case is treated if its probability is at least the
    threshold. With all probabilities 1 this is the net benefit of treating everyone; that of treating no one is 0.

    Args:
        weights: (m, n) how often each sample contains each case.
        y_true: (n,) whether a case is of the class.
        y_prob: (n,) probability of the class, 0 to 1.
        thresholds: (t,) each above 0 and below 1.
    """
    treated = y_prob[:, None] >= thresholds
    value = np.where(y_true[:, None], 1.0, -thresholds / (1 - thresholds))
    return ratio(weights @ (treated * value), weights.sum(axis=1, keepdims=True))


def decision_curve(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    groups: Sequence[str],
    thresholds: Sequence[float] = THRESHOLDS,
    seed: int = 0,
    draws: int = 1000,
) -> list[dict[str, Any]]:
    """Returns the decision curve of one class with 95 % intervals over groups.

    Args:
        y_true: (n,) whether a case is of the class.
        y_prob: (n,) probability of the class, 0 to 1.
        groups: (n,) the patient or duplicate group of each case.
        thresholds: Each above 0 and below 1.
        seed: Seed of the draws.
        draws: Number of bootstrap draws.

    Returns:
        A row for each threshold: ``threshold``, ``net_benefit`` with ``ci_low`` and ``ci_high``, ``treat_all``, and
        ``gain`` with ``gain_low`` and ``gain_high``: the net benefit above the better of treating all and treating none.
        The ends of a missing interval are None; ``method`` gives the reason.

    Raises:
        InputError: If the arrays are empty, or the arrays or thresholds are invalid.
    """
    truth, probabilities = np.asarray(y_true, dtype=bool), np.asarray(y_prob, dtype=np.float64)
    cuts = np.asarray(thresholds, dtype=np.float64)
    valid = len(truth) > 0 and truth.shape == probabilities.shape and len(groups) == len(truth)
    if not valid or not ((cuts > 0) & (cuts < 1)).all():
        raise InputError(
            f"No decision curve exists for {len(truth)} outcomes, {len(probabilities)} probabilities and {len(groups)} groups",
            "All three need the same length above 0, and thresholds must be above 0 and below 1",
            "Check the arrays",
        )
    bootstrap, everyone = GroupBootstrap(groups, draws, seed), np.ones_like(probabilities)

    def statistic(weights: Floats) -> dict[str, Floats]:
        model, treat_all = (net_benefit(weights, truth, values, cuts) for values in (probabilities, everyone))
        gain = model - np.maximum(treat_all, 0)
        return {f"{k}": model[:, k] for k in range(len(cuts))} | {f"gain {k}": gain[:, k] for k in range(len(cuts))}

    unweighted = np.ones((1, len(truth)))
    points, drawn = statistic(unweighted), bootstrap.apply(statistic)
    treat_all = net_benefit(unweighted, truth, everyone, cuts)[0]

    def estimate(key: str) -> Estimate:
        value = float(points[key][0])
        if bootstrap.n_groups < MIN_GROUPS:
            return without_interval(value, too_few_groups(bootstrap.n_groups), len(truth))
        return bootstrap_interval(value, drawn[key], len(truth), bootstrap.n_groups)

    return [_row(float(cuts[k]), estimate(f"{k}"), float(treat_all[k]), estimate(f"gain {k}")) for k in range(len(cuts))]


def _row(threshold: float, benefit: Estimate, treat_all: float, gain: Estimate) -> dict[str, Any]:
    return {
        "threshold": threshold,
        "net_benefit": benefit.estimate,
        "ci_low": benefit.ci_low,
        "ci_high": benefit.ci_high,
        "treat_all": treat_all,
        "gain": gain.estimate,
        "gain_low": gain.ci_low,
        "gain_high": gain.ci_high,
        "method": benefit.method,
    }
