"""Folds and hold-out of a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from reslink.datasets.manifest import Manifest
from reslink.errors import CheckFailedError, UsageError
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.tune.parts import make_parts


def test_the_holdout_is_in_no_fold_and_each_other_case_is_tested_once(
    toy_patients: Manifest, make_experiment: Callable[..., Experiment]
) -> None:
    experiment = make_experiment(toy_patients)
    parts = make_parts(experiment, 4, 0.25)
    holdout = {i for i, split in enumerate(parts.final) if split == "test"}
    assert len(holdout) == 24
    tested = [i for splits in parts.folds for i, split in enumerate(splits) if split == "test"]
    assert sorted([*tested, *holdout]) == list(range(96))
    for splits in parts.folds:
        assert {i for i, split in enumerate(splits) if split == "holdout"} == holdout
        assert {"train", "validation", "test"} < set(splits)
    assert {parts.final[i] for i in tested} == {"train", "validation"}
    assert not parts.given
    for splits in (*parts.folds, parts.final):
        by_patient: dict[str, set[str]] = {}
        for case, split in zip(experiment.cache.manifest.cases, splits, strict=True):
            by_patient.setdefault(str(case.patient_id), set()).add(split)
        assert all(len(names) == 1 for names in by_patient.values())


def test_the_recipe_of_a_run_states_its_fold(toy_patients: Manifest, make_experiment: Callable[..., Experiment]) -> None:
    experiment = make_experiment(toy_patients)
    trial = make_parts(experiment, 4, 0.25).trial(7, 2, experiment.recipe)
    assert (trial.recipe.data.folds, trial.recipe.data.fold, trial.recipe.data.holdout) == (4, 2, 0.25)
    assert trial.name == "trial 7, fold 3, seed 0"


def with_test_patients(manifest: Manifest, n: int, leak: bool = False) -> Manifest:
    cases = [replace(case, split="test" if int(case.patient_id or 0) < n else "train") for case in manifest.cases]
    if leak:
        cases[0] = replace(cases[0], split="train")
    return replace(manifest, cases=tuple(cases))


def test_a_given_test_split_is_the_holdout(toy_patients: Manifest, make_experiment: Callable[..., Experiment]) -> None:
    experiment = make_experiment(with_test_patients(toy_patients, 8))
    parts = make_parts(experiment, 3, 0.4)
    assert parts.given
    assert [case.split == "test" for case in experiment.cache.manifest.cases] == [split == "test" for split in parts.final]


def test_a_given_test_split_that_leaks_is_refused(toy_patients: Manifest, make_experiment: Callable[..., Experiment]) -> None:
    with pytest.raises(CheckFailedError, match=r"A patient appears in two parts"):
        make_parts(make_experiment(with_test_patients(toy_patients, 8, leak=True)), 3, 0.2)


def test_too_few_patients_are_refused(toy_patients: Manifest, make_experiment: Callable[..., Experiment]) -> None:
    few = toy_patients.subset(range(16))
    with pytest.raises(UsageError, match=r"For 6 folds and a hold-out each class needs at least 7 groups"):
        make_parts(make_experiment(few), 6, 0.2)


def test_a_holdout_without_a_class_is_refused(toy_patients: Manifest, make_experiment: Callable[..., Experiment]) -> None:
    cases = [replace(case, split="test" if i < 2 else "train") for i, case in enumerate(toy_patients.cases)]
    with pytest.raises(UsageError, match=r"There is no image of 'Tumor' in the hold-out. The AUROC needs each class"):
        make_parts(make_experiment(replace(toy_patients, cases=tuple(cases))), 3, 0.2)
