"""Figures over seeds: means and differences with intervals that hold for other seeds and other patients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from reslink.metrics.comparison import holm
from reslink.metrics.intervals import (
    CONFIDENCE,
    MAX_UNDEFINED,
    MIN_GROUPS,
    Draws,
    Estimate,
    GroupBootstrap,
    bootstrap_interval,
    few_groups,
    undefined,
    without_interval,
)

MIN_SEEDS = 3
"""Two seeds give a variance with one degree of freedom, and an interval six times as wide."""

Floats: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[Floats], Mapping[str, Floats]]


@dataclass(frozen=True)
class Sample:
    """One run as the bootstrap sees it.

    Attributes:
        groups: (n,) patient or twin group of each of its test cases.
        statistic: Figures (m,) by name of (m, n) case weights.
        rests_on: By figure the fewest groups that it rests on, such as those with a case of the rarest class; a figure that
            is not named rests on all groups.
    """

    groups: Sequence[str]
    statistic: Statistic
    rests_on: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class OverSeeds:
    """A figure over seeds with its two-sided test against zero.

    Attributes:
        estimate: The figure with its interval.
        p_value: 0 to 1; None where there is no test.
        p_holm: After Holm's correction, where several tests were made.
    """

    estimate: Estimate
    p_value: float | None = None
    p_holm: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        return asdict(self.estimate) | {"p_value": self.p_value, "p_holm": self.p_holm}


class Runs:
    """The runs of a study, resampled together, so that figures of two runs may be subtracted draw by draw.

    A draw takes patients or twin groups with replacement from those of all test parts; a group that stands in the test
    parts of several runs is taken as often in each.

    Args:
        samples: The runs by arm and seed.
        draws: Bootstrap draws.
        seed: Seed of the draws.
    """

    def __init__(self, samples: Mapping[tuple[str, int], Sample], draws: int = 1000, seed: int = 0) -> None:
        self.samples = dict(samples)
        groups = [np.asarray(sample.groups, dtype=str) for sample in self.samples.values()]
        ends = np.cumsum([0, *(len(names) for names in groups)])
        self.spans = {key: slice(int(ends[i]), int(ends[i + 1])) for i, key in enumerate(self.samples)}
        self.n_groups = len(np.unique(np.concatenate(groups))) if groups else 0
        self.points = {key: self._point(sample) for key, sample in self.samples.items()}
        self.drawn: dict[str, Draws] = {}
        if self.n_groups >= MIN_GROUPS:
            self.drawn = GroupBootstrap(np.concatenate(groups), draws, seed).apply(self._figures)

    def _point(self, sample: Sample) -> dict[str, float]:
        found = sample.statistic(np.ones((1, len(sample.groups))))
        return {name: float(values[0]) for name, values in found.items()}

    def _figures(self, weights: Floats) -> dict[str, Floats]:
        found: dict[str, Floats] = {}
        for key, sample in self.samples.items():
            for name, values in sample.statistic(weights[:, self.spans[key]]).items():
                found[_column(key, name)] = values
        return found

    def seeds(self, *arms: str) -> list[int]:
        """Returns the seeds for which all of some arms have a run."""
        found = [{seed for arm, seed in self.samples if arm == wanted} for wanted in arms]
        return sorted(set.intersection(*found)) if found else []

    def mean(self, arm: str, figure: str, limits: tuple[float, float] = (0.0, 1.0)) -> OverSeeds:
        """Returns a figure of an arm, the mean over its seeds; its interval is cut off at the limits of the figure."""
        seeds = self.seeds(arm)
        return self._over(figure, [[(1.0, (arm, seed))] for seed in seeds], limits)

    def difference(self, arm: str, other: str, figure: str) -> OverSeeds:
        """Returns a figure of an arm less that of another, the mean over the seeds that both have."""
        pairs: list[list[tuple[float, tuple[str, int]]]] = [
            [(1.0, (arm, seed)), (-1.0, (other, seed))] for seed in self.seeds(arm, other)
        ]
        return self._over(figure, pairs, (-1.0, 1.0))

    def spread(self, arm: str, figure: str) -> float | None:
        """Returns the standard deviation of a figure over seeds; None with fewer than two."""
        values = [self.points[arm, seed][figure] for seed in self.seeds(arm)]
        return float(np.std(values, ddof=1)) if len(values) > 1 and np.isfinite(values).all() else None

    def _over(
        self, figure: str, terms: Sequence[Sequence[tuple[float, tuple[str, int]]]], limits: tuple[float, float]
    ) -> OverSeeds:
        n = sum(len(self.samples[row[0][1]].groups) for row in terms)
        values = np.array([sum(sign * self.points[key].get(figure, math.nan) for sign, key in row) for row in terms])
        if not len(values):
            return OverSeeds(undefined("no run has a result", 0))
        if not np.isfinite(values).all():
            lacking = [row[0][1][1] for row, value in zip(terms, values, strict=True) if not np.isfinite(value)]
            return OverSeeds(undefined(f"it is not defined for the seeds {', '.join(map(str, lacking))}", n))
        fewest = min(self.n_groups, *(self.samples[key].rests_on.get(figure, self.n_groups) for row in terms for _, key in row))
        if not self.drawn or fewest < MIN_GROUPS:
            return OverSeeds(without_interval(float(values.mean()), few_groups(fewest), n))
        columns = [
            Draws(
                sum(sign * self.drawn[_column(key, figure)].values for sign, key in row),  # type: ignore[arg-type]
                sum(sign * self.drawn[_column(key, figure)].left_out for sign, key in row),  # type: ignore[arg-type]
            )
            for row in terms
        ]
        found = over_seeds(values, columns, n, self.n_groups)
        low, high = found.estimate.ci_low, found.estimate.ci_high
        if low is None or high is None:
            return found
        clipped = replace(found.estimate, ci_low=max(limits[0], low), ci_high=min(limits[1], high))
        return replace(found, estimate=clipped)


def _column(key: tuple[str, int], figure: str) -> str:
    return f"{key[0]}\0{key[1]}\0{figure}"


def over_seeds(values: Floats, draws: Sequence[Draws], n: int, n_groups: int) -> OverSeeds:
    """Returns the mean of a figure over seeds with an interval for new seeds and new patients, and the test against 0.

    Seeds are to cases what readers are to cases in a reader study, so this is the analysis of Obuchowski and Rockette
    (1995, Communications in Statistics 24:285) with the degrees of freedom of Hillis (2007, Statistics in Medicine
    26:596) for one difference: the variance of the mean of R seeds is S²/R + c, S² the variance of the figure over
    seeds, c the covariance that two seeds have because they are judged on the same patients, here from a bootstrap over
    groups and at least 0. The variance is at least that of the mean over the draws, so that seeds which agree by chance
    do not make it too small. Fewer than ``MIN_SEEDS`` seeds say too little of other seeds: then the interval is the
    bootstrap's over groups, and holds for these networks alone.

    Args:
        values: (R,) the figure of each seed.
        draws: For each seed what the bootstrap saw, the same groups drawn for all of them.
        n: Cases in all.
        n_groups: Groups that were drawn.
    """
    mean = float(values.mean())
    drawn = np.stack([one.values for one in draws])
    defined = np.asarray(np.isfinite(drawn).all(axis=0), np.bool_)
    if 1 - defined.mean() > MAX_UNDEFINED:
        return OverSeeds(without_interval(mean, f"{(~defined).sum()} of {len(defined)} bootstrap draws leave it undefined", n))
    if len(values) < MIN_SEEDS:
        return _these_networks(mean, draws, len(values), n, n_groups)
    between = float(values.var(ddof=1)) / len(values)
    covariance = np.cov(drawn[:, defined])
    shared = max(0.0, float((covariance.sum() - np.trace(covariance)) / (len(values) * (len(values) - 1))))
    variance = max(between + shared, float(drawn[:, defined].mean(axis=0).var(ddof=1)))
    if variance < 1e-18:
        return OverSeeds(without_interval(mean, "it is the same in every seed and every draw", n))
    freedom = variance**2 / between**2 * (len(values) - 1) if between > 0 else math.inf
    half = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(variance)
    method = f"t interval over {len(values)} seeds and {n_groups} groups (Obuchowski-Rockette, Hillis), {len(defined)} draws"
    p_value = float(2 * t.sf(abs(mean) / math.sqrt(variance), freedom))
    return OverSeeds(Estimate(mean, mean - half, mean + half, method, n), p_value)


def _these_networks(mean: float, draws: Sequence[Draws], seeds: int, n: int, n_groups: int) -> OverSeeds:
    """The interval over patients for the networks at hand."""
    whole = Draws(np.asarray(sum(one.values for one in draws) / seeds), np.asarray(sum(one.left_out for one in draws) / seeds))
    found = bootstrap_interval(mean, whole, n, n_groups)
    spread = float(np.nanstd(whole.values, ddof=1))
    p_value = float(2 * norm.sf(abs(mean) / spread)) if spread > 1e-12 else None
    note = f"{seeds} {'seed' if seeds == 1 else 'seeds'} only: it holds for these networks, other seeds may differ more"
    return OverSeeds(replace(found, method=f"{found.method}; {note}"), p_value)


def corrected(tests: Sequence[OverSeeds]) -> list[OverSeeds]:
    """Returns tests with Holm's correction for their number."""
    return [replace(test, p_holm=p) for test, p in zip(tests, holm([test.p_value for test in tests]), strict=True)]
