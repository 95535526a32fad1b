"""The key of a trial: a hash of everything that determines its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from reslink.datasets.manifest import Manifest
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.trial import SharedData, Trial
from reslink.training.recipe.recipe import load_recipe, network_settings


def test_the_key_depends_on_all_that_determines_the_weights(
    toy_patients: Manifest, make_experiment: Callable[..., Experiment]
) -> None:
    experiment = make_experiment(toy_patients)
    data = SharedData(toy_patients, "digest", ("a",), experiment.out, ("a",))
    splits = ("train", "test")
    trial = Trial("full", 0, experiment.make_recipe(0), splits)
    more_workers = make_experiment(toy_patients, "trainer.workers=3").make_recipe(0)
    same = Trial("other name", 0, more_workers, splits, measure_attention=True)
    others = [
        Trial("full", 0, experiment.make_recipe(1), splits),
        Trial("full", 0, experiment.make_recipe(0, {"model.attention": "none"}), splits),
        Trial("full", 0, experiment.make_recipe(0), ("test", "train")),
        Trial("full", 0, experiment.make_recipe(0), splits, view="outside"),
    ]
    assert same.key(data) == trial.key(data)
    assert len({trial.key(data), *(other.key(data) for other in others)}) == 5
    assert trial.key(data) != trial.key(SharedData(toy_patients, "another digest", ("a",), experiment.out, ("a",)))


def test_the_sources_determine_the_weights_only_if_they_are_balanced(
    toy_patients: Manifest, make_experiment: Callable[..., Experiment]
) -> None:
    experiment = make_experiment(toy_patients)
    stated = [
        replace(toy_patients, cases=tuple(replace(case, source=names[i % 2]) for i, case in enumerate(toy_patients.cases)))
        for names in (("A", "B"), ("B", "A"))
    ]
    for balanced, count in ((False, 1), (True, 2)):
        trial = Trial("full", 0, experiment.make_recipe(0, {"data.balance_sources": balanced}), ("train", "test"))
        keys = {trial.key(SharedData(manifest, "digest", ("a",), experiment.out, ("a",))) for manifest in stated}
        assert len(keys) == count


def test_a_folder_names_all_its_conditions_once(tmp_path: Path) -> None:
    recipe = load_recipe(None)
    for condition in ("fold 0", "fold 0", "full"):
        Trial(condition, 0, recipe, ()).record_condition(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "conditions.json").read_text()) == {"conditions": ["fold 0", "full"]}


def test_the_key_depends_on_the_code_of_your_own_network(toy_patients: Manifest, tmp_path: Path) -> None:
    code = tmp_path / "nets.py"
    code.write_text("def build(): ...\n")
    data = SharedData(toy_patients, "digest", ("a",), tmp_path, ("a",))
    recipe = load_recipe(None, network_settings(f"{code}:build").items())
    key = Trial("full", 0, recipe, ("train",)).key(data)
    assert Trial("full", 0, recipe, ("train",)).key(data) == key
    code.write_text("def build(): return 1\n")
    assert Trial("full", 0, recipe, ("train",)).key(data) != key
