"""Calibration of one class with intervals: debiased error, slope and intercept, parts of the Brier score, diagram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erf

from reslink.errors import InputError
from reslink.metrics import cox
from reslink.metrics.calibration import BINS, bin_index
from reslink.metrics.intervals import (
    MIN_GROUPS,
    Draws,
    Estimate,
    GroupBootstrap,
    bootstrap_interval,
    few_groups,
    mean_interval,
    undefined,
    without_interval,
)
from reslink.metrics.weighted import brier, ratio

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

NAMES = {
    "ece_debiased": "ECE, debiased",
    "slope": "calibration slope",
    "intercept": "calibration intercept",
    "reliability": "Brier score: reliability (calibration loss)",
    "resolution": "Brier score: resolution",
    "uncertainty": "Brier score: uncertainty",
    "within_bin": "Brier score: rest within bins",
}
"""Every figure of calibration with the name that a report prints."""
CURVE_BINS = 10
CASES_A_BIN = 10
"""Groups that an equal-mass bin holds at least, so that its frequency is worth something."""


def calibration_estimates(
    positive: ArrayLike, probabilities: ArrayLike, groups: Sequence[str], seed: int = 0, draws: int = 1000
) -> dict[str, Any]:
    """Returns how far the probabilities of one class are from its frequencies, with 95 % intervals over groups.

    * ``ece_debiased``: the expected calibration error less what chance alone adds to it, by the normal approximation of
      Kumar, Liang and Ma 2019 (NeurIPS, section 5), here in closed form (mean of a folded normal) and with the variance
      over groups; up to 15 bins of equal mass (Roelofs et al. 2022, AISTATS, show that these are biased least). Some
      of the chance error stays: of 300 calibrated cases the plain error was 0.071 on average, this one 0.042.
    * ``slope`` and ``intercept``: Cox 1958; see ``cox``. 1 and 0 are calibrated.
    * ``reliability``, ``resolution``, ``uncertainty``: Murphy 1973 (Journal of Applied Meteorology 12:595) over the same
      bins. Brier score = reliability − resolution + uncertainty + ``within_bin``, the last being what the bins hide
      (Stephenson, Coelho and Jolliffe 2008, Weather and Forecasting 23:752).
    * ``curve``: the reliability diagram over ten equal bins: mean ``predicted``, share ``observed`` with its interval.

    Args:
        positive: (n,) whether a case is of the class.
        probabilities: (n,) stated probability of the class, 0 to 1.
        groups: (n,) the patient or twin group of each case.
        seed: Seed of the draws.
        draws: Bootstrap draws.

    Returns:
        The JSON form: each figure of ``NAMES`` as an estimate, ``bins`` (how many of equal mass), and ``curve``.

    Raises:
        InputError: If there is no case, or the arrays do not fit each other.
    """
    truth, scores = _checked(positive, probabilities, groups)
    bootstrap = GroupBootstrap(groups, draws, seed)
    bins = equal_mass_bins(scores, min(BINS, max(1, bootstrap.n_groups // CASES_A_BIN)))
    whole = np.ones((1, len(truth)))
    points = _figures(whole, truth, scores, bins, bootstrap.index)
    drawn = bootstrap.apply(lambda weights: _figures(weights, truth, scores, bins, bootstrap.index))
    fewest = min(bootstrap.groups_of(truth), bootstrap.groups_of(~truth))
    found = {name: _estimate(name, float(points[name][0]), drawn[name], truth, scores, bootstrap, fewest) for name in NAMES}
    return {
        "bins": int(bins.max()) + 1,
        **{name: estimate.as_dict() for name, estimate in found.items()},
        "curve": _curve(truth, scores, np.asarray(groups, dtype=str), seed, draws),
    }


def equal_mass_bins(scores: Floats, bins: int) -> Ints:
    """Returns (n,) bin numbers from 0 on: ``bins`` bins of about equally many cases; equal scores share a bin."""
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1]))
    numbers: Ints = np.unique(np.searchsorted(edges, scores, side="right"), return_inverse=True)[1].astype(np.int64)
    return numbers


def _figures(weights: Floats, truth: Bools, scores: Floats, bins: Ints, index: Ints) -> dict[str, Floats]:
    """Returns the figures of (m, n) weighted samples, each (m,), NaN where undefined."""
    return {
        "ece_debiased": _debiased(weights, truth, scores, bins, index),
        "slope": np.full(len(weights), np.nan) if cox.separated(truth, scores) else cox.slopes(weights, truth, scores),
        "intercept": cox.intercepts(weights, truth, scores),
        **_murphy(weights, truth, scores, bins),
    }


def _debiased(weights: Floats, truth: Bools, scores: Floats, bins: Ints, index: Ints) -> Floats:
    """Returns (m,) calibration errors less the bias that the chance variation of each bin's gap adds."""
    member = np.eye(int(bins.max()) + 1)[bins]
    gaps = truth - scores
    cases, sums = weights @ member, weights @ (member * gaps[:, None])
    mean = np.divide(sums, cases, out=np.zeros_like(sums), where=cases > 0)
    spread = np.sqrt(_group_variance(weights, gaps, member, index)) / np.maximum(cases, 1)
    plain = np.abs(mean)
    z = np.divide(plain, spread, out=np.full_like(plain, 40.0), where=spread > 0)
    folded = spread * np.sqrt(2 / np.pi) * np.exp(-(np.minimum(z, 40) ** 2) / 2) + plain * erf(z / np.sqrt(2))
    return np.maximum(0.0, ratio((cases * (2 * plain - folded)).sum(axis=1), cases.sum(axis=1)))


