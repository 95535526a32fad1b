"""Intervals against SciPy, their coverage in simulations, and cases without an interval.

``benchmarks/coverage.py`` measures the coverage of more metrics and sample sizes.
"""

import numpy as np
import pytest
from scipy.stats import bootstrap, norm
from sklearn.metrics import roc_auc_score

from reslink.metrics import weighted
from reslink.metrics.intervals import (
    MIN_GROUPS,
    Estimate,
    GroupBootstrap,
    bootstrap_interval,
    exact_binomial_interval,
    expanded_tail,
    mean_interval,
    undefined,
    wilson_interval,
)


def coverage(rng, n_groups, trials, truth=0.85):
    """Returns the coverage of the interval of a sensitivity over groups of 1 to 15 cases."""
    covered = []
    for trial in range(trials):
        groups = np.repeat(np.arange(n_groups), rng.integers(1, 16, n_groups))
        probabilities = rng.beta(truth * 7 / 3, (1 - truth) * 7 / 3, n_groups)
        correct = rng.random(len(groups)) < probabilities[groups]
        result = mean_interval(correct, groups.astype(str), seed=trial, draws=300)
        covered.append(result.ci_low is not None and result.ci_low <= truth <= result.ci_high)
    return float(np.mean(covered))


def test_exact_binomial_against_published_values():
    result = exact_binomial_interval(81, 263)  # Newcombe 1998, Statistics in Medicine 17:857, table I
    assert (round(result.ci_low, 4), round(result.ci_high, 4)) == (0.2527, 0.3676)
    result = exact_binomial_interval(0, 20)
    assert (result.ci_low, round(result.ci_high, 4)) == (0.0, 0.1684)
    assert exact_binomial_interval(0, 0).estimate is None


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
    left = np.sort(30 - drawn.jackknife.sum(axis=1))
    np.testing.assert_array_equal(left, np.sort(np.bincount(sample.index)))


def test_many_groups_are_left_out_in_blocks(rng):
    sample = GroupBootstrap([str(i) for i in range(2000)], draws=10)
    drawn = sample.apply(lambda weights: {"sum": weights.sum(axis=1)})["sum"]
    np.testing.assert_array_equal(drawn.jackknife, 1996.0)
    np.testing.assert_array_equal(drawn.values, 2000.0)


@pytest.mark.parametrize(("n_groups", "least"), [(15, 0.86), (50, 0.9)])
def test_the_interval_over_groups_has_nominal_coverage(rng, n_groups, least):
    assert coverage(rng, n_groups, 250) >= least


def test_treating_cases_as_independent_gives_too_low_coverage(rng):
    covered = []
    for _ in range(200):
        groups = np.repeat(np.arange(40), rng.integers(1, 16, 40))
        correct = rng.random(len(groups)) < rng.beta(0.85 * 7 / 3, 0.15 * 7 / 3, 40)[groups]
        result = exact_binomial_interval(int(correct.sum()), len(correct))
        covered.append(result.ci_low <= 0.85 <= result.ci_high)
    assert np.mean(covered) < 0.85


def test_too_few_groups_give_no_interval_with_the_reason(rng):
    result = mean_interval(rng.random(50), [str(i % (MIN_GROUPS - 1)) for i in range(50)])
    assert result.ci_low is None
    assert result.method.startswith("no interval: only 9 groups")
    assert mean_interval(rng.random(50), [str(i % MIN_GROUPS) for i in range(50)]).ci_low is not None


