"""Intervals against SciPy, against what they promise, and where they must be refused."""

import numpy as np
import pytest
from scipy.stats import bootstrap, norm

from reslink.metrics.intervals import (
    MIN_GROUPS,
    GroupBootstrap,
    bootstrap_interval,
    exact_binomial,
    expanded_tail,
    mean_interval,
    undefined,
)


def coverage(rng, n_groups, trials, truth=0.85):
    """Share of simulated studies whose interval of a sensitivity, clustered in groups of 1 to 15 cases, holds the truth."""
    held = []
    for trial in range(trials):
        groups = np.repeat(np.arange(n_groups), rng.integers(1, 16, n_groups))
        chance = rng.beta(truth * 7 / 3, (1 - truth) * 7 / 3, n_groups)
        right = rng.random(len(groups)) < chance[groups]
        found = mean_interval(right, groups.astype(str), seed=trial, draws=300)
        held.append(found.ci_low is not None and found.ci_low <= truth <= found.ci_high)
    return float(np.mean(held))


def test_exact_binomial_against_published_values():
    found = exact_binomial(81, 263)  # Newcombe 1998, Statistics in Medicine 17:857, table I
    assert (round(found.ci_low, 4), round(found.ci_high, 4)) == (0.2527, 0.3676)
    found = exact_binomial(0, 20)
    assert (found.ci_low, round(found.ci_high, 4)) == (0.0, 0.1684)
    assert exact_binomial(0, 0).estimate is None


def test_bca_of_a_mean_equals_scipy(rng):
    values = rng.exponential(size=40)
    ours = mean_interval(values, [str(i) for i in range(40)], draws=20_000)
    level = 1 - 2 * norm.cdf(expanded_tail(40))
    assert level == pytest.approx(1 - 2 * norm.cdf(-2.0227 * np.sqrt(40 / 39)), abs=1e-4)  # t with 39 degrees of freedom
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", confidence_level=level, rng=1).confidence_interval
    assert ours.method == "BCa bootstrap over 40 groups, 20000 draws"
    assert ours.ci_low == pytest.approx(theirs.low, abs=0.02)
    assert ours.ci_high == pytest.approx(theirs.high, abs=0.02)
    plain = bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", confidence_level=level, rng=1
    ).confidence_interval
    assert abs(plain.high - theirs.high) > 0.04, "the test would not see a percentile interval"


def test_draws_are_means_of_whole_groups(rng):
    groups = np.repeat([str(i) for i in range(10)], [1, 5, 3, 2, 4, 3, 3, 3, 3, 3])
    sample = GroupBootstrap(groups, draws=50, seed=3)
    drawn = sample.apply(lambda weights: {"weights": weights})["weights"]
    for name in np.unique(groups):
        part = drawn.values[:, groups == name]
        assert (part == part[:, :1]).all()
    left = np.sort(30 - drawn.left_out.sum(axis=1))
    np.testing.assert_array_equal(left, np.sort(np.bincount(sample.index)))


def test_many_groups_are_left_out_in_blocks(rng):
    sample = GroupBootstrap([str(i) for i in range(2000)], draws=10)
    drawn = sample.apply(lambda weights: {"sum": weights.sum(axis=1)})["sum"]
    np.testing.assert_array_equal(drawn.left_out, 1996.0)
    np.testing.assert_array_equal(drawn.values, 2000.0)


@pytest.mark.parametrize(("n_groups", "least"), [(15, 0.86), (50, 0.9)])
def test_the_interval_over_groups_holds_the_truth(rng, n_groups, least):
    assert coverage(rng, n_groups, 250) >= least


def test_cases_taken_for_independent_would_promise_too_much(rng):
    held = []
    for _ in range(200):
        groups = np.repeat(np.arange(40), rng.integers(1, 16, 40))
        right = rng.random(len(groups)) < rng.beta(0.85 * 7 / 3, 0.15 * 7 / 3, 40)[groups]
        found = exact_binomial(int(right.sum()), len(right))
        held.append(found.ci_low <= 0.85 <= found.ci_high)
    assert np.mean(held) < 0.85


def test_too_few_groups_are_refused_for_a_reason(rng):
    found = mean_interval(rng.random(50), [str(i % (MIN_GROUPS - 1)) for i in range(50)])
    assert found.ci_low is None
    assert found.method.startswith("no interval: it rests on 9 groups")
    assert mean_interval(rng.random(50), [str(i % MIN_GROUPS) for i in range(50)]).ci_low is not None


def test_unanimous_groups_count_as_one_trial_each():
    found = mean_interval(np.ones(40), [str(i // 10) for i in range(40)])
    assert found.ci_low == pytest.approx(0.025 ** (1 / 4))
    assert (found.estimate, found.ci_high, found.n) == (1.0, 1.0, 40)
    assert "over groups" in found.method
    none = mean_interval(np.zeros(40), [str(i // 10) for i in range(40)])
    assert (none.estimate, none.ci_low) == (0.0, 0.0)


def test_undefined_draws_are_said(rng):
    draws = GroupBootstrap([str(i) for i in range(30)]).apply(lambda w: {"x": w @ rng.random(30) / 30})["x"]
    draws.values[:50] = np.nan
    assert "50 undefined ones left out" in bootstrap_interval(0.5, draws, 30, 30).method
    draws.values[:200] = np.nan
    assert bootstrap_interval(0.5, draws, 30, 30).method == "no interval: 200 of 1000 bootstrap draws leave it undefined"


def test_an_estimate_outside_its_draws_falls_back_to_percentiles(rng):
    draws = GroupBootstrap([str(i) for i in range(30)]).apply(lambda w: {"x": w @ rng.random(30) / 30})["x"]
    assert bootstrap_interval(5.0, draws, 30, 30).method.startswith("percentile bootstrap")


def test_nothing_is_said_as_none():
    assert undefined("no case", 0).as_dict() == {
        "estimate": None,
        "ci_low": None,
        "ci_high": None,
        "method": "undefined: no case",
        "n": 0,
    }
    assert mean_interval([], []).estimate is None


def test_a_count_of_zeros_and_ones_is_no_proportion(rng):
    names = [str(i) for i in range(40)]
    sizes = rng.integers(0, 2, 40)
    assert mean_interval(sizes, names).method.startswith("Wilson")
    assert "bootstrap" in mean_interval(sizes, names, proportion=False).method
    alike = mean_interval(np.ones(40), names, proportion=False)
    assert (alike.estimate, alike.ci_low, alike.method) == (1, None, "no interval: all bootstrap draws give the same value")
