"""What a recipe takes over from the parent of a fine-tuned network, and which parents are refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from reslink.bundles import zoo
from reslink.bundles.bundle import Bundle
from reslink.bundles.record import BUNDLE_JSON, read_record
from reslink.errors import ReslinkError
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels
from reslink.networks.reslink import ResLinkConfig, build_network
from reslink.training.recipe.inheritance import parent_setting
from reslink.training.recipe.recipe import Recipe, load_recipe, recipe_from_dict

CT = read_record(zoo.SHIPPED / "ct" / BUNDLE_JSON)


def of_ct(*sets: str, path: Path | None = None) -> Recipe:
    return load_recipe(path, [("init.parent", "ct"), *sets])


@pytest.fixture
def windows(tmp_path: Path) -> Path:
    """A parent whose three channels are three windows."""
    config = ResLinkConfig(stem_dim=8, dims=(8, 8), depths=(1, 1))
    bundle = Bundle(
        {"name": "reslink_paper", **config.model_dump(mode="json")}, Preprocess(size=64, window="three"), Labels(("a", "b"))
    )
    return bundle.save(tmp_path / "windows", build_network(config, seed=0).state_dict()).folder or tmp_path


def test_shape_and_preprocessing_are_those_of_the_parent() -> None:
    recipe = of_ct()
    assert recipe.preprocess == CT.preprocess != Recipe().preprocess
    architecture = {**recipe.network(2).model_dump(mode="json"), "name": recipe.model.variant}
    assert architecture == CT.architecture
    assert recipe.init.weights_sha256 == CT.weights.sha256
    assert (recipe.trainer, recipe.optimizer, recipe.augment) == (Recipe().trainer, Recipe().optimizer, Recipe().augment)


def test_what_the_recipe_states_wins(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("preprocess:\n  size: 128\nmodel:\n  drop_rate: 0.2\n  area_size: null\n")
    recipe = of_ct("preprocess.isolate_head=false", path=path)
    assert (recipe.preprocess.size, recipe.preprocess.isolate_head, recipe.preprocess.channels) == (128, False, 3)
    assert (recipe.model.drop_rate, recipe.model.area_size) == (0.2, 6)


def test_the_number_of_classes_is_that_of_the_data() -> None:
    assert of_ct().network(4).num_classes == 4


def test_config_yaml_gives_the_same_recipe(tmp_path: Path) -> None:
    recipe = of_ct("preprocess.size=96", "init.freeze=[stem]", "init.lr_factor=0.1")
    (tmp_path / "config.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "config.yaml") == recipe
    assert recipe_from_dict(recipe.published()).published() == recipe.published()


def test_the_path_of_a_parent_is_not_published(windows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(windows, tmp_path / "elsewhere" / "moved")
    here, moved = (load_recipe(None, [("init.parent", str(path))]) for path in (windows, tmp_path / "elsewhere" / "moved"))
    assert here.published() == moved.published()
    assert here.digest() != load_recipe(None, ["preprocess.window=three"]).digest()
    assert yaml.safe_load(here.to_yaml())["init"]["parent"] == "windows"
    monkeypatch.chdir(tmp_path)
    assert yaml.safe_load(moved.to_yaml())["init"]["parent"] == "elsewhere/moved"
    assert str(tmp_path) not in here.to_yaml() + moved.to_yaml()


def test_a_recipe_without_a_parent_is_published_as_before() -> None:
    assert "init" not in Recipe().published()


def test_a_path_is_never_the_name_of_a_shipped_model() -> None:
    assert [parent_setting(value) for value in ("ct", Path("ct"), Path("runs/first"))] == ["ct", "./ct", "runs/first"]


def refusal(*sets: str | tuple[str, str]) -> str:
    with pytest.raises(ReslinkError) as raised:
        load_recipe(None, sets)
    assert raised.value.exit_code == 2
    return str(raised.value)


def test_one_channel_for_three_windows_is_refused(windows: Path) -> None:
    message = refusal(("init.parent", str(windows)), "preprocess.channels=1")
    assert "preprocess.channels is 1, but the channels of" in message
    assert "3 equal channels. Leave out preprocess.channels" in message
    assert load_recipe(None, [("init.parent", str(windows))]).preprocess.window == "three"


def test_another_network_variant_is_refused() -> None:
    message = refusal(("init.parent", "ct"), "model.variant=reslink_small")
    assert "model.variant is reslink_small, but the network of ct is reslink_context. Weights are taken over" in message


def test_other_weights_than_the_recipe_states_are_refused() -> None:
    assert "the recipe states aaaaaaaaaaaa…" in refusal(("init.parent", "ct"), f"init.weights_sha256={'a' * 64}")


def test_a_missing_parent_is_refused(tmp_path: Path) -> None:
    assert "Did you mean 'ct'?" in refusal(("init.parent", "cta"))
    assert "does not exist" in refusal(("init.parent", str(tmp_path / "run")))
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert "This run is not finished" in refusal(("init.parent", str(tmp_path / "run")))


@pytest.mark.parametrize("given", ["", "bundle", "model.onnx"])
def test_a_parent_without_weights_is_refused(given: str, windows: Path) -> None:
    run = windows.parent / "run"
    shutil.copytree(windows, run / "bundle")
    (run / "bundle" / "model.safetensors").rename(run / "bundle" / "model.onnx")
    path = run / "bundle" / given if given == "model.onnx" else run / given
    message = refusal(("init.parent", str(path)))
    assert "is an ONNX model without model.safetensors. --init takes over weights" in message


def test_a_network_that_no_recipe_builds_is_refused(windows: Path) -> None:
    record = json.loads((windows / BUNDLE_JSON).read_text())
    record["architecture"]["name"] = "mine"
    (windows / BUNDLE_JSON).write_text(json.dumps(record))
    assert "A parent is one of reslink_paper" in refusal(("init.parent", str(windows)))


def test_freezing_needs_a_parent() -> None:
    assert "there is no parent" in refusal("init.freeze=[stem]")


def test_a_parent_is_read_without_torch() -> None:
    code = (
        "import sys; from reslink.training.recipe.recipe import load_recipe; load_recipe(None, ['init.parent=ct']); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
