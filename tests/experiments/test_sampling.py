"""Samples of the cases, and exclusion of training cases."""

from __future__ import annotations

import csv
from collections import Counter

import pytest

from reslink.bundles.bundle import Bundle
from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.experiments.sampling import exclude_training_cases, sample_cases
from reslink.files import sha256
from reslink.imaging.preprocess import Preprocess
from reslink.labels import Labels

LABELS = Labels(("Healthy", "Tumor"))
ARCHITECTURE = {"num_classes": 2, "in_channels": 3}


def manifest(tmp_path, n=100):
    cases = []
    for i in range(n):
        path = tmp_path / f"{i}.png"
        path.write_bytes(str(i).encode())
        cases.append(Case(path, LABELS.names[i % 5 == 0], name=path.name))
    return Manifest(tuple(cases), LABELS, tmp_path)


def names(kept):
    return [case.name for case in kept.cases]


def test_classes_keep_their_shares_and_each_has_one_case(tmp_path):
    data = manifest(tmp_path)
    assert Counter(case.label for case in sample_cases(data, 50, 0).cases) == {"Healthy": 40, "Tumor": 10}
    assert Counter(case.label for case in sample_cases(data, 2, 0).cases)["Tumor"] == 1


def test_the_sample_depends_on_the_seed_and_not_on_the_order(tmp_path):
    data = manifest(tmp_path)
    reordered = data.subset(range(99, -1, -1))
    assert set(names(sample_cases(data, 20, 3))) == set(names(sample_cases(reordered, 20, 3)))
    assert names(sample_cases(data, 20, 3)) != names(sample_cases(data, 20, 4))
    assert set(names(sample_cases(data, 20, 3))) < set(names(sample_cases(data, 60, 3)))


def test_a_large_sample_has_all_cases(tmp_path):
    data = manifest(tmp_path, 10)
    assert sample_cases(data, None, 0) is data
    assert sample_cases(data, 10, 0) is data
    with pytest.raises(UsageError, match="number of images is 0"):
        sample_cases(data, 0, 0)


def bundle_in_run(tmp_path, splits):
    run = tmp_path / "run"
    (run / "bundle").mkdir(parents=True)
    with (run / "splits.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["sample_id", "split", "sha256"], *splits])
    return Bundle(ARCHITECTURE, Preprocess(), LABELS, folder=run / "bundle")


def test_images_of_the_run_are_identified_by_content(tmp_path):
    data = manifest(tmp_path, 6)
    splits = [[f"elsewhere/{i}.png", split, sha256(str(i))] for i, split in enumerate(("train", "validation", "test"))]
    kept, excluded = exclude_training_cases(data, bundle_in_run(tmp_path, splits))
    assert names(kept) == ["2.png", "3.png", "4.png", "5.png"]
    assert [case["path"] for case in excluded] == ["0.png", "1.png"]
    assert "validation" in excluded[1]["reason"]


def test_data_with_training_images_only_raises(tmp_path):
    data = manifest(tmp_path, 2)
    with pytest.raises(UsageError, match="trained on every image"):
        exclude_training_cases(data, bundle_in_run(tmp_path, [["a", "train", sha256("0")], ["b", "train", sha256("1")]]))


def test_a_bundle_without_its_run_excludes_nothing(tmp_path):
    data = manifest(tmp_path, 4)
    (tmp_path / "alone").mkdir()
    assert exclude_training_cases(data, Bundle(ARCHITECTURE, Preprocess(), LABELS, folder=tmp_path / "alone")) == (data, [])
