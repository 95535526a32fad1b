"""Metrics over seeds: means and differences with intervals that hold for other seeds and other patients."""

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
    BootstrapDraws,
    Estimate,
    GroupBootstrap,
    bootstrap_interval,
    too_few_groups,
    undefined,
    without_interval,
)

_BIASED = ("ece",)
"""Metrics that resampling itself biases; see :func:`reslink.metrics.intervals.bootstrap_interval`."""

MIN_SEEDS = 3
"""Two seeds give a variance with one degree of freedom, and an interval that is six times wider."""

Floats: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[Floats], Mapping[str, Floats]]
Key: TypeAlias = tuple[str, int]
"""Condition and seed of a trial."""
Term: TypeAlias = tuple[float, Key]
"""A trial with the factor of its metric in a sum, such as −1 in a difference."""


@dataclass(frozen=True)
class TrialSample:
    """The test cases of one trial, as input of the bootstrap.

    Attributes:
        groups: (n,) patient or duplicate group of each test case.
        statistic: Returns metrics (m,) by name for (m, n) case weights.
        effective_groups: For each metric, the number of groups that determine it, such as those with a case of the rarest
            class; a metric that is not listed depends on all groups.
    """

    groups: Sequence[str]
    statistic: Statistic
    effective_groups: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SeedEstimate:
    """A metric over seeds with its two-sided test against zero.

    Attributes:
        estimate: The metric with its interval.
        p_value: 0 to 1; None without a test.
        p_holm: The p-value after Holm's correction, if several tests were made.
    """

    estimate: Estimate
    p_value: float | None = None
    p_holm: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        return asdict(self.estimate) | {"p_value": self.p_value, "p_holm": self.p_holm}


class SeedBootstrap:
    """The trials of an experiment, resampled together, so metrics of two trials can be subtracted draw by draw.

    A draw takes patients or duplicate groups with replacement from those of all test splits. A group in the test splits
    of several trials is drawn equally often in each.

    Args:
        samples: The trials by condition and seed.
        draws: Number of bootstrap draws.
        seed: Seed of the draws.
        why_none: Why a condition has no trial, for its undefined estimates.
    """

    def __init__(
        self, samples: Mapping[Key, TrialSample], draws: int = 1000, seed: int = 0, why_none: str = "no run has a result"
    ) -> None:
        self.samples, self.why_none = dict(samples), why_none
        groups = [np.asarray(sample.groups, dtype=str) for sample in self.samples.values()]
        ends = np.cumsum([0, *(len(names) for names in groups)])
        self.slices = {key: slice(int(ends[i]), int(ends[i + 1])) for i, key in enumerate(self.samples)}
        self.n_groups = len(np.unique(np.concatenate(groups))) if groups else 0
        self.points = {key: _point_metrics(sample) for key, sample in self.samples.items()}
        self.drawn: dict[str, BootstrapDraws] = {}
        if self.n_groups >= MIN_GROUPS:
            self.drawn = GroupBootstrap(np.concatenate(groups), draws, seed).apply(self._metrics)

    def _metrics(self, weights: Floats) -> dict[str, Floats]:
        return {
            _column(key, name): values
            for key, sample in self.samples.items()
            for name, values in sample.statistic(weights[:, self.slices[key]]).items()
        }

    def seeds(self, *conditions: str) -> list[int]:
        """Returns the seeds for which all given conditions have a trial."""
        by_condition = [{seed for name, seed in self.samples if name == condition} for condition in conditions]
        return sorted(set.intersection(*by_condition)) if by_condition else []

    def mean(self, condition: str, metric: str, limits: tuple[float, float] = (0.0, 1.0)) -> SeedEstimate:
        """Returns the mean of a metric over the seeds of a condition; its interval is clipped to the limits."""
        return self._estimate(metric, [[(1.0, (condition, seed))] for seed in self.seeds(condition)], limits)

    def difference(self, condition: str, reference: str, metric: str) -> SeedEstimate:
        """Returns a metric of a condition minus that of another, the mean over their common seeds."""
        seeds = self.seeds(condition, reference)
        pairs: list[list[Term]] = [[(1.0, (condition, seed)), (-1.0, (reference, seed))] for seed in seeds]
        return self._estimate(metric, pairs, (-1.0, 1.0))

    def mean_of(self, conditions: Sequence[str], metric: str, minus: Sequence[str] = ()) -> SeedEstimate:
        """Returns the mean of a metric over conditions and their common seeds, each condition with the same weight.

        Args:
            conditions: At least one.
            metric: Name of the metric.
            minus: Conditions whose mean is subtracted; empty for none.
        """
        weights = [(1 / len(conditions), name) for name in conditions] + [(-1 / len(minus), name) for name in minus]
        terms = [[(weight, (name, seed)) for weight, name in weights] for seed in self.seeds(*conditions, *minus)]
        return self._estimate(metric, terms, (-1.0, 1.0) if minus else (0.0, 1.0))

    def spread(self, condition: str, metric: str) -> float | None:
        """Returns the standard deviation of a metric over seeds; None with fewer than two."""
        values = [self.points[condition, seed][metric] for seed in self.seeds(condition)]
        return float(np.std(values, ddof=1)) if len(values) > 1 and np.isfinite(values).all() else None

    def _estimate(self, metric: str, terms: Sequence[Sequence[Term]], limits: tuple[float, float]) -> SeedEstimate:
        """Returns the mean over seeds of a weighted sum of trials; ``terms`` has one list per seed."""
        n = sum(len(self.samples[key].groups) for row in terms for factor, key in row if factor > 0)
        values = np.array([sum(sign * self.points[key].get(metric, math.nan) for sign, key in row) for row in terms])
        if not len(values):
            return SeedEstimate(undefined(self.why_none, 0))
        if not np.isfinite(values).all():
            missing = [row[0][1][1] for row, value in zip(terms, values, strict=True) if not np.isfinite(value)]
            return SeedEstimate(undefined(f"it is undefined for the seeds {', '.join(map(str, missing))}", n))
        min_groups = min(self._effective_groups(key, metric) for row in terms for _, key in row)
        if not self.drawn or min_groups < MIN_GROUPS:
            return SeedEstimate(without_interval(float(values.mean()), too_few_groups(min_groups), n))
        draws, biased = [self._combine(row, metric) for row in terms], limits if metric in _BIASED else None
        result = seed_mean(values, draws, n, self.n_groups, biased)
        low, high = result.estimate.ci_low, result.estimate.ci_high
        if low is None or high is None:
            return result
        clipped = replace(result.estimate, ci_low=max(limits[0], low), ci_high=min(limits[1], high))
        return replace(result, estimate=clipped)

    def _effective_groups(self, key: Key, metric: str) -> int:
        return min(self.n_groups, self.samples[key].effective_groups.get(metric, self.n_groups))

    def _combine(self, terms: Sequence[Term], metric: str) -> BootstrapDraws:
        """Returns the weighted sum of the draws of several trials."""
        drawn = [(sign, self.drawn[_column(key, metric)]) for sign, key in terms]
        return BootstrapDraws(
            np.asarray(sum(sign * draws.values for sign, draws in drawn)),
            np.asarray(sum(sign * draws.jackknife for sign, draws in drawn)),
        )


