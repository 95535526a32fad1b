"""Intervals over seeds: nominal coverage for other seeds and other patients."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from reslink.experiments.runner.comparison import trial_sample
from reslink.experiments.runner.results import TrialPredictions
from reslink.experiments.runner.seed_statistics import (
    SeedBootstrap,
    SeedEstimate,
    TrialSample,
    holm_corrected,
    seed_mean,
    undefined,
)
from reslink.metrics.intervals import BootstrapDraws


def mean_of(values: np.ndarray) -> TrialSample:
    groups = [f"g{i}" for i in range(len(values))]
    return TrialSample(groups, lambda weights: {"accuracy": weights @ values / np.maximum(weights.sum(axis=1), 1)})


@pytest.mark.parametrize(("seed_noise", "case_noise"), [(0.02, 0.3), (0.05, 0.05), (0.0, 0.3)])
def test_the_interval_has_nominal_coverage(seed_noise: float, case_noise: float) -> None:
    """Simulated differences 0.1 + seed + patient + noise, the patients shared by all seeds: 93 to 99 % of 500 simulations."""
    rng, hits, simulations, seeds, cases = np.random.default_rng(1), 0, 500, 4, 60
    counts = rng.multinomial(cases, np.full(cases, 1 / cases), size=200) / cases
    for _ in range(simulations):
        values = 0.1 + rng.normal(0, seed_noise, (seeds, 1)) + rng.normal(0, case_noise, cases)
        values = values + rng.normal(0, 0.1, (seeds, cases))
        draws = [BootstrapDraws(counts @ row, np.zeros(1)) for row in values]
        result = seed_mean(values.mean(axis=1), draws, cases, cases).estimate
        assert result.ci_low is not None
        assert result.ci_high is not None
        hits += result.ci_low <= 0.1 <= result.ci_high
    assert 0.93 <= hits / simulations <= 0.99


def test_seeds_that_share_no_patients_give_the_t_interval() -> None:
    """The reference is SciPy's t test, if the draws have no shared variance."""
    values = np.array([0.02, 0.05, 0.03, 0.08])
    draws = [BootstrapDraws(np.full(100, value), np.zeros(1)) for value in values]
    result, oracle = seed_mean(values, draws, 100, 50), ttest_1samp(values, 0.0)
    interval = oracle.confidence_interval(0.95)
    assert result.p_value == pytest.approx(oracle.pvalue)
    assert (result.estimate.ci_low, result.estimate.ci_high) == pytest.approx((interval.low, interval.high))


def test_two_seeds_give_a_note() -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((2, 40)) < 0.8).astype(float)
    result = SeedBootstrap({("full", seed): mean_of(values[seed]) for seed in (0, 1)}).mean("full", "accuracy")
    assert result.estimate.estimate == pytest.approx(values.mean())
    assert "2 seeds only" in result.estimate.method


def test_a_difference_is_taken_on_the_same_draws() -> None:
    """Two conditions with the same predictions do not differ, whichever patients are drawn."""
    values = (np.random.default_rng(0).random((3, 40)) < 0.8).astype(float)
    bootstrap = SeedBootstrap(
        {(condition, seed): mean_of(values[seed]) for condition in ("full", "other") for seed in range(3)}
    )
    result = bootstrap.difference("other", "full", "accuracy").estimate
    assert (result.estimate, result.ci_low) == (0.0, None)
    assert "same in every seed" in result.method


def test_the_mean_over_conditions_gives_each_the_same_weight() -> None:
    """The conditions have different patients, as sources have."""
    rng = np.random.default_rng(0)
    sizes, rates = {"small": 40, "large": 400}, {"small": 0.5, "large": 0.9}
    values = {(name, seed): (rng.random(n) < rates[name]).astype(float) for name, n in sizes.items() for seed in range(3)}
    bootstrap = SeedBootstrap({key: mean_of(own) for key, own in values.items()})
    expected = np.mean([np.mean([values[name, seed].mean() for name in sizes]) for seed in range(3)])
    result = bootstrap.mean_of(["small", "large"], "accuracy").estimate
    assert result.estimate == pytest.approx(expected)
    assert result.n == 3 * 440
    assert result.ci_low is not None
    assert result.ci_low < expected
    difference = bootstrap.mean_of(["large"], "accuracy", ["small"])
    assert difference.estimate == bootstrap.difference("large", "small", "accuracy").estimate


