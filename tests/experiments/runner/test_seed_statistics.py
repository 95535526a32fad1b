"""Intervals over seeds: they hold what they promise, for other seeds and other patients."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from reslink.experiments.runner.compare_arms import sample
from reslink.experiments.runner.results import Cases
from reslink.experiments.runner.seed_statistics import OverSeeds, Runs, Sample, corrected, over_seeds, undefined
from reslink.metrics.intervals import Draws


def mean_of(values: np.ndarray) -> Sample:
    groups = [f"g{i}" for i in range(len(values))]
    return Sample(groups, lambda weights: {"accuracy": weights @ values / np.maximum(weights.sum(axis=1), 1)})


@pytest.mark.parametrize(("seed_noise", "case_noise"), [(0.02, 0.3), (0.05, 0.05), (0.0, 0.3)])
def test_the_interval_holds_the_truth_as_often_as_it_says(seed_noise: float, case_noise: float) -> None:
    """Simulated differences 0.1 + seed + patient + rest, the patients shared by all seeds: 93 to 99 % of 500 studies."""
    rng, hits, studies, seeds, cases = np.random.default_rng(1), 0, 500, 4, 60
    counts = rng.multinomial(cases, np.full(cases, 1 / cases), size=200) / cases
    for _ in range(studies):
        values = 0.1 + rng.normal(0, seed_noise, (seeds, 1)) + rng.normal(0, case_noise, cases)
        values = values + rng.normal(0, 0.1, (seeds, cases))
        draws = [Draws(counts @ row, np.zeros(1)) for row in values]
        found = over_seeds(values.mean(axis=1), draws, cases, cases).estimate
        assert found.ci_low is not None
        assert found.ci_high is not None
        hits += found.ci_low <= 0.1 <= found.ci_high
    assert 0.93 <= hits / studies <= 0.99


def test_seeds_that_share_no_patients_give_the_t_interval() -> None:
    """Oracle: scipy's t test, where draws tell of no shared variance."""
    values = np.array([0.02, 0.05, 0.03, 0.08])
    draws = [Draws(np.full(100, value), np.zeros(1)) for value in values]
    found, oracle = over_seeds(values, draws, 100, 50), ttest_1samp(values, 0.0)
    interval = oracle.confidence_interval(0.95)
    assert found.p_value == pytest.approx(oracle.pvalue)
    assert (found.estimate.ci_low, found.estimate.ci_high) == pytest.approx((interval.low, interval.high))


def test_two_seeds_say_that_they_are_few() -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((2, 40)) < 0.8).astype(float)
    found = Runs({("full", seed): mean_of(values[seed]) for seed in (0, 1)}).mean("full", "accuracy")
    assert found.estimate.estimate == pytest.approx(values.mean())
    assert "2 seeds only" in found.estimate.method


def test_a_difference_is_taken_on_the_same_draws() -> None:
    """Two arms with the same answers differ by nothing, however the patients are drawn."""
    values = (np.random.default_rng(0).random((3, 40)) < 0.8).astype(float)
    runs = Runs({(arm, seed): mean_of(values[seed]) for arm in ("full", "other") for seed in range(3)})
    found = runs.difference("other", "full", "accuracy").estimate
    assert (found.estimate, found.ci_low) == (0.0, None)
    assert "same in every seed" in found.method


def test_a_planted_difference_is_found_and_chance_is_not() -> None:
    rng = np.random.default_rng(3)
    ease = rng.random(200)
    answers = {
        (arm, seed): mean_of((ease + rng.normal(0, 0.1, 200) > cut).astype(float))
        for arm, cut in (("full", 0.2), ("same", 0.2), ("worse", 0.4))
        for seed in range(3)
    }
    runs = Runs(answers)
    same, worse = corrected([runs.difference(arm, "full", "accuracy") for arm in ("same", "worse")])
    assert worse.p_holm is not None
    assert worse.p_holm < 0.01
    assert worse.estimate.ci_high is not None
    assert worse.estimate.ci_high < 0
    assert same.p_holm is not None
    assert same.p_holm > 0.05


def test_few_groups_give_no_interval() -> None:
    found = Runs({("full", seed): mean_of(np.array([1.0, 0.0, 1.0])) for seed in range(3)}).mean("full", "accuracy")
    assert found.estimate.ci_low is None
    assert "3 groups" in found.estimate.method


def test_a_figure_that_rests_on_few_groups_of_a_class_has_no_interval() -> None:
    """60 patients, 3 of them with the positive class: accuracy has an interval, AUROC and its difference have none."""
    cases = Cases(
        names=[str(i) for i in range(60)],
        groups=[f"p{i}" for i in range(60)],
        truth=np.array([1] * 3 + [0] * 57),
        scores=np.stack([np.linspace(0.1, 0.9, 60), np.linspace(0.9, 0.1, 60)], axis=1),
        calls=np.array([1] * 4 + [0] * 56),
    )
    assert cases.rests_on() == {"sensitivity": 3, "specificity": 57, "auroc": 3}
    runs = Runs({(arm, seed): sample(cases) for arm in ("full", "other") for seed in range(3)})
    for found in (runs.mean("full", "auroc"), runs.difference("other", "full", "auroc"), runs.mean("full", "sensitivity")):
        assert (found.estimate.ci_low, found.p_value) == (None, None)
        assert "rests on 3 groups" in found.estimate.method
    assert runs.mean("full", "specificity").estimate.ci_low is not None


def test_an_arm_without_runs_has_a_reason_and_no_number() -> None:
    runs = Runs({("full", 0): mean_of(np.ones(12))})
    found = runs.difference("gone", "full", "accuracy")
    assert found == OverSeeds(undefined("no run has a result", 0))


def test_a_figure_that_a_seed_lacks_is_named() -> None:
    lacking = Sample([f"g{i}" for i in range(12)], lambda weights: {"auroc": np.full(len(weights), np.nan)})
    found = Runs({("full", 5): lacking}).mean("full", "auroc").estimate
    assert found.estimate is None
    assert "seeds 5" in found.method
