"""Selective classification: the error rate of the model when it abstains on the least confident cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma

from reslink.errors import InputError
from reslink.metrics.intervals import MIN_GROUPS, Estimate, GroupBootstrap, bootstrap_interval, too_few_groups, without_interval

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class RiskCoverageCurve:
    """Error rate of the accepted cases (risk) against the share of accepted cases (coverage).

    El-Yaniv and Wiener 2010 (JMLR 11:1605). Cases of equal confidence are accepted together.

    Attributes:
        coverage: (c,) share of accepted cases, increasing to 1.
        risk: (c,) error rate of the accepted cases, 0 to 1.
        threshold: (c,) the lowest accepted confidence, decreasing.
        n: Number of cases.
    """

    coverage: Floats
    risk: Floats
    threshold: Floats
    n: int

    def at(self, coverage: float) -> float:
        """Returns the risk, 0 to 1, at the smallest coverage that is at least the given one."""
        return float(self.risk[min(int(np.searchsorted(self.coverage, coverage - 1e-12)), len(self.risk) - 1)])

    def as_rows(self, max_points: int = 101) -> list[dict[str, float]]:
        """Returns the JSON form: ``coverage``, ``risk`` and ``threshold`` of up to ``max_points`` points, with the last."""
        n_points = min(max_points, len(self.coverage))
        points = np.unique(np.linspace(0, len(self.coverage) - 1, n_points).round().astype(int))
        columns = {"coverage": self.coverage, "risk": self.risk, "threshold": self.threshold}
        return [{name: float(values[i]) for name, values in columns.items()} for i in points]


def risk_coverage_curve(wrong: ArrayLike, confidence: ArrayLike) -> RiskCoverageCurve:
    """Returns the risk–coverage curve.

    Args:
        wrong: (n,) whether each prediction is wrong, 0 or 1; also any loss from 0 to 1.
        confidence: (n,) a confidence score, such as the probability of the predicted class.

    Raises:
        InputError: If the arrays are empty, or the arrays are inconsistent or not finite.
    """
    loss, scores = _check_arrays(wrong, confidence)
    cases, losses, threshold = _by_confidence(np.ones((1, len(loss))), loss, scores)
    accepted, errors = np.cumsum(cases[0]), np.cumsum(losses[0])
    return RiskCoverageCurve(accepted / len(loss), errors / accepted, threshold, len(loss))


def area_under_risk_coverage(wrong: ArrayLike, confidence: ArrayLike) -> float:
    """Returns the area under the risk–coverage curve (AURC): the mean over k of the risk of the k most confident cases.

    Geifman, Uziel and El-Yaniv 2019 (ICLR), equation 1. Cases of equal confidence are averaged over all orders.

    Args:
        wrong: As in :func:`risk_coverage_curve`.
        confidence: As in :func:`risk_coverage_curve`.

    Returns:
        0 (no error) to 1 (errors only); the error rate itself if the confidence is uninformative.

    Raises:
        InputError: As :func:`risk_coverage_curve`.
    """
    loss, scores = _check_arrays(wrong, confidence)
    return float(_areas(np.ones((1, len(loss))), loss, scores)[0])


def aurc_estimate(wrong: ArrayLike, confidence: ArrayLike, groups: Sequence[str], seed: int = 0, draws: int = 1000) -> Estimate:
    """Returns the area under the risk–coverage curve with its 95 % interval over groups.

    Args:
        wrong: As in :func:`risk_coverage_curve`.
        confidence: As in :func:`risk_coverage_curve`.
        groups: (n,) the patient or duplicate group of each case.
        seed: Seed of the draws.
        draws: Number of bootstrap draws.

    Raises:
        InputError: As :func:`risk_coverage_curve`.
    """
    loss, scores = _check_arrays(wrong, confidence)
    area, bootstrap = area_under_risk_coverage(loss, scores), GroupBootstrap(groups, draws, seed)
    if bootstrap.n_groups < MIN_GROUPS:
        return without_interval(area, too_few_groups(bootstrap.n_groups), len(loss))
    drawn = bootstrap.apply(lambda weights: {"aurc": _areas(weights, loss, scores)})
    return bootstrap_interval(area, drawn["aurc"], len(loss), bootstrap.n_groups)


def selective_summary(
    wrong: ArrayLike, confidence: ArrayLike, groups: Sequence[str], seed: int = 0, draws: int = 1000
) -> dict[str, Any]:
    """Returns the JSON form of a risk–coverage curve: ``aurc`` with its interval, ``curve`` as rows, ``n``.

    Args:
        wrong: As in :func:`risk_coverage_curve`.
        confidence: As in :func:`risk_coverage_curve`.
        groups: (n,) the patient or duplicate group of each case.
        seed: Seed of the draws.
        draws: Number of bootstrap draws.

    Raises:
        InputError: As :func:`risk_coverage_curve`.
    """
    curve = risk_coverage_curve(wrong, confidence)
    area = aurc_estimate(wrong, confidence, groups, seed, draws)
    return {"aurc": area.as_dict(), "curve": curve.as_rows(), "n": curve.n}


def _areas(weights: Floats, loss: Floats, scores: Floats) -> Floats:
    """Returns (m,) areas of (m, n) samples that contain each case ``weights`` times.

    Between k = a and k = b, where cases are tied, the expected errors grow linearly. So the sum of the risks
    Σ (E + (k − a) r) / k over a < k ≤ b is r (b − a) + (E − a r) (H_b − H_a) with harmonic numbers H.
    """
    cases, losses, _ = _by_confidence(weights, loss, scores)
    after, errors = np.cumsum(cases, axis=1), np.cumsum(losses, axis=1)
    before, earlier_errors = after - cases, errors - losses
    rate = np.divide(losses, cases, out=np.zeros_like(losses), where=cases > 0)
    harmonic = digamma(after + 1) - digamma(before + 1)
    area: Floats = (losses + (earlier_errors - before * rate) * harmonic).sum(axis=1) / after[:, -1]
    return area


def _by_confidence(weights: Floats, loss: Floats, scores: Floats) -> tuple[Floats, Floats, Floats]:
    """Returns (m, c) cases and losses at each distinct confidence, the highest first, and the (c,) confidences."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(-scores[order], prepend=-np.inf))
    sorted_weights = weights[:, order]
    return (
        np.add.reduceat(sorted_weights, starts, axis=1),
        np.add.reduceat(sorted_weights * loss[order], starts, axis=1),
        scores[order][starts],
    )


def _check_arrays(wrong: ArrayLike, confidence: ArrayLike) -> tuple[Floats, Floats]:
    loss, scores = np.asarray(wrong, dtype=np.float64), np.asarray(confidence, dtype=np.float64)
    consistent = loss.ndim == 1 and loss.shape == scores.shape and loss.size > 0
    if not consistent or not (np.isfinite(loss).all() and np.isfinite(scores).all()):
        raise InputError(
            f"No risk–coverage curve exists for errors of shape {loss.shape} and confidences of shape {scores.shape}",
            "Both must be finite and have the same length n > 0",
            "Check the arrays",
        )
    return loss, scores
