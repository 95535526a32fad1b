"""Decision curves: what acting on the probabilities is worth, for each price of a false alarm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reslink.errors import InputError
from reslink.metrics.intervals import MIN_GROUPS, Estimate, GroupBootstrap, bootstrap_interval, few_groups, without_interval

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]

THRESHOLDS = tuple(round(0.01 * k, 2) for k in range(1, 100))


def net_benefit(weights: Floats, positive: Bools, probabilities: Floats, thresholds: Floats) -> Floats:
    """Returns (m, t) net benefits: true positives less false positives at the odds of the threshold, a case.

    Vickers and Elkin 2006 (Medical Decision Making 26:565). A case is treated where its probability is at least the
    threshold. With the probabilities all 1 this is the net benefit of treating everyone; that of treating no one is 0.

    Args:
        weights: (m, n) how often each sample holds each case.
        positive: (n,) whether a case is of the class.
        probabilities: (n,) stated probability of the class, 0 to 1.
        thresholds: (t,) each above 0 and below 1.
    """
    treated = probabilities[:, None] >= thresholds
    worth = np.where(positive[:, None], 1.0, -thresholds / (1 - thresholds))
    benefit: Floats = weights @ (treated * worth) / weights.sum(axis=1, keepdims=True)
    return benefit


def decision_curve(
    positive: ArrayLike,
    probabilities: ArrayLike,
    groups: Sequence[str],
    thresholds: Sequence[float] = THRESHOLDS,
    seed: int = 0,
    draws: int = 1000,
) -> list[dict[str, Any]]:
    """Returns the decision curve of one class with 95 % intervals over groups.

    Args:
        positive: (n,) whether a case is of the class.
        probabilities: (n,) stated probability of the class, 0 to 1.
        groups: (n,) the patient or twin group of each case.
        thresholds: Each above 0 and below 1.
        seed: Seed of the draws.
        draws: Bootstrap draws.

    Returns:
        A row a threshold: ``threshold``, ``net_benefit`` with ``ci_low`` and ``ci_high``, ``treat_all``, and ``gain``
        with ``gain_low`` and ``gain_high``: the net benefit above the better of treating all and none. Ends of
        intervals are None where there is none, ``method`` says why.

    Raises:
        InputError: If there is no case, or the arrays or thresholds cannot be used.
    """
    truth, scores = np.asarray(positive, dtype=bool), np.asarray(probabilities, dtype=np.float64)
    cuts = np.asarray(thresholds, dtype=np.float64)
    if not len(truth) or truth.shape != scores.shape or len(groups) != len(truth) or not ((cuts > 0) & (cuts < 1)).all():
        raise InputError(
            f"{len(truth)} outcomes, {len(scores)} probabilities and {len(groups)} groups give no decision curve",
            "It takes as many of each, more than none, and thresholds above 0 and below 1",
            "Check how the cases were collected",
        )
    bootstrap, everyone = GroupBootstrap(groups, draws, seed), np.ones_like(scores)

    def both(weights: Floats) -> dict[str, Floats]:
        model, all_ = (net_benefit(weights, truth, chance, cuts) for chance in (scores, everyone))
        parts = {f"{k}": model[:, k] for k in range(len(cuts))}
        return parts | {f"gain {k}": (model - np.maximum(all_, 0))[:, k] for k in range(len(cuts))}

    whole = np.ones((1, len(truth)))
    points, drawn = both(whole), bootstrap.apply(both)
    treat_all = net_benefit(whole, truth, everyone, cuts)[0]

    def estimate(key: str) -> Estimate:
        value = float(points[key][0])
        if bootstrap.n_groups < MIN_GROUPS:
            return without_interval(value, few_groups(bootstrap.n_groups), len(truth))
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