def test_the_interval_of_the_calibration_error_holds_the_estimate() -> None:
    """Resampling itself makes the ECE larger: without a shift, the interval would lie above the estimate."""
    rng = np.random.default_rng(5)
    positive = rng.random(60)
    y_true = (rng.random(60) < positive).astype(np.int64)
    predictions = TrialPredictions(
        [str(i) for i in range(60)],
        [str(i) for i in range(60)],
        y_true,
        np.column_stack([1 - positive, positive]),
        (positive > 0.5).astype(np.int64),
    )
    sample = TrialSample(predictions.groups, lambda weights: {"ece": predictions.metrics(weights)["ece"]})
    result = SeedBootstrap({("full", 0): sample}).mean("full", "ece").estimate
    assert "moved to the estimate" in result.method
    assert result.estimate is not None
    assert result.ci_low is not None
    assert result.ci_low < result.estimate


def test_a_planted_difference_is_significant_and_chance_is_not() -> None:
    rng = np.random.default_rng(3)
    ease = rng.random(200)
    samples = {
        (condition, seed): mean_of((ease + rng.normal(0, 0.1, 200) > cut).astype(float))
        for condition, cut in (("full", 0.2), ("same", 0.2), ("worse", 0.4))
        for seed in range(3)
    }
    bootstrap = SeedBootstrap(samples)
    same, worse = holm_corrected([bootstrap.difference(condition, "full", "accuracy") for condition in ("same", "worse")])
    assert worse.p_holm is not None
    assert worse.p_holm < 0.01
    assert worse.estimate.ci_high is not None
    assert worse.estimate.ci_high < 0
    assert same.p_holm is not None
    assert same.p_holm > 0.05


def test_few_groups_give_no_interval() -> None:
    result = SeedBootstrap({("full", seed): mean_of(np.array([1.0, 0.0, 1.0])) for seed in range(3)}).mean("full", "accuracy")
    assert result.estimate.ci_low is None
    assert "3 groups" in result.estimate.method


def test_a_metric_with_few_groups_of_a_class_has_no_interval() -> None:
    """60 patients, 3 of them with the positive class: accuracy has an interval, AUROC and its difference have none."""
    cases = TrialPredictions(
        names=[str(i) for i in range(60)],
        groups=[f"p{i}" for i in range(60)],
        y_true=np.array([1] * 3 + [0] * 57),
        y_prob=np.stack([np.linspace(0.1, 0.9, 60), np.linspace(0.9, 0.1, 60)], axis=1),
        y_pred=np.array([1] * 4 + [0] * 56),
    )
    assert cases.effective_groups() == {"sensitivity": 3, "specificity": 57, "auroc": 3}
    bootstrap = SeedBootstrap({(condition, seed): trial_sample(cases) for condition in ("full", "other") for seed in range(3)})
    for result in (
        bootstrap.mean("full", "auroc"),
        bootstrap.difference("other", "full", "auroc"),
        bootstrap.mean("full", "sensitivity"),
    ):
        assert (result.estimate.ci_low, result.p_value) == (None, None)
        assert "only 3 groups" in result.estimate.method
    assert bootstrap.mean("full", "specificity").estimate.ci_low is not None


def test_a_condition_without_trials_has_a_reason_and_no_value() -> None:
    bootstrap = SeedBootstrap({("full", 0): mean_of(np.ones(12))})
    result = bootstrap.difference("gone", "full", "accuracy")
    assert result == SeedEstimate(undefined("no run has a result", 0))


def test_an_undefined_metric_names_the_seed() -> None:
    undefined_sample = TrialSample([f"g{i}" for i in range(12)], lambda weights: {"auroc": np.full(len(weights), np.nan)})
    result = SeedBootstrap({("full", 5): undefined_sample}).mean("full", "auroc").estimate
    assert result.estimate is None
    assert "seeds 5" in result.method