def test_unanimous_groups_count_as_one_trial_each():
    result = mean_interval(np.ones(40), [str(i // 10) for i in range(40)])
    assert result.ci_low == pytest.approx(0.025 ** (1 / 4))
    assert (result.estimate, result.ci_high, result.n) == (1.0, 1.0, 40)
    assert "over groups" in result.method
    none = mean_interval(np.zeros(40), [str(i // 10) for i in range(40)])
    assert (none.estimate, none.ci_low) == (0.0, 0.0)


def test_undefined_draws_are_reported(rng):
    draws = GroupBootstrap([str(i) for i in range(30)]).apply(lambda w: {"x": w @ rng.random(30) / 30})["x"]
    draws.values[:50] = np.nan
    assert "50 undefined ones left out" in bootstrap_interval(0.5, draws, 30, 30).method
    draws.values[:200] = np.nan
    assert bootstrap_interval(0.5, draws, 30, 30).method == "no interval: 200 of 1000 bootstrap draws leave it undefined"


def test_an_estimate_outside_its_draws_falls_back_to_percentiles(rng):
    draws = GroupBootstrap([str(i) for i in range(30)]).apply(lambda w: {"x": w @ rng.random(30) / 30})["x"]
    assert bootstrap_interval(5.0, draws, 30, 30).method.startswith("percentile bootstrap")


def test_no_cases_give_none():
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


def test_an_estimate_is_read_from_its_json_form():
    estimate = Estimate(0.5, 0.4, 0.6, "Wilson score over cases", 90)
    assert Estimate.from_dict(estimate.as_dict() | {"leakage": True}) == estimate


SIMULATIONS, PATIENTS, GAP, DRAWS = 1000, 60, 1.8, 400
"""400 draws instead of 1,000 make a thousand simulations take about ten seconds; the coverage is at most slightly lower."""


def simulate(rng):
    """60 patients with 1 to 4 images each; the images of a patient have 60 % of their variance in common."""
    groups = np.repeat(np.arange(PATIENTS), rng.integers(1, 5, PATIENTS))
    truth = (np.arange(PATIENTS) % 2 == 0)[groups]
    noise = np.sqrt(0.6) * rng.normal(size=PATIENTS)[groups] + np.sqrt(0.4) * rng.normal(size=len(groups))
    return truth, GAP * truth + noise - GAP / 2, groups.astype(str)


def metrics(weights, truth, score):
    """Returns accuracy, sensitivity and AUROC of weighted samples."""
    correct = ((score >= 0) == truth).astype(float)
    return {
        "accuracy": weighted.ratio(weights @ correct, weights.sum(axis=1)),
        "sensitivity": weighted.ratio(weights @ (correct * truth), weights @ truth),
        "auroc": weighted.roc_auc_score(weights, truth, score),
    }


@pytest.mark.slow
def test_intervals_over_patients_have_nominal_coverage(rng):
    """As `metrics.classification.classification_metrics` makes them, from one bootstrap of the three figures."""
    truths = {"accuracy": norm.cdf(GAP / 2), "sensitivity": norm.cdf(GAP / 2), "auroc": norm.cdf(GAP / np.sqrt(2))}
    effective_groups = {"accuracy": PATIENTS, "sensitivity": PATIENTS // 2, "auroc": PATIENTS // 2}
    covered = {name: [] for name in truths}
    for seed in range(SIMULATIONS):
        truth, score, groups = simulate(rng)
        drawn = GroupBootstrap(groups, DRAWS, seed).apply(lambda weights, t=truth, s=score: metrics(weights, t, s))
        points = metrics(np.ones((1, len(truth))), truth, score)
        if seed < 20:
            assert points["auroc"][0] == pytest.approx(roc_auc_score(truth, score))
        for name, expected in truths.items():
            value = bootstrap_interval(
                float(points[name][0]), drawn[name], len(truth), PATIENTS, effective_groups=effective_groups[name]
            )
            covered[name].append(value.ci_low <= expected <= value.ci_high)
    coverage_rates = {name: float(np.mean(values)) for name, values in covered.items()}
    assert min(coverage_rates.values()) >= 0.93, coverage_rates
    assert max(coverage_rates.values()) <= 0.97, coverage_rates


@pytest.mark.parametrize(("n", "share"), [(30, 0.8), (60, 0.9), (200, 0.95), (500, 0.97)])
def test_wilson_has_nominal_coverage(rng, n, share):
    counts, times = np.unique(rng.binomial(n, share, 20_000), return_counts=True)
    covered = [(result := wilson_interval(int(k), n)).ci_low <= share <= result.ci_high for k in counts]
    assert 0.93 <= np.dot(covered, times) / 20_000 <= 0.97
