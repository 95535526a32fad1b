"""The data-size experiment on toy heads, and the subsets of the patients."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reslink.bundles.bundle import Bundle
from reslink.bundles.fingerprints import TrainingImages
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.case import UNUSED
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.fingerprints import make_fingerprints
from reslink.errors import UsageError
from reslink.experiments.data_size import data_size, subsample_groups
from reslink.experiments.epochs import epochs
from reslink.experiments.robustness.tables import NO_FINGERPRINTS
from reslink.experiments.runner import run_trial
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.trial import Trial
from reslink.networks.reslink import build_network
from reslink.training.recipe.recipe import load_recipe

MakeExperiment = Callable[..., Experiment]
TINY_SHAPE = (
    "preprocess.size=64",
    "preprocess.channels=1",
    "model.stem_dim=8",
    "model.dims=[8, 16]",
    "model.depths=[0, 1]",
    "model.area_size=4",
)


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


@pytest.fixture(scope="module")
def parent(toy_patients: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with the shape of the trials that was trained on the first 20 of the 48 patients."""
    recipe = load_recipe(None, TINY_SHAPE)
    cache = PixelCache.open(toy_patients, recipe.preprocess, tmp_path_factory.mktemp("cache"), workers=0)
    fingerprints = make_fingerprints(np.asarray(cache.thumbnails[:40]))
    config = recipe.network(2)
    bundle = Bundle(
        {**config.model_dump(mode="json"), "name": recipe.model.variant},
        recipe.preprocess,
        toy_patients.labels,
        training_images=TrainingImages(fingerprints, np.zeros((0, 32), np.uint8)),
    )
    folder = bundle.save(tmp_path_factory.mktemp("parent") / "bundle", build_network(config, seed=8).state_dict()).folder
    assert folder is not None
    return folder


def test_each_size_is_trained_from_scratch_and_fine_tuned_on_the_same_images(
    toy_patients: Manifest,
    make_experiment: MakeExperiment,
    parent: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    table_rows: Callable[..., list[dict[str, Any]]],
) -> None:
    trials: list[Trial] = []
    run = run_trial.run_trial
    monkeypatch.setattr(
        "reslink.experiments.runner.run_trial.run_trial", lambda trial, *args: (trials.append(trial), run(trial, *args))
    )
    experiment = make_experiment(toy_patients, f"init.parent={parent}", out=tmp_path)
    report = data_size(experiment, images=[16, 40, 900])
    assert [trial.condition for trial in trials] == ["images_40", "fine_tuned_images_40", "images_16", "fine_tuned_images_16"]
    for scratch, tuned in (trials[:2], trials[2:]):
        assert scratch.splits == tuned.splits
        assert (scratch.recipe.init.parent, tuned.recipe.init.parent) == (None, str(parent))
        assert scratch.recipe.model_copy(update={"init": tuned.recipe.init}) == tuned.recipe
        seen = {case.patient_id for case in experiment.cache.manifest.cases[:40]}
        used = {
            case.patient_id
            for case, split in zip(toy_patients.cases, tuned.splits, strict=True)
            if split in ("validation", "test")
        }
        assert used
        assert not used & seen
        weights = [Bundle.load(trial.folder(experiment.data, experiment.runs) / "bundle") for trial in (scratch, tuned)]
        assert [len(bundle.lineage) for bundle in weights] == [0, 1]
    assert trials[0].splits.count("train") == pytest.approx(40, abs=3)
    assert trials[2].splits.count("train") == pytest.approx(16, abs=3)
    assert trials[2].recipe.trainer.epochs == 2  # as many steps as with 40 images
    assert [row["size"] for row in table_rows(report, "fine-tuning")] == ["about 40 images", "about 16 images"]
    assert str(parent) not in json.dumps(report)
    assert report["facts"]["Validation and test images left out, seen by an ancestor"] == experiment.count_seen(0) > 0
    assert any("fine-tuned compared with from scratch" in sentence for sentence in report["answer"])
    assert [series["x"] for series in report["charts"][0]["series"]] == [[16, 40]] * 4
    assert re.search("about 900 images, seed 0: the training split has [0-9]+ images", report["not_done"][0])


def test_sizes_that_no_seed_has_are_refused(toy_patients: Manifest, make_experiment: MakeExperiment, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"No size can be trained: about 5000 images.*Use larger sizes"):
        data_size(make_experiment(toy_patients, out=tmp_path), images=[5000])


def test_images_that_an_ancestor_saw_are_left_out_even_if_leakage_is_allowed(
    toy_patients: Manifest, make_experiment: MakeExperiment, parent: Path, tmp_path: Path
) -> None:
    experiment = make_experiment(toy_patients, f"init.parent={parent}", "data.allow_leakage=true", out=tmp_path)
    assert experiment.count_seen(0) > 0


def test_a_parent_with_unknown_training_images_is_named(
    toy_patients: Manifest, make_experiment: MakeExperiment, parent: Path, tmp_path: Path
) -> None:
    known = Bundle.load(parent)
    unknown = replace(known, training_images=None).save(tmp_path / "unknown", known.network().state_dict())
    experiment = make_experiment(toy_patients, f"init.parent={unknown.folder}", out=tmp_path / "experiments")
    report = data_size(experiment, images=[16])
    assert report["not_done"] == [NO_FINGERPRINTS]
    results = [json.loads(path.read_text()) for path in experiment.runs.glob("*/evaluation.json")]
    assert sorted(result["leakage"]["status"] for result in results) == ["none found", "unknown"]
