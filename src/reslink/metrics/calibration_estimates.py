"""Calibration of one class with intervals: debiased error, slope and intercept, parts of the Brier score, diagram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erf, expit, logit

from reslink.errors import InputError
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
LEAST_PROBABILITY = 1e-7
"""Probabilities nearer to 0 or 1 are taken for this one, as their log-odds would be infinite."""
MOST_STEPS = 30
_CLOSE, _FAR, _LEAP = 1e-8, 1e3, 5.0

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
    * ``slope`` and ``intercept``: Cox 1958; see :func:`slopes`. 1 and 0 are calibrated.
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
        "slope": np.full(len(weights), np.nan) if separated(truth, scores) else slopes(weights, truth, scores),
        "intercept": intercepts(weights, truth, scores),
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
    if name == "slope" and separated(truth, scores):
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


def log_odds(probabilities: Floats) -> Floats:
    """Returns the log-odds of probabilities, at most 16.1 away from 0; see ``LEAST_PROBABILITY``."""
    odds: Floats = logit(np.clip(probabilities, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY))
    return odds


def separated(positive: Bools, probabilities: Floats) -> bool:
    """Returns whether a cut parts the two classes without an error, so that the slope has no finite value."""
    true, false = probabilities[positive], probabilities[~positive]
    return not len(true) or not len(false) or true.min() >= false.max() or true.max() <= false.min()


def slopes(weights: Floats, positive: Bools, probabilities: Floats) -> Floats:
    """Returns (m,) calibration slopes b of logit P(y) = a + b · logit(p); NaN where a sample has none.

    1 is calibrated, less is overconfident. Newton's method for all samples at once: scikit-learn and statsmodels fit one
    sample at a time, and a bootstrap has a thousand.

    Args:
        weights: (m, n) how often each sample holds each case.
        positive: (n,) whether a case is of the class.
        probabilities: (n,) stated probability of the class, 0 to 1.
    """
    x, y = log_odds(probabilities), positive.astype(np.float64)
    near = _lines(np.ones((1, len(x))), x, y, (0.0, 0.0))[:, 0]
    start = (float(near[0]), float(near[1])) if np.isfinite(near).all() else (0.0, 0.0)
    slope: Floats = _lines(weights, x, y, start)[1]
    return slope


def _lines(weights: Floats, x: Floats, y: Floats, start: tuple[float, float]) -> Floats:
    """Returns (2, m) intercepts and slopes of logistic regressions, by Newton's method; NaN where it does not end."""
    line = np.tile(np.array(start)[:, None], (1, len(weights)))
    step = np.full(len(weights), np.inf)
    left = np.arange(len(weights))
    for _ in range(MOST_STEPS):
        move = _move(weights[left], x, y, line[:, left])
        line[:, left] += np.clip(move, -_LEAP, _LEAP)
        step[left] = np.abs(move).sum(axis=0)
        left = left[(step[left] > _CLOSE) & (np.abs(line[1, left]) < _FAR)]  # NaN is neither: it stays out
        if not len(left):
            break
    found: Floats = np.where((step <= _CLOSE) & (np.abs(line[1]) < _FAR), line, np.nan)
    return found


def _move(weights: Floats, x: Floats, y: Floats, line: Floats) -> Floats:
    """Returns the (2, m) Newton steps; NaN where the outcome does not vary with x in a sample."""
    share = expit(line[0][:, None] + line[1][:, None] * x)
    gap, bend = weights * (y - share), weights * share * (1 - share)
    g0, g1 = gap.sum(axis=1), gap @ x
    h0, h1, h2 = bend.sum(axis=1), bend @ x, bend @ x**2
    size = h0 * h2 - h1**2
    found = np.stack([h2 * g0 - h1 * g1, h0 * g1 - h1 * g0])
    moves: Floats = np.divide(found, size, out=np.full_like(found, np.nan), where=size > 1e-12)
    return moves


def intercepts(weights: Floats, positive: Bools, probabilities: Floats) -> Floats:
    """Returns (m,) calibration intercepts a of logit P(y) = a + logit(p); NaN where a sample holds one class only.

    0 is calibrated in the large, less says too much of the class. Arguments as for :func:`slopes`.
    """
    x, y = log_odds(probabilities), positive.astype(np.float64)
    near = _levels(np.ones((1, len(x))), x, y, 0.0)[0]
    return _levels(weights, x, y, float(near) if np.isfinite(near) else 0.0)


def _levels(weights: Floats, x: Floats, y: Floats, start: float) -> Floats:
    level = np.full(len(weights), start)
    total, hits = weights.sum(axis=1), weights @ y
    both = (hits > 0) & (hits < total)
    for _ in range(MOST_STEPS):
        share = expit(level[:, None] + x)
        said = weights * share
        bend = np.maximum((said * (1 - share)).sum(axis=1), 1e-12)
        step = np.clip((hits - said.sum(axis=1)) / bend, -_LEAP, _LEAP)
        level += step
        if np.abs(step[both]).max(initial=0) < _CLOSE:
            break
    return np.where(both, level, np.nan)
