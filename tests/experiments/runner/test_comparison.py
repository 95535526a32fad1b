"""Differences in words, and leaked test cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslink.experiments.runner.comparison import difference_sentence, is_significant, none_if_nan, seen_in_training
from reslink.experiments.runner.results import TrialResult
from reslink.experiments.runner.seed_statistics import SeedEstimate
from reslink.experiments.runner.trial import Trial
from reslink.labels import Labels
from reslink.metrics.intervals import Estimate
from reslink.training.recipe.recipe import load_recipe


def test_only_training_and_validation_cases_leak_into_the_test_split() -> None:
    splits = ("train", "test", "validation", "test", "unused", "test", "test")
    groups = ("a", "a", "b", "b", "c", "c", "d")
    trial = Trial("full", 0, load_recipe(None, []), splits)
    leaked = seen_in_training(TrialResult(trial, Path(), Labels(("x", "y"))), groups)
    assert leaked.tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("test", "sentence"),
    [
        (
            SeedEstimate(Estimate(-0.05, -0.09, -0.01, "bootstrap", 20), p_value=0.02, p_holm=0.04),
            "No attention compared with full, accuracy: −0.050 (−0.090 to −0.010, p 0.040), significant.",
        ),
        (
            SeedEstimate(Estimate(-0.05, -0.09, 0.01, "bootstrap", 20), p_value=0.02, p_holm=0.08),
            "No attention compared with full, accuracy: −0.050 (−0.090 to +0.010, p 0.080), not significant.",
        ),
        (
            SeedEstimate(Estimate(0.1, None, None, "only 3 groups", 3)),
            "No attention compared with full, accuracy: +0.100 (only 3 groups); not tested.",
        ),
        (
            SeedEstimate(Estimate(None, None, None, "no run has a result", 0)),
            "No attention compared with full, accuracy: no difference available (no run has a result).",
        ),
    ],
)
def test_a_difference_in_words(test: SeedEstimate, sentence: str) -> None:
    assert difference_sentence("no attention", "full", "accuracy", test).replace("Accuracy", "accuracy") == sentence
    assert is_significant(test) == sentence.endswith(", significant.")


def test_nan_is_not_json() -> None:
    assert (none_if_nan(float("nan")), none_if_nan(None), none_if_nan(0.0)) == (None, None, 0.0)
