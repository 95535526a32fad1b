"""Leaked test images, or those in a group of several images, are evaluated apart from the others."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from reslink.files import csv_text

HEADERS = ("sample_id", "label", "prediction", "group", "p_Healthy", "p_Tumor")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Eight leaked images, all correct, and eight others, of which two are wrong."""
    rows = []
    for i in range(16):
        truth = ("Healthy", "Tumor")[i % 2]
        answer = ("Tumor", "Healthy")[i % 2] if i >= 14 else truth
        tumor = 0.9 if answer == "Tumor" else 0.1
        values = (f"{i:02d}.png", truth, answer, f"g{i}", str(1 - tumor), str(tumor))
        rows.append(dict(zip(HEADERS, values, strict=True)))
    (tmp_path / "predictions.csv").write_text(csv_text(list(HEADERS), rows))
    leaked = [{"path": f"{i:02d}.png", "reason": "near duplicate of a training image"} for i in range(8)]
    (tmp_path / "evaluation.json").write_text(json.dumps({"labels": ["Healthy", "Tumor"], "leaked": leaked}))
    return tmp_path


def test_leaked_images_are_evaluated_apart(accuracy: ModuleType, run: Path) -> None:
    apart = accuracy.related_and_other(run)
    assert {name: one["metrics"]["accuracy"]["estimate"] for name, one in apart.items()} == {"leaked": 1.0, "other": 0.75}
    assert {one["metrics"]["accuracy"]["n"] for one in apart.values()} == {8}
    assert "accuracy     0.750" in accuracy.table([apart["other"]])[0]


@pytest.mark.parametrize("grouped", [8, 0])
def test_without_leaked_images_those_in_a_group_of_several_are(accuracy: ModuleType, run: Path, grouped: int) -> None:
    """The images that were leaked above have another image of their group in the test split, or none has."""
    (run / "evaluation.json").write_text(json.dumps({"labels": ["Healthy", "Tumor"], "leaked": []}))
    groups = [f"g{i}" for i in (*range(16), *range(grouped))]
    (run / "splits.csv").write_text("\n".join(["group", *groups]) + "\n")
    apart = accuracy.related_and_other(run)
    accuracies = {name: one["metrics"]["accuracy"]["estimate"] for name, one in apart.items()}
    assert accuracies == ({"in a group of several images": 1.0, "other": 0.75} if grouped else {})
