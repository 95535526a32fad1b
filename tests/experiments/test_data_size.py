"""The data-size experiment on toy heads, and the subsets of the patients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.experiments.data_size import data_size, subsample_groups
from reslink.experiments.epochs import epochs
from reslink.experiments.runner import run_trial
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.trial import UNUSED

MakeExperiment = Callable[..., Experiment]


def test_experiments_in_one_folder_share_their_trials(
    toy_patients: Manifest, make_experiment: MakeExperiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs(make_experiment(toy_patients), [1, 2])
    trained, train = [], run_trial.train

    def record_epochs(*args: Any, **options: Any) -> Any:
        trained.append(args[1].trainer.epochs)
        return train(*args, **options)

    monkeypatch.setattr(run_trial, "train", record_epochs)
    data_size(make_experiment(toy_patients), [50.0])
    assert trained == [2]  # half of the patients, so twice the epochs; the full data is a trial of the other experiment


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_a_subset_has_whole_patients_of_both_classes(
    toy_patients: Manifest, make_experiment: MakeExperiment, share: float
) -> None:
    experiment = make_experiment(toy_patients)
    full = experiment.make_trial("full", 0).splits
    small, larger = (subsample_groups(experiment, full, size, 0) for size in (share, min(1.0, 2 * share)))
    assert small is not None
    assert larger is not None
    assert [split for split in small if split == "test"] == [split for split in full if split == "test"]
    splits_of_group: dict[str, set[str]] = {}
    for group, split in zip(experiment.data.groups, small, strict=True):
        splits_of_group.setdefault(group, set()).add(split)
    assert all(len(splits) == 1 for splits in splits_of_group.values())
    assert all(b == a for a, b in zip(small, larger, strict=True) if a != UNUSED)
    cases = experiment.cache.manifest.cases
    trained = [case.label for case, split in zip(cases, small, strict=True) if split == "train"]
    total = [case.label for case, split in zip(cases, full, strict=True) if split == "train"]
    for label in ("Healthy", "Tumor"):
        assert trained.count(label) == pytest.approx(share * total.count(label), abs=2)
        assert trained.count(label) > 0


def test_an_invalid_share_raises_before_any_training(
    toy_patients: Manifest, make_experiment: MakeExperiment, tmp_path: Path
) -> None:
    experiment = make_experiment(toy_patients, out=tmp_path)
    with pytest.raises(UsageError, match="at most 100 percent"):
        data_size(experiment, [0.0])
    assert not experiment.runs.exists()
