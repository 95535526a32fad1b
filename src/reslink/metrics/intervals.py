"""Estimates with 95 % intervals: Wilson, exact binomial, and bootstrap over groups of cases that belong together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest
from scipy.stats import t as student

Floats: TypeAlias = NDArray[np.float64]

Parts: TypeAlias = dict[str, Floats]
Statistic: TypeAlias = Callable[[Floats], Parts]

CONFIDENCE = 0.95
MIN_GROUPS = 10
"""Fewer groups give no bootstrap interval.

In 1,000 simulated studies (patients with 1 to 4 images that resemble each other) the intervals of accuracy, sensitivity and
AUROC held the truth in 94.0 to 94.9 % with 20 patients, 94.6 to 96.1 % with 40, 94.7 to 95.5 % with 100; the plain BCa
interval, without the levels of Student's t, in 91.0 to 92.4 % with 20. Where patients differ far more (a sensitivity of 0.85
that varies between groups of 1 to 15 cases as a beta distribution with a sum of 2.3) it was 93 % with 12 groups, 92 % with
20, 93 % with 40 and 96 % with 80 in 500 studies. An AUROC of 0.98 needs some 80 groups for 92 %: with 12, every fourth study
ranks all cases rightly, and has no interval.
"""
MAX_UNDEFINED = 0.1
"""With a larger share of draws undefined, the interval would hold for the rest only."""
MAX_BLOCKS = 500
"""More groups than this are left out in blocks, which leaves the acceleration the same on average."""
MAX_WEIGHTS = 4_000_000
"""Case weights held in memory at a time."""


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % interval, and how both came about.

    Attributes:
        estimate: The value; None where it is not defined, with the reason in ``method``.
        ci_low: Lower end of the interval; None where there is none, with the reason in ``method``.
        ci_high: Upper end of the interval; None where there is none.
        method: How the interval was made, or why it or the estimate is missing.
        n: Cases that the estimate rests on, such as the positive ones for sensitivity.
    """

    estimate: float | None
    ci_low: float | None
    ci_high: float | None
    method: str
    n: int

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form; there is never a NaN in it."""
        return asdict(self)


def undefined(reason: str, n: int) -> Estimate:
    """Returns an estimate that does not exist, with the reason."""
    return Estimate(None, None, None, f"undefined: {reason}", n)


def without_interval(estimate: float, reason: str, n: int) -> Estimate:
    """Returns an estimate without an interval, with the reason."""
    return Estimate(estimate, None, None, f"no interval: {reason}", n)


def wilson(successes: int, n: int, what: str = "cases") -> Estimate:
    """Returns a proportion with its score interval (Wilson 1927, JASA 22:209).

    It covers 95 % on average over all proportions; the exact interval of Clopper and Pearson 1934 covers 97 to 99 % with
    some tens of cases (Newcombe 1998, Statistics in Medicine 17:857).

    Args:
        successes: Cases that count.
        n: All cases; independent of each other.
        what: What the trials are, for ``method``.
    """
    if n == 0:
        return undefined("there is no case to count", 0)
    interval = binomtest(successes, n).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return Estimate(successes / n, float(interval.low), float(interval.high), f"Wilson score over {what}", n)


def exact_binomial(successes: int, n: int, what: str = "cases") -> Estimate:
    """Returns a proportion with its exact binomial interval (Clopper and Pearson 1934, Biometrika 26:404).

    Args:
        successes: Cases that count.
        n: All cases; independent of each other.
        what: What the trials are, for ``method``.
    """
    if n == 0:
        return undefined("there is no case to count", 0)
    interval = binomtest(successes, n).proportion_ci(confidence_level=CONFIDENCE, method="exact")
    return Estimate(
        successes / n, float(interval.low), float(interval.high), f"exact binomial (Clopper-Pearson) over {what}", n
    )


def proportion_interval(right: NDArray[np.bool_], groups: NDArray[np.int64], *, single: bool) -> Estimate | None:
    """Returns a proportion with a binomial interval where that holds, None where only a bootstrap can tell.

    Wilson's holds where each group has one case. Where groups have several, but all cases agree, no draw of a bootstrap
    would differ from the others; then each group counts as one trial, as if its cases were copies of each other, and the
    interval is the exact one.

    Args:
        right: (n,) whether each case counts.
        groups: (n,) the group of each case.
        single: Whether each group of the data holds one case.
    """
    n, successes = len(right), int(right.sum())
    if single:
        return wilson(successes, n)
    if successes not in (0, n):
        return None
    n_groups = len(np.unique(groups))
    trial = exact_binomial(successes // n * n_groups, n_groups, "groups, as all cases agree")
    return replace(trial, n=n)


@dataclass(frozen=True)
class Draws:
    """What a bootstrap saw of one figure.

    Attributes:
        values: (draws,) the figure in each draw; NaN where a draw leaves it undefined, such as one without positives.
        left_out: (b,) the figure without each block of groups, for the acceleration of the BCa interval.
    """

    values: Floats
    left_out: Floats


class GroupBootstrap:
    """Bootstrap over groups: each draw takes whole groups with replacement, as many as there are.

    A draw is a row of case weights, how often the group of each case was taken, so that all metrics of all draws come
    from a few matrix products. ``scipy.stats.bootstrap`` has no groups of unequal size, and one scikit-learn call for
    each draw and metric takes minutes.

    Args:
        groups: (n,) the group of each case, such as a patient or a set of near copies.
        draws: Number of draws.
        seed: Seed of the draws.

    Attributes:
        index: (n,) the number of the group of each case.
        n_groups: Number of groups.
        draws: Number of draws.
    """

    def __init__(self, groups: Sequence[str] | NDArray[np.str_], draws: int = 1000, seed: int = 0) -> None:
        names, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        self.index: NDArray[np.int64] = index.astype(np.int64)
        self.n_groups = len(names)
        self.draws = draws
        self._seed = seed

    @property
    def single(self) -> bool:
        """Whether each group holds one case."""
        return self.n_groups == len(self.index)

    def groups_of(self, cases: NDArray[np.bool_]) -> int:
        """Returns how many groups hold at least one of the marked cases, (n,) booleans."""
        return len(np.unique(self.index[cases]))

    def apply(self, statistic: Statistic) -> dict[str, Draws]:
        """Applies a statistic to all draws and to the cases without each block of groups.

        Args:
            statistic: Takes (m, n) case weights and returns arrays of (m,) by name.
        """
        rng = np.random.default_rng(self._seed)
        even = np.full(self.n_groups, 1 / self.n_groups)
        blocks = rng.permutation(self.n_groups) % min(self.n_groups, MAX_BLOCKS)
        values = self._in_parts(statistic, self.draws, lambda rows: rng.multinomial(self.n_groups, even, size=len(rows)))
        left_out = self._in_parts(statistic, int(blocks.max()) + 1, lambda rows: rows[:, None] != blocks)
        return {name: Draws(values[name], left_out[name]) for name in values}

    def _in_parts(self, statistic: Statistic, rows: int, counts: Callable[[NDArray[np.int64]], NDArray[Any]]) -> Parts:
        """Applies a statistic to some rows of group counts at a time, so that memory stays small."""
        step = max(1, MAX_WEIGHTS // len(self.index))
        starts = [np.arange(start, min(start + step, rows)) for start in range(0, rows, step)]
        parts = [statistic(counts(part)[:, self.index].astype(np.float64)) for part in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def bootstrap_interval(
    estimate: float,
    draws: Draws,
    n: int,
    n_groups: int,
    *,
    biased: bool = False,
    limits: tuple[float, float] = (0.0, 1.0),
    rests_on: int | None = None,
) -> Estimate:
    """Returns an estimate with the interval of its bootstrap draws.

    BCa, bias-corrected and accelerated (Efron 1987, JASA 82:171), or percentile where the draws leave its constants
    undefined. Its levels are those of Student's t, as a bootstrap of few groups spreads too little (Hesterberg 2015, The
    American Statistician 69:371, section 4.5.1). For figures that resampling itself shifts (ECE: fewer different cases,
    larger gaps in the bins) the draws are moved to the estimate and the percentiles taken.

    Args:
        estimate: The value on the cases themselves.
        draws: What the bootstrap saw.
        n: Cases that the estimate rests on.
        n_groups: Groups that were drawn.
        biased: Whether resampling shifts the figure.
        limits: The range of the figure, for one that is shifted.
        rests_on: Groups that the figure rests on, such as those with a positive case; ``n_groups`` if not given.

    Returns:
        The estimate; without an interval where the draws cannot give one.
    """
    defined = draws.values[~np.isnan(draws.values)]
    lost = len(draws.values) - len(defined)
    if lost > MAX_UNDEFINED * len(draws.values):
        return without_interval(estimate, f"{lost} of {len(draws.values)} bootstrap draws leave it undefined", n)
    if np.ptp(defined) < 1e-12:
        return without_interval(estimate, "all bootstrap draws give the same value", n)
    tail = expanded_tail(rests_on or n_groups)
    levels, kind = (None, "percentile, moved to the estimate,") if biased else _bca_levels(estimate, defined, draws, tail)
    low, high = (float(end) for end in np.quantile(defined, levels or (float(ndtr(tail)), float(ndtr(-tail)))))
    if biased:
        shift = estimate - float(defined.mean())
        low, high = max(limits[0], low + shift), min(limits[1], high + shift)
    left = f", {lost} undefined ones left out" if lost else ""
    method = f"{kind} bootstrap over {n_groups} groups, {len(draws.values)} draws{left}"
    return Estimate(estimate, low, high, method, n)


def expanded_tail(n_groups: int) -> float:
    """Returns the lower normal quantile that a bootstrap of g groups takes: −√(g / (g − 1)) t, −1.96 for many groups."""
    quantile = float(student.ppf((1 + CONFIDENCE) / 2, n_groups - 1))
    return -quantile * float(np.sqrt(n_groups / (n_groups - 1)))


def _bca_levels(estimate: float, defined: Floats, draws: Draws, tail: float) -> tuple[tuple[float, float] | None, str]:
    """Returns the quantiles of the BCa interval; None, for the plain ones, where its constants are not defined."""
    same = np.isclose(defined, estimate, rtol=0, atol=1e-12)
    below = float(((defined < estimate) & ~same).mean() + same.mean() / 2)
    gaps = draws.left_out.mean() - draws.left_out  # NaN where a figure needs the block that was left out
    spread = float((gaps**2).sum())
    if not (0 < below < 1 and spread > 0):
        return None, "percentile"
    bias, acceleration = float(ndtri(below)), float((gaps**3).sum() / (6 * spread**1.5))
    if abs(acceleration) * (abs(bias) - tail) >= 1:
        return None, "percentile"
    low, high = (float(ndtr(bias + z / (1 - acceleration * z))) for z in (bias + tail, bias - tail))
    return (low, high), "BCa"


def mean_interval(
    values: ArrayLike,
    groups: Sequence[str] | NDArray[np.str_],
    seed: int = 0,
    draws: int = 1000,
    *,
    proportion: bool = True,
) -> Estimate:
    """Returns the mean of a figure that each case has, with its interval over groups.

    Args:
        values: (n,) finite numbers; zeros and ones alone are a proportion, see :func:`proportion_interval`.
        groups: (n,) the group of each case.
        seed: Seed of the draws.
        draws: Bootstrap draws.
        proportion: Whether zeros and ones alone are a proportion; not so for counts, which could be 2 in other cases.
    """
    cases = np.asarray(values, dtype=np.float64)
    if cases.size == 0:
        return undefined("there is no case to count", 0)
    bootstrap = GroupBootstrap(groups, draws, seed)
    if proportion and np.isin(cases, (0.0, 1.0)).all():
        found = proportion_interval(cases == 1, bootstrap.index, single=bootstrap.single)
        if found is not None:
            return found
    mean, n = float(cases.mean()), len(cases)
    if bootstrap.n_groups < MIN_GROUPS:
        return without_interval(mean, few_groups(bootstrap.n_groups), n)
    drawn = bootstrap.apply(lambda weights: {"mean": weights @ cases / weights.sum(axis=1)})
    return bootstrap_interval(mean, drawn["mean"], n, bootstrap.n_groups)


def few_groups(n_groups: int) -> str:
    """Returns the reason why there is no interval."""
    return f"it rests on {n_groups} groups, and fewer than {MIN_GROUPS} groups give too narrow a bootstrap interval"
