"""The comparison of a series model with a slice model: volumes, rules for a patient, and their metrics."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest
from PIL import Image


def write_slices(data: Path, has_bleed: Callable[[int], bool] = lambda patient: patient % 2 == 0) -> Path:
    """Writes three slices of each of 8 patients, p0 to p7; a bleed is on the last slice. The rows are in reverse order."""
    rows = []
    for patient in range(8):
        for level in range(3):
            path = data / f"{patient}_{level}.png"
            data.mkdir(exist_ok=True, parents=True)
            Image.fromarray(np.full((4, 4 + level), 10 * level, np.uint8)).save(path)
            rows.append([path.name, "Tumor" if has_bleed(patient) and level == 2 else "Healthy", f"p{patient}", level])
    with (data / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label", "patient_id", "slice"], *reversed(rows)])
    return data


def test_a_patient_becomes_a_volume_in_the_order_of_the_slices(series: ModuleType, tmp_path: Path) -> None:
    table, slices = series.assemble([write_slices(tmp_path / "ct_a")], tmp_path / "out", 2)
    cases = list(csv.DictReader(table.read_text().splitlines()))
    assert [case["label"] for case in cases] == ["Tumor", "Healthy"] * 4
    assert {case["source"] for case in cases} == {"ct_a"}
    folds = {case["patient_id"]: case["fold"] for case in cases}
    assert all(row["fold"] == folds[row["patient_id"]] for row in csv.DictReader(slices.read_text().splitlines()))
    assert sorted(folds[f"ct_a/p{i}"] for i in range(0, 8, 2)) == ["0", "0", "1", "1"]
    volume = np.asarray(nibabel.load(tmp_path / "out" / cases[0]["path"]).dataobj)  # type: ignore[attr-defined]
    assert [int(volume[..., level].max()) for level in range(3)] == [0, 10, 20]
    assert volume.shape == (6, 4, 3)


def test_patients_of_two_data_sets_stay_apart(series: ModuleType, tmp_path: Path) -> None:
    folders = [write_slices(tmp_path / "ct_a"), write_slices(tmp_path / "ct_b", lambda patient: patient % 2 == 1)]
    table, slices = series.assemble(folders, tmp_path / "out", 2)
    cases = list(csv.DictReader(table.read_text().splitlines()))
    assert [case["patient_id"] for case in cases] == [f"{name}/p{i}" for name in ("ct_a", "ct_b") for i in range(8)]
    assert [case["label"] for case in cases] == ["Tumor", "Healthy"] * 4 + ["Healthy", "Tumor"] * 4
    assert len({case["path"] for case in cases}) == 16
    assert all(nibabel.load(tmp_path / "out" / case["path"]).shape == (6, 4, 3) for case in cases)  # type: ignore[attr-defined]
    rows = Counter(row["patient_id"] for row in csv.DictReader(slices.read_text().splitlines()))
    assert set(rows.values()) == {3}


def test_data_that_cannot_be_compared_are_refused_before_training(
    series: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bleeds = write_slices(tmp_path / "bleeds", lambda _patient: True)
    other = write_slices(tmp_path / "elsewhere" / "bleeds")
    for folders, message in (([bleeds], "every patient of DATA is positive"), ([bleeds, other], "have the same folder name")):
        with pytest.raises(SystemExit, match="2"):
            series.main([*map(str, folders), "--out", str(tmp_path / "out"), "--folds", "2"])
        assert message in capsys.readouterr().err


def test_slices_are_combined_and_rules_are_compared(series: ModuleType) -> None:
    values = {"a": [0.1, 0.9, 0.2, 0.4], "b": [0.3, 0.3], "c": [0.8, 0.6], "d": [0.2, 0.5]}
    rows = [{"patient": patient, "score": score} for patient, own in values.items() for score in own]
    scores = series.slice_scores(rows)
    assert scores["slice model, maximum"]["a"] == 0.9
    assert scores["slice model, mean"]["a"] == pytest.approx(0.4)
    assert scores["slice model, mean of the 3 highest"]["a"] == pytest.approx(0.5)
    positive = {"a": True, "b": False, "c": True, "d": False}
    result = series.compare(scores, positive, "slice model, maximum", draws=20)
    assert result["slice model, maximum"]["estimate"] == 1
    assert result["slice model, maximum minus slice model, mean"]["estimate"] == 0


def test_a_data_set_with_one_class_gets_the_sensitivity_at_the_threshold_of_the_others(series: ModuleType) -> None:
    negatives = {f"n{i}": i / 10 for i in range(11)}
    rule = negatives | {"p0": 0.95, "q0": 0.9, "q1": 0.91}
    sources = dict.fromkeys([*negatives, "p0"], "both") | {"q0": "bleeds", "q1": "bleeds"}
    positive = {patient: patient not in negatives for patient in rule}
    found = series.sensitivity_elsewhere({"rule": rule}, sources, positive)
    assert found == {"bleeds": {"patients": 2, "rule": 0.5}}
