"""Two recipes are compared key by key."""

from __future__ import annotations

from reslink.training.recipe.differences import differences


def test_the_differences_of_nested_dictionaries_are_named_with_both_values() -> None:
    before = {"data": "a", "recipe": {"seed": 0, "trainer": {"epochs": 2}}}
    now = {"data": "b", "recipe": {"seed": 0, "trainer": {"epochs": 3, "ema": 0.9}}}
    expected = ["data has changed", "trainer.epochs was 2, is 3", "trainer.ema was None, is 0.9"]
    assert list(differences(before, now)) == expected
    assert list(differences(before, before)) == []
