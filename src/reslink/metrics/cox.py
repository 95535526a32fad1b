"""Calibration slope and intercept: the logistic regression of the outcome on the log-odds that were stated (Cox 1958)."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]

LEAST_PROBABILITY = 1e-7
"""Probabilities nearer to 0 or 1 are taken for this one, as their log-odds would be infinite."""
MOST_STEPS = 30
_CLOSE, _FAR, _LEAP = 1e-8, 1e3, 5.0


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
