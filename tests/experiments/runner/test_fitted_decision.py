"""The decision that a recipe asks for."""

from __future__ import annotations

import numpy as np
import pytest

from reslink.evaluation.fitting import CalibrationData
from reslink.experiments.runner.fitted_decision import criterion_of, fit_recipe_decision
from reslink.labels import Labels
from reslink.training.recipe.schema import DecisionSettings

BINARY = Labels(("Healthy", "Tumor"))


def cases(rng: np.random.Generator, n: int = 60) -> CalibrationData:
    y_true = np.arange(n) % 2
    logits = np.column_stack([np.zeros(n), 2 * y_true - 0.3 + rng.normal(0, 1, n)])
    return CalibrationData(logits, rng.normal(size=(n, 4)), rng.normal(size=(n, 33)), y_true, [str(i) for i in range(n)])


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_a_threshold_of_the_recipe_is_kept(threshold: float, rng: np.random.Generator) -> None:
    decision, _ = fit_recipe_decision(DecisionSettings(threshold=threshold), cases(rng), BINARY)
    assert (decision.threshold, decision.threshold_source) == (threshold, "set by the recipe")
    assert decision.temperature != 1
    assert decision.conformal is not None
    assert decision.ood is not None


def test_a_criterion_chooses_the_threshold(rng: np.random.Generator) -> None:
    decision, _ = fit_recipe_decision(DecisionSettings(threshold="youden"), cases(rng), BINARY, ood=False)
    assert decision.threshold_source == "Youden index on 60 calibration images"
    assert decision.ood is None


def test_flip_averaging_of_the_recipe_is_kept(rng: np.random.Generator) -> None:
    assert fit_recipe_decision(DecisionSettings(flip_average=True), cases(rng), BINARY)[0].flip_average


def test_more_than_two_classes_have_no_criterion() -> None:
    assert criterion_of(DecisionSettings(threshold="youden"), Labels(("a", "b", "c"))) == "default"
