"""Recipes: settings by file and by --set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from reslink.errors import UsageError
from reslink.networks.external_config import ExternalConfig
from reslink.training.recipe import schema
from reslink.training.recipe.recipe import changes_of, keys, load_recipe, network_settings, recipe_from_dict


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


def test_options_replace_the_network_and_the_network_replaces_settings() -> None:
    expected = [("seed", 4), ("model.variant", "vit"), ("model.entry_point", None), ("seed", 5)]
    options = {"seed": 5, "trainer.epochs": None}
    assert changes_of({"seed": 4}, options, "vit") == expected
    assert changes_of(["seed=4"], options) == ["seed=4", ("seed", 5)]
    assert load_recipe(None, changes_of({"seed": 4, "trainer.epochs": 3}, options)).seed == 5


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
    recipe = load_recipe(None, ["trainer.workers=3", "trainer.device=cpu", "trainer.verify_files=true"])
    assert recipe.published() == load_recipe().published()
    assert recipe.digest() == load_recipe().digest() != load_recipe(None, ["seed=1"]).digest()
    assert {"workers", "device", "verify_files"}.isdisjoint(recipe.published()["trainer"])


def test_the_number_of_logits_fits_the_classes() -> None:
    assert load_recipe(None, ["model.num_classes=1"]).network(2).num_classes == 1
    with pytest.raises(UsageError, match=r"model\.num_classes is 1, but the data has 3 classes"):
        load_recipe(None, ["model.num_classes=1"]).network(3)


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


def test_a_network_that_is_not_a_reslink() -> None:
    recipe = load_recipe(None, ["model.variant=densenet121", "model.options.growth_rate=16", "preprocess.size=96"])
    config = recipe.network(3)
    assert isinstance(config, ExternalConfig)
    assert (config.source, config.options, config.size, config.num_classes) == ("monai", {"growth_rate": 16}, 96, 3)
    assert recipe.builder() is None
    with pytest.raises(UsageError, match=r"The network is densenet121, which is not a ResLink.*Choose one of them"):
        recipe.reslink(3)
    assert load_recipe(None, network_settings("vit").items()).model.variant == "vit"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["variant=densnet121"], r"no network variant 'densnet121'.*Did you mean 'densenet121'"),
        (["variant=densenet121", "area_size=7"], "area_size can only be set for a ResLink; options are those of densenet121"),
        (["variant=reslink_small", "options={a: 1}"], "options and explanation_layer cannot be set for reslink_small"),
        (
            ["variant=densenet121", "options={pretrained: true}"],
            "densenet121 has no option 'pretrained'; its options are: init_f",
        ),
        (["variant=efficientnet_b0", "options={a: 1}"], "efficientnet_b0 has no option 'a'; its options are: none"),
        (["variant=vit", "options={num_layers: 99}"], "num_layers of vit is 99; it is between 1 and 48"),
        (["variant=vit", "options={num_layers: many}"], "num_layers of vit is 'many'; it is between 1 and 48"),
        (["entry_point=nets.py:build", "variant=vit"], "variant is vit, but the network is that of entry_point"),
        (["options=3"], "options is 3. It is a mapping of names to values"),
    ],
)
def test_settings_that_do_not_fit_a_network(changes: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe(None, [f"model.{change}" for change in changes])


def test_an_entry_point_is_named_after_its_code_and_run_only_to_build(tmp_path: Path) -> None:
    code = tmp_path / "nets.py"
    code.write_text("from pathlib import Path\nPath(__file__).with_name('was_run').touch()\ndef build(): ...\n")
    recipe = load_recipe(None, network_settings(f"{code}:build").items())
    assert recipe.model.variant == "nets.build"
    assert recipe.architecture(2)["entry_point"] == "nets.py:build"
    assert str(tmp_path) not in recipe.to_yaml() + json.dumps(recipe.published()), "no path of this machine"
    assert not (tmp_path / "was_run").exists()
    assert callable(recipe.builder())
    assert (tmp_path / "was_run").exists()


def test_a_callable_stays_with_the_recipe() -> None:
    def build() -> None: ...

    recipe = load_recipe(None, network_settings(build).items()).with_builder(build)
    assert recipe.builder() is build
    assert recipe.model_copy().builder() is build
    assert recipe.model.variant == "test_recipe.test_a_callable_stays_with_the_recipe.<locals>.build"


def test_the_digest_of_a_reslink_has_no_keys_of_other_networks() -> None:
    """So runs and bundles of earlier versions still have the recipe that they state."""
    assert set(schema.EXTERNAL_KEYS).isdisjoint(load_recipe().published()["model"])
    recipes = [load_recipe(None, ["model.variant=vit", f"model.options.num_layers={n}"]) for n in (1, 2)]
    assert recipes[0].digest() != recipes[1].digest()


def test_a_recipe_file_never_runs_code(tmp_path: Path) -> None:
    code, path = tmp_path / "nets.py", tmp_path / "recipe.yaml"
    code.write_text("from pathlib import Path\nPath(__file__).with_name('was_run').touch()\ndef build(): ...\n")
    path.write_text(f"model:\n  entry_point: {code}:build\n")
    with pytest.raises(
        UsageError, match=r"The recipe names code.*A recipe never runs code.*Pass .*nets\.py:build with --network"
    ):
        load_recipe(path, ["seed=3"])
    assert not (tmp_path / "was_run").exists()
    assert callable(load_recipe(path, network_settings(f"{code}:build").items()).builder())
    assert (tmp_path / "was_run").exists()


def test_a_network_by_name_replaces_the_code_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model:\n  entry_point: nets.py:build\n")
    model = load_recipe(path, network_settings("densenet121").items()).model
    assert (model.variant, model.entry_point) == ("densenet121", None)


@pytest.mark.parametrize("imbalance", ["sampler", "weights"])
def test_classes_are_balanced_once(imbalance: str) -> None:
    with pytest.raises(UsageError, match=f"loss.imbalance is {imbalance} beside data.balance_sources.*leave it out"):
        load_recipe(None, ["data.balance_sources=true", f"loss.imbalance={imbalance}"])
    assert load_recipe(None, ["data.balance_sources=true", "loss.imbalance=focal"]).data.balance_sources


def test_recipes_without_the_newer_settings_keep_their_digest() -> None:
    before = load_recipe().digest()
    assert load_recipe(None, ["data.balance_sources=false", "augment.sharpness=0.0"]).digest() == before
    assert load_recipe(None, ["augment.sharpness=0.5"]).digest() != before
