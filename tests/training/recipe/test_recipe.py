"""Recipes: every setting by file and by --set, and what is said about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from reslink.errors import UsageError
from reslink.networks.reslink import ResLinkConfig
from reslink.training.recipe import schema
from reslink.training.recipe.recipe import Recipe, keys, load_recipe, recipe_from_dict


def test_the_defaults_survive_yaml(tmp_path: Path) -> None:
    recipe = load_recipe()
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == recipe
    assert recipe_from_dict(yaml.safe_load(recipe.to_yaml())) == recipe


def test_sets_change_the_file_in_order(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("trainer:\n  epochs: 7\n  batch_size: 16\noptimizer:\n  lr: 1e-3\n")
    recipe = load_recipe(path, ["trainer.epochs=9", "trainer.epochs=11", "model.variant=reslink_paper"])
    assert (recipe.trainer.epochs, recipe.trainer.batch_size, recipe.optimizer.lr) == (11, 16, 0.001)
    assert recipe.network(4).num_classes == 4


@pytest.mark.parametrize(
    ("change", "section", "name", "value"),
    [
        ("optimizer.lr=1e-3", "optimizer", "lr", 1e-3),
        ("optimizer.lr=5", "optimizer", "lr", 5.0),
        ("data.fractions=[0.8, 0.1, 0.1]", "data", "fractions", (0.8, 0.1, 0.1)),
        ("data.class_order=[b, a]", "data", "class_order", ("b", "a")),
        ("data.group_by=none", "data", "group_by", "none"),
        ("preprocess.isolate_head=false", "preprocess", "isolate_head", False),
        ("model.attention=none", "model", "attention", "none"),
        ("model.residual=false", "model", "residual", False),
        ("decision.threshold=youden", "decision", "threshold", "youden"),
        ("decision.threshold=0.3", "decision", "threshold", 0.3),
        ("trainer.workers=null", "trainer", "workers", None),
        ("augment.flip=0", "augment", "flip", 0.0),
    ],
)
def test_values_are_read_as_yaml(change: str, section: str, name: str, value: object) -> None:
    assert getattr(getattr(load_recipe(None, [change]), section), name) == value


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("trainer.epoch", "trainer.epochs"),
        ("epochs", "trainer.epochs"),
        ("lr", "optimizer.lr"),
        ("optimizer.learning_rate", "optimizer."),
        ("trainer.lr", "optimizer.lr"),
        ("loss.label_smooth", "loss.label_smoothing"),
        ("preproces.isolate_head", "preprocess.isolate_head"),
        ("sed", "seed"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, meant: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"{key} is not a setting.*(Did you mean|Choose one of).*{meant}"):
        load_recipe(None, [f"{key}=1"])
    path = tmp_path / "recipe.yaml"
    *parents, name = key.split(".")
    path.write_text(yaml.safe_dump({parents[0]: {name: 1}} if parents else {name: 1}))
    first = parents[0] if parents and parents[0] == "preproces" else key
    with pytest.raises(UsageError, match=f"unknown key '{first}'.*{meant.split('.')[0]}"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("trainer.epochs=0", r"trainer.epochs is 0 \(--epochs 0\). It is a whole number at least 1 and at most 10000"),
        ("trainer.epochs=2.5", r"trainer.epochs is 2.5.*a whole number"),
        ("trainer.epochs='5'", r"trainer.epochs is '5'.*a whole number"),
        ("trainer.epochs=true", r"trainer.epochs is True.*a whole number"),
        ("trainer.batch_size=1", r"trainer.batch_size is 1.*at least 2"),
        ("seed=-1", r"seed is -1 \(--seed -1\).*at least 0"),
        ("optimizer.lr=0", r"optimizer.lr is 0.*a number above 0 and at most 100"),
        ("optimizer.lr=.nan", r"optimizer.lr is .*a number above 0"),
        ("optimizer.name=adamm", r"optimizer.name is 'adamm'. It is one of muon, adamw, adam, sgd"),
        ("data.fractions=[0.5, 0.5]", r"data.fractions is .*a list of 3"),
        ("data.fractions=[0.5, 0.5, 0.5]", r"data.*sum to 1"),
        ("data.fold=2", r"fold is 2"),
        ("preprocess.size=32", r"preprocess.size is 32.*at least 64"),
        ("preprocess.percentiles=[9, 1]", r"percentiles are"),
        ("decision.threshold=1.5", r"decision.threshold is 1.5.*above 0 and below 1 or one of youden, accuracy"),
        ("augment.flip=2", r"augment.flip is 2.*at most 1"),
        ("trainer=5", r"trainer is 5.*a section with the keys epochs"),
        ("model.area_size=0", r"model.area_size is 0.*at least 1"),
        ("model.dims=[16]", r"model.*dims has 1 stages but depths has 3"),
        ("model.variant=reslink_papr", r"reslink_papr.*Did you mean 'reslink_paper'"),
        ("model.stem_order=upside_down", r"model.stem_order is 'upside_down'.*norm_first, pool_first"),
        ("trainer.epochs", r"has no '='.*section.key=value"),
        ("=5", r"names no key"),
        ("trainer.epochs=[1", r"cannot be read"),
    ],
)
def test_a_wrong_value_names_the_key_and_what_is_allowed(change: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe(None, [change])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "it holds a list"),
        ("trainer: {epochs: 5\n", "is not YAML"),
        ("seed: 1\nseed: 2\n", "the key 'seed' is given twice"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_a_file_that_is_not_a_recipe(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_recipe(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.yaml cannot be read: No such file"):
        load_recipe(tmp_path / "nothing.yaml")


def test_a_section_that_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("trainer: 5\n")
    with pytest.raises(UsageError, match="'trainer' is 5"):
        load_recipe(path, ["trainer.epochs=3"])


def test_published_settings_do_not_depend_on_the_machine() -> None:
    recipe = load_recipe(None, ["trainer.workers=3", "trainer.device=cpu"])
    assert recipe.published() == load_recipe().published()
    assert recipe.digest() == load_recipe().digest() != load_recipe(None, ["seed=1"]).digest()
    assert {"workers", "device"}.isdisjoint(recipe.published()["trainer"])


def test_every_field_of_the_network_can_be_set() -> None:
    given_otherwise = {"in_channels"}
    assert set(ResLinkConfig.model_fields) - given_otherwise == set(schema.ModelSettings.model_fields) - {"variant"}
    changes = {"stem_dim": 12, "dims": (12, 24, 48), "depths": (1, 1, 1), "area_size": 3, "residual": False}
    changes |= {"attention": "final", "drop_rate": 0.3, "head_drop_rate": 0.4, "stem_order": "pool_first"}
    recipe = load_recipe(
        None,
        [
            f"model.{key}={yaml.safe_dump(value)}" if not isinstance(value, tuple) else f"model.{key}={list(value)}"
            for key, value in changes.items()
        ],
    )
    assert recipe.network(3).model_dump(include=set(changes)) == changes


def test_the_number_of_logits_fits_the_classes() -> None:
    assert load_recipe(None, ["model.num_classes=1"]).network(2).num_classes == 1
    with pytest.raises(UsageError, match=r"model\.num_classes is 1, but the data has 3 classes"):
        load_recipe(None, ["model.num_classes=1"]).network(3)


def _classes() -> list[type[BaseModel]]:
    return [Recipe] + [
        value
        for value in vars(schema).values()
        if isinstance(value, type) and issubclass(value, BaseModel) and value not in (BaseModel, schema.Section)
    ]


@pytest.mark.parametrize("settings", _classes(), ids=lambda cls: cls.__name__)
def test_every_setting_is_explained(settings: type[BaseModel]) -> None:
    for name in settings.model_fields:
        assert f"\n        {name}: " in (settings.__doc__ or "") or f"\n    {name}: " in (settings.__doc__ or ""), name


def test_all_keys_are_listed() -> None:
    listed = set(keys())
    assert {"seed", "trainer", "trainer.epochs", "preprocess.isolate_head", "augment.rotation", "model.variant"} <= listed


def test_no_class_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model.num_classes"):
        load_recipe(None, ["model.num_classes=0"])


NESTED_ALIASES = "seed: 1\na: &a [x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (NESTED_ALIASES, "values, aliases"),
        ("seed: " + "[" * 3000, "levels deep"),
        ("seed: " + "9" * 5000, "digits"),
        ("seed: 0x" + "f" * 9000, "digits"),
        ("seed: 2001-02-30", "day is out of range"),
        ("2001-02-03: 1", "a key is a word"),
        ("seed: " + "x" * 300_000, "KiB"),
    ],
)
def test_a_hostile_recipe_is_refused_at_once(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=reason) as caught:
        load_recipe(path)
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 800
    if "\n" not in text and text.startswith("seed: "):
        with pytest.raises(UsageError, match="cannot be read"):
            load_recipe(sets=[text.replace(": ", "=")])


def test_aliases_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("augment: &a {}\ntrainer: {epochs: 3}\ndecision: *a\n")
    assert load_recipe(path).trainer.epochs == 3
