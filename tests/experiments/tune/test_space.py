"""The space of a search: presets, files, and what is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reslink.errors import UsageError
from reslink.experiments.tune.dimensions import Choice, Range
from reslink.experiments.tune.space import base_values, describe, load_space, preset_names
from reslink.training.recipe.recipe import load_recipe

RECIPE = load_recipe()


def test_the_presets_fit_the_default_recipe_and_grow() -> None:
    assert preset_names() == ["quick", "good", "best"]
    spaces = [set(load_space(None, name, RECIPE).dimensions) for name in preset_names()]
    assert len(spaces[0]) < len(spaces[1]) < len(spaces[2])
    assert load_space(None, None, RECIPE).tree == load_space(None, "quick", RECIPE).tree


def test_the_default_recipe_lies_in_the_smaller_presets() -> None:
    for name in ("quick", "good"):
        space = load_space(None, name, RECIPE)
        assert space.outside(base_values(space, RECIPE, 2)) == []


def test_a_preset_leaves_out_what_only_a_reslink_has() -> None:
    space = load_space(None, "good", load_recipe(None, ["model.variant=resnet18"]))
    assert space.left_out == ("model.area_size", "model.drop_rate")
    assert not any(key.startswith("model.") for key in space.dimensions)


def test_a_file_is_read_as_recipes_are(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("optimizer.lr: {low: 1e-4, high: 1e-2, log: true}\nmodel.area_size: [4, 6, 8]\n")
    space = load_space(tmp_path / "space.yaml", None, RECIPE)
    assert space.dimensions == {"optimizer.lr": Range(1e-4, 1e-2, log=True), "model.area_size": Choice((4, 6, 8))}
    assert space.tree["optimizer.lr"] == {"low": 1e-4, "high": 1e-2, "log": True}
    assert describe(space)[0] == {"key": "optimizer.lr", "values": "0.0001 to 0.01, logarithmic"}


def test_the_schema_decides_what_is_a_whole_number() -> None:
    space = load_space(
        {
            "trainer.epochs": {"low": 1, "high": 3},
            "optimizer.clip_norm": {"low": 0, "high": 5},
            "model.area_size": {"low": 2, "high": 4},
        },
        None,
        RECIPE,
    )
    assert [dimension.whole for dimension in space.dimensions.values() if isinstance(dimension, Range)] == [True, False, True]


def test_a_default_of_the_network_is_a_value_of_the_base_recipe() -> None:
    space = load_space({"model.area_size": [4, 7], "optimizer.lr": [0.1, 0.2]}, None, RECIPE)
    values = base_values(space, RECIPE, 2)
    assert values["model.area_size"] == RECIPE.reslink(2).area_size
    assert "optimizer.lr" in space.outside(values)
    assert space.parameters(values) is None


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"optimizer.lrr": [1e-3, 1e-2]},
            r"unknown key 'optimizer.lrr'. It has dotted recipe keys. Did you mean 'optimizer.lr'?",
        ),
        ({"lr": [1e-3, 1e-2]}, r"Did you mean 'optimizer.lr'?"),
        ({"optimizer": {"low": 1, "high": 2}}, r"optimizer, which is a section. A space has single settings"),
        ({"seed": [0, 1]}, r"contains seed. It is the same in all trials: it would select a lucky seed. Remove seed"),
        ({"data.fold": [0, 1]}, r"contains data.fold. It is the same in all trials: all trials have the same cases"),
        ({"trainer.case": ["slice", "series"]}, r"contains trainer.case. It is the same in all trials: a case is a slice"),
        ({"trainer.slices": [8, 16]}, r"contains trainer.slices. It is the same in all trials: it is only for cases that are"),
        ({"decision.threshold": [0.4, 0.5]}, r"the AUROC does not depend on it"),
        ({"init.parent": ["ct", "mri"]}, r"all trials start from the same parent"),
        ({"model.entry_point": ["a:b", "a:c"]}, r"a space never names code"),
        (
            {"optimizer.lr": {"low": 1, "high": 1000}},
            r"The space of optimizer.lr contains 1000. .*at most 100. Correct optimizer.lr in",
        ),
        ({"optimizer.name": ["adamw", "lion"]}, r"contains lion. optimizer.name is 'lion'"),
        ({"model.area_size": [0, 4]}, r"The space of model.area_size contains 0"),
        ({"model.variant": ["reslink_small", "resnet"]}, r"There is no network variant 'resnet'"),
        ({"optimizer.lr": {"low": float("nan"), "high": 1}}, r"contains nan"),
        ({}, r"The space has no recipe key.*Write for example optimizer.lr"),
    ],
)
def test_what_does_not_fit_the_recipe_is_refused(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_space(tree, None, RECIPE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer.lr: [", r"cannot be read: .*--space takes a YAML file"),
        ("a: 1\na: 2\n", r"the key 'a' is given twice"),
        ("- 1\n", r"has no recipe key"),
        ("optimizer.lr: {low: .nan, high: 1}\n", r"contains nan"),
    ],
)
def test_a_file_that_is_no_space_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_space(tmp_path / "space.yaml", None, RECIPE)


def test_a_missing_file_an_unknown_preset_and_both_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.yaml cannot be read: No such file"):
        load_space(tmp_path / "none.yaml", None, RECIPE)
    with pytest.raises(UsageError, match=r"There is no preset 'quik'.*Did you mean 'quick'"):
        load_space(None, "quik", RECIPE)
    with pytest.raises(UsageError, match=r"--space and --preset were both given"):
        load_space({"optimizer.lr": [1e-3, 1e-2]}, "quick", RECIPE)
