"""Selective classification: the error among the cases that are answered, when the least sure ones are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma

from reslink.errors import InputError
from reslink.metrics.intervals import MIN_GROUPS, Estimate, GroupBootstrap, bootstrap_interval, few_groups, without_interval

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class RiskCoverage:
    """Share of errors among the answered cases, over the share of cases that are answered.

    El-Yaniv and Wiener 2010 (JMLR 11:1605). Cases of equal confidence are answered together.

    Attributes:
        coverage: (c,) share of cases answered, rising to 1.
        risk: (c,) share of errors among them, 0 to 1.
        threshold: (c,) the least confidence that is answered, falling.
        n: All cases.
    """

    coverage: Floats
    risk: Floats
    threshold: Floats
    n: int

    def at(self, coverage: float) -> float:
        """Returns the risk of the smallest set of surest cases that reaches a coverage, 0 to 1."""
        return float(self.risk[min(int(np.searchsorted(self.coverage, coverage - 1e-12)), len(self.risk) - 1)])

    def as_rows(self, most: int = 101) -> list[dict[str, float]]:
        """Returns the JSON form: ``coverage``, ``risk`` and ``threshold``, at ``most`` points at most, the last included."""
        chosen = np.unique(np.linspace(0, len(self.coverage) - 1, min(most, len(self.coverage))).round().astype(int))
        columns = {"coverage": self.coverage, "risk": self.risk, "threshold": self.threshold}
        return [{name: float(values[i]) for name, values in columns.items()} for i in chosen]


def risk_coverage(wrong: ArrayLike, confidence: ArrayLike) -> RiskCoverage:
    """Returns the risk–coverage curve.

    Args:
        wrong: (n,) whether each answer is wrong, 0 or 1; any loss from 0 to 1 will do.
        confidence: (n,) the higher, the surer, such as the probability of the predicted class.

    Raises:
        InputError: If there is no case, or the arrays do not fit each other or are not finite.
    """
    loss, sureness = _checked(wrong, confidence)
    total, lost, threshold = _steps(np.ones((1, len(loss))), loss, sureness)
    answered, errors = np.cumsum(total[0]), np.cumsum(lost[0])
    return RiskCoverage(answered / len(loss), errors / answered, threshold, len(loss))


def area_under_risk_coverage(wrong: ArrayLike, confidence: ArrayLike) -> float:
    """Returns the area under the risk–coverage curve (AURC): the mean over k of the risk of the k surest cases.

    Geifman, Uziel and El-Yaniv 2019 (ICLR), equation 1. Among cases of equal confidence every order counts alike.

    Args:
        wrong: As in :func:`risk_coverage`.
        confidence: As in :func:`risk_coverage`.

    Returns:
        0 (no error) to 1 (errors only); the error rate itself where the confidence says nothing.

    Raises:
        InputError: As :func:`risk_coverage`.
    """
    loss, sureness = _checked(wrong, confidence)
    return float(_areas(np.ones((1, len(loss))), loss, sureness)[0])


def aurc_estimate(wrong: ArrayLike, confidence: ArrayLike, groups: Sequence[str], seed: int = 0, draws: int = 1000) -> Estimate:
    """Returns the area under the risk–coverage curve with its 95 % interval over groups.

    Args:
        wrong: As in :func:`risk_coverage`.
        confidence: As in :func:`risk_coverage`.
        groups: (n,) the patient or twin group of each case.
        seed: Seed of the draws.
        draws: Bootstrap draws.

    Raises:
        InputError: As :func:`risk_coverage`.
    """
    loss, sureness = _checked(wrong, confidence)
    area, bootstrap = area_under_risk_coverage(loss, sureness), GroupBootstrap(groups, draws, seed)
    if bootstrap.n_groups < MIN_GROUPS:
        return without_interval(area, few_groups(bootstrap.n_groups), len(loss))
    drawn = bootstrap.apply(lambda weights: {"aurc": _areas(weights, loss, sureness)})
    return bootstrap_interval(area, drawn["aurc"], len(loss), bootstrap.n_groups)


def selective_summary(
    wrong: ArrayLike, confidence: ArrayLike, groups: Sequence[str], seed: int = 0, draws: int = 1000
) -> dict[str, Any]:
    """Returns the JSON form of a risk–coverage curve: ``aurc`` with its interval, ``curve`` as rows, ``n``.

    Args:
        wrong: As in :func:`risk_coverage`.
        confidence: As in :func:`risk_coverage`.
        groups: (n,) the patient or twin group of each case.
        seed: Seed of the draws.
        draws: Bootstrap draws.

    Raises:
        InputError: As :func:`risk_coverage`.
    """
    curve = risk_coverage(wrong, confidence)
    area = aurc_estimate(wrong, confidence, groups, seed, draws)
    return {"aurc": area.as_dict(), "curve": curve.as_rows(), "n": curve.n}


def _areas(weights: Floats, loss: Floats, sureness: Floats) -> Floats:
    """Returns (m,) areas of (m, n) samples that hold each case ``weights`` times.

    Between k = a and k = b, where cases are tied, the expected errors rise in a straight line, so that the sum of
    risks Σ (E + (k − a) r) / k over a < k ≤ b is r (b − a) + (E − a r) (H_b − H_a) with harmonic numbers H.
    """
    total, lost, _ = _steps(weights, loss, sureness)
    after, errors = np.cumsum(total, axis=1), np.cumsum(lost, axis=1)
    before, earlier = after - total, errors - lost
    rate = np.divide(lost, total, out=np.zeros_like(lost), where=total > 0)
    harmonic = digamma(after + 1) - digamma(before + 1)
    area: Floats = (lost + (earlier - before * rate) * harmonic).sum(axis=1) / after[:, -1]
    return area


def _steps(weights: Floats, loss: Floats, sureness: Floats) -> tuple[Floats, Floats, Floats]:
    """Returns (m, c) cases and losses at each distinct confidence, the surest first, and the (c,) confidences."""
    order = np.argsort(-sureness, kind="stable")
    starts = np.flatnonzero(np.diff(-sureness[order], prepend=-np.inf))
    ranked = weights[:, order]
    return (
        np.add.reduceat(ranked, starts, axis=1),
        np.add.reduceat(ranked * loss[order], starts, axis=1),
        sureness[order][starts],
    )


def _checked(wrong: ArrayLike, confidence: ArrayLike) -> tuple[Floats, Floats]:
    loss, sureness = np.asarray(wrong, dtype=np.float64), np.asarray(confidence, dtype=np.float64)
    fits = loss.ndim == 1 and loss.shape == sureness.shape and loss.size > 0
    if not fits or not (np.isfinite(loss).all() and np.isfinite(sureness).all()):
        raise InputError(
            f"Errors of shape {loss.shape} and confidences of shape {sureness.shape} give no risk–coverage curve",
            "It takes n > 0 finite errors and as many finite confidences",
            "Check how the cases were collected",
        )
    return loss, sureness
