"""The leakage experiment on toy heads with duplicates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.experiments.leakage import leakage
from reslink.experiments.runner.experiment import Experiment

MakeExperiment = Callable[..., Experiment]


def test_data_without_related_images_raises(make_experiment: MakeExperiment, tmp_path: Path, toy_patients: Manifest) -> None:
    single = tmp_path / "single.csv"
    rows = [f"{case.path.name},{case.label}" for case in toy_patients.cases[::2]]
    for case in toy_patients.cases[::2]:
        (tmp_path / case.path.name).write_bytes(case.path.read_bytes())
    single.write_text("path,label\n" + "\n".join(rows) + "\n")
    with pytest.raises(UsageError, match="near duplicates"):
        leakage(make_experiment(Manifest.open(single)))


def test_leakage_trains_on_both_splits_and_counts_related_images(
    toy_duplicates: Manifest,
    make_experiment: MakeExperiment,
    table_rows: Callable[[dict[str, Any], str], list[dict[str, Any]]],
) -> None:
    experiment = make_experiment(toy_duplicates)
    report = leakage(experiment)
    assert [row["condition"] for row in table_rows(report, "metrics")] == ["clean", "random"]
    assert "preprocess.size 64" in report["facts"]["Settings other than the defaults"]
    assert report["facts"]["Images that share a group"] == 48
    evaluations = {
        row["condition"]: json.loads((experiment.runs / row["run"] / "evaluation.json").read_text()) for row in report["runs"]
    }
    assert evaluations["clean"]["leakage"]["status"] == "none found"
    assert evaluations["random"]["leakage"]["status"] == "allowed"
    assert evaluations["random"]["metrics"]["accuracy"]["leakage"] is True


def test_related_images_are_compared_in_both_splits(
    toy_duplicates: Manifest,
    make_experiment: MakeExperiment,
    table_rows: Callable[[dict[str, Any], str], list[dict[str, Any]]],
) -> None:
    """The first 12 images are there twice, the others once."""
    pairs, single = range(24), range(24, 48, 2)
    report = leakage(make_experiment(toy_duplicates.subset([*pairs, *single])))
    assert report["facts"]["Images that share a group"] == 24
    with_, without, alike, alone = table_rows(report, "leaked")
    assert "random split: an image of the group is in the training data" in with_["title"]
    assert (alike["title"], alone["title"]) == (
        "clean split: the group has other images",
        "clean split: the group has no other image",
    )
    assert alike["images"] % 2 == 0
    assert alike["images"] + alone["images"] == with_["images"] + without["images"]
    for row, other in ((with_, without), (alike, alone)):
        difference = row["accuracy_difference"]["estimate"]
        assert difference == pytest.approx(row["accuracy"]["estimate"] - other["accuracy"]["estimate"])
        assert other["accuracy_difference"] is None
    assert any("In the clean split, where none is leaked" in sentence for sentence in report["answer"])
