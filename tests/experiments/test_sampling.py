"""Which cases are drawn, and which the network learned from."""

from __future__ import annotations

import csv
from collections import Counter

import pytest

from reslink.bundles.bundle import Bundle
from reslink.datasets.manifest import Case, Manifest
from reslink.errors import UsageError
from reslink.experiments.sampling import sample, unseen
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


def names(found):
    return [case.name for case in found.cases]


def test_classes_keep_their_shares_and_each_has_one_case(tmp_path):
    data = manifest(tmp_path)
    assert Counter(case.label for case in sample(data, 50, 0).cases) == {"Healthy": 40, "Tumor": 10}
    assert Counter(case.label for case in sample(data, 2, 0).cases)["Tumor"] == 1


def test_the_draw_depends_on_the_seed_and_not_on_the_order(tmp_path):
    data = manifest(tmp_path)
    turned = data.subset(range(99, -1, -1))
    assert set(names(sample(data, 20, 3))) == set(names(sample(turned, 20, 3)))
    assert names(sample(data, 20, 3)) != names(sample(data, 20, 4))
    assert set(names(sample(data, 20, 3))) < set(names(sample(data, 60, 3)))


def test_all_are_taken_where_none_are_too_many(tmp_path):
    data = manifest(tmp_path, 10)
    assert sample(data, None, 0) is data
    assert sample(data, 10, 0) is data
    with pytest.raises(UsageError, match="0 images"):
        sample(data, 0, 0)


def bundle_in_run(tmp_path, parts):
    run = tmp_path / "run"
    (run / "bundle").mkdir(parents=True)
    with (run / "splits.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["sample_id", "split", "sha256"], *parts])
    return Bundle(ARCHITECTURE, Preprocess(), LABELS, folder=run / "bundle")


def test_images_of_the_run_are_known_by_their_content(tmp_path):
    data = manifest(tmp_path, 6)
    parts = [[f"elsewhere/{i}.png", side, sha256(str(i))] for i, side in enumerate(("train", "validation", "test"))]
    found, left_out = unseen(data, bundle_in_run(tmp_path, parts))
    assert names(found) == ["2.png", "3.png", "4.png", "5.png"]
    assert [one["path"] for one in left_out] == ["0.png", "1.png"]
    assert "validation" in left_out[1]["reason"]


def test_data_that_was_all_learned_from_is_refused(tmp_path):
    data = manifest(tmp_path, 2)
    with pytest.raises(UsageError, match="trained with every image"):
        unseen(data, bundle_in_run(tmp_path, [["a", "train", sha256("0")], ["b", "train", sha256("1")]]))


def test_a_bundle_without_its_run_leaves_nothing_out(tmp_path):
    data = manifest(tmp_path, 4)
    (tmp_path / "alone").mkdir()
    assert unseen(data, Bundle(ARCHITECTURE, Preprocess(), LABELS, folder=tmp_path / "alone")) == (data, [])
