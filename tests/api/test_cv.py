"""``reslink.cv``: its options; the folds, the ensemble and the files are tested with the experiment."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import reslink
from reslink.errors import UsageError
from reslink.experiments.cross_validation import cross_validation


@pytest.fixture
def experiments(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Records the experiments instead of running them."""
    recorded: list[Any] = []

    def cross_validate(experiment: Any, *, distill: bool) -> dict[str, Any]:
        recorded.append((experiment, distill))
        return {"bundle": None, "distilled": None}

    monkeypatch.setattr(cross_validation, "cross_validate", cross_validate)
    return recorded


def test_options_become_settings_of_the_recipe(experiments: list[Any], heads: Path, tmp_path: Path) -> None:
    result = reslink.cv(heads, tmp_path / "cv", folds=4, holdout=0.2, seeds=3, epochs=2, distill=True, jobs=1)
    [(experiment, distill)] = experiments
    assert result == {"bundle": None, "distilled": None}
    assert (experiment.recipe.data.folds, experiment.recipe.data.holdout, experiment.recipe.trainer.epochs) == (4, 0.2, 2)
    assert (experiment.seeds, experiment.jobs, distill) == ((0, 1, 2), 1, True)


def test_several_data_sets_are_joined(experiments: list[Any], heads: Path, tmp_path: Path) -> None:
    shutil.copytree(heads, tmp_path / "other")
    reslink.cv([heads, tmp_path / "other"], tmp_path / "cv", map={"other:Tumor": None})
    [(experiment, _)] = experiments
    assert experiment.manifest.name == "heads, other"
    assert {case.label for case in experiment.manifest.cases if case.source == "other"} == {"Healthy"}


def test_folds_are_those_of_the_option_the_settings_or_the_recipe(experiments: list[Any], heads: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {folds: 7, holdout: 0.1}\n")
    for options in ({}, {"settings": ["data.folds=6"]}, {"settings": ["data.folds=6"], "folds": 4}, {"recipe": recipe}):
        reslink.cv(heads, tmp_path / "cv", seeds=[5], **options)  # type: ignore[arg-type]
    assert [experiment.recipe.data.folds for experiment, _ in experiments] == [5, 6, 4, 7]
    assert experiments[-1][0].recipe.data.holdout == 0.1
    assert experiments[-1][0].seeds == (5,)


def test_seeds_count_from_the_seed_of_the_option_or_the_recipe(experiments: list[Any], heads: Path, tmp_path: Path) -> None:
    for options in ({"seed": 4, "seeds": 2}, {"settings": ["seed=7"]}, {"settings": ["seed=7"], "seed": 1}):
        reslink.cv(heads, tmp_path / "cv", **options)  # type: ignore[arg-type]
    assert [experiment.seeds for experiment, _ in experiments] == [(4, 5), (7,), (1,)]


def test_bad_options_are_usage_errors(heads: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"folds": 2}, "data.folds"),
        ({"holdout": 0.9}, r"The hold-out is 0\.9.*holdout='0\.15'"),
        ({"seeds": 0}, "The seeds are"),
        ({"seeds": [1, 2], "seed": 3}, r"The seed 3 and the seeds \[1, 2\] were both given"),
        ({"settings": ["data.labels=[subdural]"]}, r"reslink cv is not possible .* \(subdural\).*label=subdural"),
        ({"settings": {"data.fold": 9}}, "fold is 9"),
    ):
        with pytest.raises(UsageError, match=message):
            reslink.cv(heads, tmp_path / "cv", **options)  # type: ignore[arg-type]
