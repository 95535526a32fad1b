"""``reslink experiment``: output of the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reslink.cli.main import app
from reslink.datasets.manifest import Manifest
from reslink.experiments.epochs import epochs
from reslink.experiments.runner.experiment import Experiment
from reslink.files import lock_folder

EXPERIMENTS = ("ablation", "epochs", "leakage", "shortcuts", "data-size", "leave-one-source-out", "robustness")


def invoke(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["experiment", *map(str, words)])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_ends_with_examples(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert f"reslink experiment {name}" in result.stdout.partition("Examples:")[2]


def test_stdout_holds_only_json(toy_patients: Manifest, make_experiment: Callable[..., Experiment]) -> None:
    """The runs are there already, so the command only reads them."""
    made = make_experiment(toy_patients, "trainer.epochs=5")
    before = epochs(made, [1, 2])
    sets = [word for key, value in _changes(made).items() for word in ("--set", f"{key}={value}")]
    result = invoke(
        "epochs", toy_patients.root, "--out", made.out, "--epochs", "1", "2", "--seeds", "1", "--jobs", "1", *sets, "--json"
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["tables"] == before["tables"]
    assert found["research_use_only"] is True
    spoken = invoke("epochs", toy_patients.root, "--out", made.out, "--epochs", "1", "2", "--seeds", "1", "--jobs", "1", *sets)
    assert spoken.stdout.splitlines() == before["answer"]
    assert "Research use only" in spoken.stderr


def _changes(made: Experiment) -> dict[str, object]:
    from reslink.training.recipe.recipe import Recipe

    usual, own = Recipe().dump(), made.recipe.dump()
    return {
        f"{section}.{key}": json.dumps(value)
        for section, keys in own.items()
        if isinstance(keys, dict)
        for key, value in keys.items()
        if value != usual[section][key]
    }


def test_two_commands_cannot_write_one_experiment(toy_patients: Manifest, tmp_path: Path) -> None:
    with lock_folder(tmp_path / "leakage"):
        result = invoke("leakage", toy_patients.root, "--out", tmp_path, "--jobs", "1")
    assert result.exit_code == 2
    assert "in use by another reslink process" in result.stderr


def test_a_wrong_condition_suggests_the_nearest(toy_patients: Manifest, tmp_path: Path) -> None:
    result = invoke("ablation", toy_patients.root, "--out", tmp_path, "--conditions", "no_atention", "--jobs", "1")
    assert result.exit_code == 2
    assert "Did you mean 'no_attention'" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_data_without_a_source_is_refused_before_an_image_is_read(toy_patients: Manifest, tmp_path: Path) -> None:
    result = invoke("leave-one-source-out", toy_patients.root, "--out", tmp_path, "--jobs", "1")
    assert result.exit_code == 2
    assert "The data states no source" in result.stderr
    assert not (tmp_path / "cache").exists()


def test_several_data_sets_are_the_sources(write_toy_heads: Callable[..., Path], tmp_path: Path) -> None:
    """The toy heads of north are also in south, so nothing is left to train on when south is left out."""
    for name in ("north", "south"):
        (tmp_path / name).mkdir()
    north, south = (write_toy_heads(tmp_path / name, patients) for name, patients in (("north", 8), ("south", 10)))
    words = (north, south, "--out", tmp_path / "out", "--only", "south", "--jobs", "1", "--set", "preprocess.size=64")
    result = invoke("leave-one-source-out", *words)
    assert result.exit_code == 2
    assert "No source can be left out. south is not left out, because the other sources cannot be trained on" in result.stderr


def test_the_earlier_name_of_external_names_the_new_one(tmp_path: Path) -> None:
    result = invoke("transfer", "ct", tmp_path, "--internal", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "'reslink experiment transfer' has become 'reslink external'" in result.stderr
