"""The setup of an experiment: splits with leakage and invalid seeds raise errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reslink.datasets.manifest import Manifest
from reslink.errors import CheckFailedError, UsageError
from reslink.experiments.epochs import epochs
from reslink.experiments.runner.comparison import Comparison
from reslink.experiments.runner.experiment import Experiment, _describe_runs

MakeExperiment = Callable[..., Experiment]


def test_a_given_split_with_a_patient_in_two_splits_raises(
    toy_patients: Manifest, make_experiment: MakeExperiment, tmp_path: Path
) -> None:
    splits = ["train", "test", "train", "validation"]
    rows = [f"{case.path.name},{case.label},{case.patient_id},{splits[i % 4]}" for i, case in enumerate(toy_patients.cases)]
    for case in toy_patients.cases:
        (tmp_path / case.path.name).write_bytes(case.path.read_bytes())
    (tmp_path / "leaky.csv").write_text("path,label,patient_id,split\n" + "\n".join(rows) + "\n")
    with pytest.raises(CheckFailedError, match="A patient appears in two"):
        epochs(make_experiment(Manifest.open(tmp_path / "leaky.csv")), [1, 2])


def test_a_random_split_with_leakage_raises(toy_patients: Manifest, make_experiment: MakeExperiment) -> None:
    with pytest.raises(CheckFailedError, match="A patient appears in two"):
        epochs(make_experiment(toy_patients, "data.group_by=none"), [1, 2])


@pytest.mark.parametrize(
    ("n", "complete", "text"),
    [
        (1, 0, "1 run to train."),
        (2, 0, "2 runs to train."),
        (3, 1, "3 runs, 1 of them already complete."),
        (2, 2, "2 runs, all already complete."),
        (1, 1, "1 run, already complete."),
    ],
)
def test_runs_are_counted_in_words(n: int, complete: int, text: str) -> None:
    assert _describe_runs(n, complete) == text


def test_repeated_seeds_raise(toy_patients: Manifest, make_experiment: MakeExperiment) -> None:
    with pytest.raises(UsageError, match="different numbers"):
        make_experiment(toy_patients, seeds=(1, 1))


def test_images_that_a_model_refuses_are_trained_on_but_in_no_evaluation(
    toy_patients: Manifest, make_experiment: MakeExperiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_experiment(toy_patients, out=tmp_path)
    stated = list(experiment.cache.case_stated)
    splits = experiment.split(experiment.make_recipe(0))
    excluded = [splits.index("test"), splits.index("validation"), splits.index("train")]
    for row in excluded:
        stated[row] = stated[row]._replace(excluded="a localizer")
    monkeypatch.setattr("reslink.datasets.cache.pixel_cache.PixelCache.case_stated", stated)
    experiment = make_experiment(toy_patients, out=tmp_path)
    names = [experiment.cache.manifest.cases[row].name for row in excluded]
    assert experiment.refused == dict.fromkeys(sorted(names), "a localizer")
    expected = list(splits)
    expected[excluded[0]] = expected[excluded[1]] = "unused"
    assert list(experiment.split(experiment.make_recipe(0))) == expected
    assert Comparison(experiment, [], {}).facts()["Images that a model refuses, not evaluated"] == 3
