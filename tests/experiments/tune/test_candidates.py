"""Recipes of trials: equal trainings have equal digests."""

from __future__ import annotations

from typing import Any

import pytest

from reslink.errors import UsageError
from reslink.experiments.tune.candidates import candidate, training_digest
from reslink.training.recipe.recipe import Recipe, load_recipe

BASE = load_recipe(None, ["optimizer.name=adamw"])


def digest(values: dict[str, Any], base: Recipe = BASE) -> str:
    return training_digest(candidate(base, values, 2)[0], 2)


@pytest.mark.parametrize(
    ("values", "enabling"),
    [
        ({"optimizer.momentum": 0.8}, {"optimizer.name": "sgd"}),
        ({"loss.focal_gamma": 3.0}, {"loss.imbalance": "focal"}),
        ({"attention_supervision.target": "lesion"}, {"attention_supervision.weight": 1.0}),
        ({"augment.enabled": False, "augment.rotation": 20.0}, {"augment.enabled": True}),
    ],
)
def test_a_setting_without_effect_is_that_of_the_base_recipe(values: dict[str, Any], enabling: dict[str, Any]) -> None:
    name = list(values)[-1]
    without = {key: value for key, value in values.items() if key != name}
    assert digest(values) == digest(without)
    assert name not in candidate(BASE, values, 2)[1]
    assert digest(values | enabling) != digest(without | enabling)


def test_a_default_of_the_network_equals_the_same_value_stated() -> None:
    config = BASE.reslink(2)
    assert digest({"model.area_size": config.area_size}) == digest({})
    assert digest({"model.area_size": config.area_size + 1}) != digest({})


def test_folds_and_decision_are_no_part_of_the_digest_but_the_seed_is() -> None:
    for change, same in (
        ("data.folds=5", True),
        ("decision.threshold=0.4", True),
        ("seed=1", False),
        ("trainer.epochs=9", False),
    ):
        changed = load_recipe(None, ["optimizer.name=adamw", change])
        assert (training_digest(changed, 2) == digest({})) is same, change


def test_values_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(UsageError, match=r"area_size can only be set for a ResLink"):
        candidate(BASE, {"model.variant": "resnet18", "model.area_size": 4}, 2)
