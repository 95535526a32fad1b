"""Differences of proportions: published examples and simulations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from reslink.metrics.intervals import Estimate, wilson_interval, without_interval
from reslink.metrics.paired_proportions import independent_difference, paired_difference


def proportion(successes, n, method="wilson"):
    interval = binomtest(successes, n).proportion_ci(method=method)
    return Estimate(successes / n, interval.low, interval.high, "Wilson", n)


def test_it_is_newcombes_interval_for_two_proportions():
    """Newcombe 1998, Statistics in Medicine 17:873, table II, method 10: 56/70 - 48/80 is 0.2 (0.0524 to 0.3339)."""
    difference = independent_difference(proportion(56, 70), proportion(48, 80))
    assert difference.estimate == pytest.approx(0.2)
    assert (difference.ci_low, difference.ci_high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference.n == 150


def test_the_interval_has_its_nominal_coverage():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        difference = independent_difference(
            proportion(int(rng.binomial(120, 0.9)), 120), proportion(int(rng.binomial(90, 0.7)), 90)
        )
        covered += difference.ci_low <= 0.2 <= difference.ci_high
    assert 0.93 <= covered / 1000 <= 0.97


def test_a_metric_without_an_interval_or_a_value_gives_the_reason():
    known = proportion(8, 10)
    bare = Estimate(0.5, None, None, "no interval: few groups", 4)
    missing = Estimate(None, None, None, "undefined: no case of 'Tumor'", 0)
    assert independent_difference(known, bare).estimate == pytest.approx(0.3)
    assert independent_difference(known, bare).method == "no interval: few groups"
    assert independent_difference(known, missing).estimate is None
    assert "no case of 'Tumor'" in independent_difference(missing, known).method


def test_duplicates_do_not_narrow_a_paired_difference():
    differences, index = np.repeat([1.0, -1.0, 0.0], [6, 2, 52]), np.arange(60)
    once, copied = paired_difference(differences, index), paired_difference(np.repeat(differences, 5), np.repeat(index, 5))
    assert (copied.ci_low, copied.ci_high) == pytest.approx((once.ci_low, once.ci_high))


@pytest.mark.parametrize("max_size", [1, 4])
def test_paired_differences_have_nominal_coverage_with_few_disagreements(rng, max_size):
    truth, covered = norm.cdf(0.9) - norm.cdf(0.9 / np.sqrt(1.49)), []
    for _ in range(800):
        index = np.repeat(np.arange(40), rng.integers(1, max_size + 1, 40))
        noise = [np.sqrt(0.6) * rng.normal(size=40)[index] + np.sqrt(0.4) * rng.normal(size=len(index)) for _ in "ab"]
        score = 0.9 + noise[0]
        result = paired_difference((score > 0).astype(float) - (score + 0.7 * noise[1] > 0), index)
        covered.append(result.ci_low <= truth <= result.ci_high)
    assert 0.925 < np.mean(covered) < 0.985


def test_newcombe_interval_of_two_independent_proportions():
    """Newcombe 1998, Statistics in Medicine 17:873, table II: 56/70 and 48/80, method 10: 0.0524 to 0.3339."""
    result = independent_difference(wilson_interval(56, 70), wilson_interval(48, 80))
    assert (round(result.estimate, 4), round(result.ci_low, 4), round(result.ci_high, 4)) == (0.2, 0.0524, 0.3339)
    assert independent_difference(wilson_interval(0, 0), wilson_interval(1, 2)).estimate is None
    alone = independent_difference(wilson_interval(3, 4), without_interval(0.5, "few", 4))
    assert (alone.estimate, alone.ci_low, alone.method) == (0.25, None, "no interval: few")


def test_few_or_no_disagreements_still_have_an_interval():
    result = paired_difference(np.repeat([1.0, 0.0], [3, 97]), np.arange(100))
    assert result.estimate == pytest.approx(0.03)
    assert result.method == "Agresti-Min interval of paired proportions over 100 groups"
    assert result.ci_low < 0.03 < result.ci_high
    same = paired_difference(np.zeros(100), np.arange(100))
    assert same.ci_low < 0 < same.ci_high, "100 cases that agree do not show that all do"
    assert paired_difference(np.zeros(0), np.zeros(0, int)).estimate is None
    assert paired_difference(np.ones(40), np.arange(40) % 2).method.startswith("no interval: only 2 groups")


def test_agresti_min_computed_by_hand():
    """12 cases that only the first gets right, 4 that only the second does, of 100: Wald's interval of (12.5 − 4.5) / 102."""
    differences = np.repeat([1.0, -1.0, 0.0], [12, 4, 84])
    result = paired_difference(differences, np.arange(100))
    center = 8 / 102
    spread = np.sqrt((17 / 102 - center**2) / 102 * 100 / 99)
    assert (result.estimate, result.ci_low, result.ci_high) == pytest.approx(
        (0.08, center - 1.98422 * spread, center + 1.98422 * spread), abs=1e-5
    )