def _point_metrics(sample: TrialSample) -> dict[str, float]:
    metrics = sample.statistic(np.ones((1, len(sample.groups))))
    return {name: float(values[0]) for name, values in metrics.items()}


def _column(key: Key, metric: str) -> str:
    return f"{key[0]}\0{key[1]}\0{metric}"


def seed_mean(
    values: Floats,
    draws: Sequence[BootstrapDraws],
    n: int,
    n_groups: int,
    biased: tuple[float, float] | None = None,
) -> SeedEstimate:
    """Returns the mean of a metric over seeds, with an interval for new seeds and new patients and the test against 0.

    Seeds correspond to readers in a multi-reader study. So this is the analysis of Obuchowski and Rockette (1995,
    Communications in Statistics 24:285) with the degrees of freedom of Hillis (2007, Statistics in Medicine 26:596) for one
    difference. The variance of the mean of R seeds is S²/R + c. S² is the variance of the metric over seeds. c, at least 0,
    is the covariance of two seeds that are evaluated on the same patients, from a bootstrap over groups. The variance is at
    least that of the mean over the draws, so seeds that agree by chance do not make it too small. Fewer than ``MIN_SEEDS``
    seeds say too little about other seeds: then the interval is that of the bootstrap over groups, for these networks only.

    Args:
        values: (R,) the metric of each seed.
        draws: The bootstrap values of each seed; all seeds use the same draws.
        n: Total number of cases.
        n_groups: Number of groups that were drawn.
        biased: The limits of a metric that resampling itself biases; None for another metric.
    """
    mean = float(values.mean())
    drawn = np.stack([seed_draws.values for seed_draws in draws])
    defined = np.asarray(np.isfinite(drawn).all(axis=0), np.bool_)
    if 1 - defined.mean() > MAX_UNDEFINED:
        reason = f"{(~defined).sum()} of {len(defined)} bootstrap draws leave it undefined"
        return SeedEstimate(without_interval(mean, reason, n))
    if len(values) < MIN_SEEDS:
        return _few_seeds(mean, draws, n, n_groups, biased)
    between = float(values.var(ddof=1)) / len(values)
    covariance = np.cov(drawn[:, defined])
    shared = max(0.0, float((covariance.sum() - np.trace(covariance)) / (len(values) * (len(values) - 1))))
    variance = max(between + shared, float(drawn[:, defined].mean(axis=0).var(ddof=1)))
    if variance < 1e-18:
        return SeedEstimate(without_interval(mean, "it is the same in every seed and every draw", n))
    freedom = variance**2 / between**2 * (len(values) - 1) if between > 0 else math.inf
    margin = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(variance)
    method = f"t interval over {len(values)} seeds and {n_groups} groups (Obuchowski-Rockette, Hillis), {len(defined)} draws"
    p_value = float(2 * t.sf(abs(mean) / math.sqrt(variance), freedom))
    return SeedEstimate(Estimate(mean, mean - margin, mean + margin, method, n), p_value)


def _few_seeds(
    mean: float, draws: Sequence[BootstrapDraws], n: int, n_groups: int, biased: tuple[float, float] | None
) -> SeedEstimate:
    """Returns the mean with the interval over patients, for these networks only."""
    seeds = len(draws)
    averaged = BootstrapDraws(
        np.asarray(sum(seed_draws.values for seed_draws in draws) / seeds),
        np.asarray(sum(seed_draws.jackknife for seed_draws in draws) / seeds),
    )
    limits = biased or (0.0, 1.0)
    estimate = bootstrap_interval(mean, averaged, n, n_groups, biased=biased is not None, limits=limits)
    spread = float(np.nanstd(averaged.values, ddof=1))
    p_value = float(2 * norm.sf(abs(mean) / spread)) if spread > 1e-12 else None
    note = f"{seeds} {'seed' if seeds == 1 else 'seeds'} only: it holds for these networks, other seeds may differ more"
    return SeedEstimate(replace(estimate, method=f"{estimate.method}; {note}"), p_value)


def holm_corrected(tests: Sequence[SeedEstimate]) -> list[SeedEstimate]:
    """Returns tests with Holm's correction for their number."""
    return [replace(test, p_holm=p) for test, p in zip(tests, holm([test.p_value for test in tests]), strict=True)]