def _group_variance(weights: Floats, gaps: Floats, member: Floats, index: Ints) -> Floats:
    """Returns (m, b) variances of the sum of gaps in each bin, with groups as the units that vary."""
    held = member.sum(axis=0)
    centred = member * (gaps[:, None] - (member * gaps[:, None]).sum(axis=0) / held)
    firsts = np.unique(index, return_index=True)[1]
    sums = np.stack([np.bincount(index, weights=column) for column in centred.T], axis=1)
    groups = np.array([len(np.unique(index[column > 0])) for column in member.T])
    correction = np.divide(groups, groups - 1, out=np.ones(len(groups)), where=groups > 1)
    variance: Floats = weights[:, firsts] @ sums**2 * correction
    return variance


def _murphy(weights: Floats, truth: Bools, scores: Floats, bins: Ints) -> dict[str, Floats]:
    """Returns the parts of (m,) Brier scores."""
    member = np.eye(int(bins.max()) + 1)[bins]
    total = weights.sum(axis=1)
    cases = weights @ member
    observed = np.divide(weights @ (member * truth[:, None]), cases, out=np.zeros_like(cases), where=cases > 0)
    predicted = np.divide(weights @ (member * scores[:, None]), cases, out=np.zeros_like(cases), where=cases > 0)
    base = weights @ truth / total
    reliability = (cases * (predicted - observed) ** 2).sum(axis=1) / total
    resolution = (cases * (observed - base[:, None]) ** 2).sum(axis=1) / total
    uncertainty = base * (1 - base)
    rest = brier(weights, truth, scores) - (reliability - resolution + uncertainty)
    return {"reliability": reliability, "resolution": resolution, "uncertainty": uncertainty, "within_bin": rest}


def _estimate(
    name: str, point: float, drawn: Draws, truth: Bools, scores: Floats, bootstrap: GroupBootstrap, fewest: int
) -> Estimate:
    n = len(truth)
    if name in ("slope", "intercept") and truth.all() | (~truth).all():
        return undefined("all cases are of one side", n)
    if name == "slope" and cox.separated(truth, scores):
        return undefined("a threshold parts the classes without an error, so that the slope has no finite value", n)
    if not np.isfinite(point):
        return undefined("the fit does not converge on these cases", n)
    needed = fewest if name in ("slope", "intercept") else bootstrap.n_groups
    if needed < MIN_GROUPS:
        return without_interval(point, few_groups(needed), n)
    shifted = name in ("ece_debiased", "reliability", "resolution")
    return bootstrap_interval(point, drawn, n, bootstrap.n_groups, biased=shifted, rests_on=needed)


def _curve(truth: Bools, scores: Floats, groups: NDArray[np.str_], seed: int, draws: int) -> list[dict[str, Any]]:
    """Returns a row for each of ten equal bins that holds a case."""
    index = bin_index(scores, CURVE_BINS)
    rows = []
    for number in np.unique(index):
        held = index == number
        share = mean_interval(truth[held], groups[held], seed, draws)
        rows.append(
            {
                "predicted": float(scores[held].mean()),
                "observed": share.estimate,
                "ci_low": share.ci_low,
                "ci_high": share.ci_high,
                "method": share.method,
                "n": share.n,
            }
        )
    return rows


def _checked(positive: ArrayLike, probabilities: ArrayLike, groups: Sequence[str]) -> tuple[Bools, Floats]:
    truth, scores = np.asarray(positive, dtype=bool), np.asarray(probabilities, dtype=np.float64)
    fits = truth.ndim == 1 and truth.shape == scores.shape and len(groups) == len(truth) > 0
    if not fits or not (np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1):
        raise InputError(
            f"{len(truth)} outcomes, probabilities of shape {scores.shape} and {len(groups)} groups cannot be used",
            "There are n > 0 outcomes, as many probabilities from 0 to 1, and a group for each",
            "Check how the cases were collected",
        )
    return truth, scores
