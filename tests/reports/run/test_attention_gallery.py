"""The attention gallery: the choice of the cases, and their pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from reslink.bundles.bundle import Bundle
from reslink.datasets.manifest import Manifest
from reslink.imaging.preprocess import Preprocess
from reslink.inference.classifier import Classifier
from reslink.labels import Labels
from reslink.networks.reslink import build_network, variant_config
from reslink.reports.run.attention_gallery import attention_gallery, select_gallery_cases


def row(name: str, label: str, prediction: str, confidence: float, group: str = "") -> dict[str, str]:
    other = "Healthy" if prediction == "Tumor" else "Tumor"
    return {
        "sample_id": name,
        "label": label,
        "prediction": prediction,
        "group": group or name,
        f"p_{prediction}": str(confidence),
        f"p_{other}": str(1 - confidence),
    }


def test_confident_errors_come_first_then_each_class_in_turn():
    rows = [
        row("a", "Tumor", "Tumor", 0.99),
        row("b", "Tumor", "Tumor", 0.98),
        row("c", "Healthy", "Healthy", 0.7),
        row("d", "Healthy", "Tumor", 0.6),
        row("e", "Healthy", "Tumor", 0.9),
        row("f", "Tumor", "Healthy", 0.8),
    ]
    assert [r["sample_id"] for r in select_gallery_cases(rows, n_correct=3, n_wrong=2)] == ["e", "f", "c", "a", "b"]
    assert [r["sample_id"] for r in select_gallery_cases(rows, n_correct=2, n_wrong=0)] == ["c", "a"]
    assert select_gallery_cases([], 3, 3) == []


def test_a_patient_is_shown_once_before_being_shown_again():
    rows = [row(f"{i}", "Healthy", "Tumor", 0.9 - i / 100, group="one" if i < 3 else f"p{i}") for i in range(5)]
    assert [r["sample_id"] for r in select_gallery_cases(rows, n_correct=0, n_wrong=4)] == ["0", "3", "4", "1"]


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = ["path,label,patient_id,mask"]
    for i in range(6):
        gray = rng.integers(0, 255, (70, 90)).astype(np.uint8)
        Picture.fromarray(gray).save(tmp_path / f"{i}.png")
        mask = np.zeros((70, 90), np.uint8)
        mask[20:40, 20:40] = 255 * (i % 2)
        Picture.fromarray(mask).save(tmp_path / f"m{i}.png")
        lines.append(f"{i}.png,{'Tumor' if i % 2 else 'Healthy'},p{i},m{i}.png")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize(("attention", "maps"), [("both", ["Final attention α", "Grad-CAM"]), ("none", ["Grad-CAM"])])
def test_pictures_and_their_cases(cohort, tmp_path, attention, maps):
    config = variant_config("reslink_small", attention=attention)
    architecture = {**config.model_dump(mode="json"), "name": "reslink_small"}
    bundle = Bundle(architecture, Preprocess(size=64), Labels(("Healthy", "Tumor")))
    bundle.save(tmp_path / "bundle", build_network(config, seed=0).state_dict())
    rows = [row(f"{i}.png", "Tumor" if i % 2 else "Healthy", "Tumor", 0.9) for i in range(6)]
    with (tmp_path / "predictions.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (cohort / "3.png").write_bytes(b"no longer an image")
    figures = tmp_path / "figures"
    figures.mkdir()
    (figures / "gallery_99.png").write_bytes(b"of an older run")
    classifier = Classifier.load(tmp_path / "bundle", device="cpu")
    drawn = attention_gallery(classifier, Manifest.open(cohort), tmp_path / "predictions.csv", figures)
    assert [case.correct for case in drawn] == [False, False, False, True, True]
    assert [case.mask for case in drawn] == [False, False, False, True, True]
    assert drawn[0].maps == maps
    stored = json.loads((figures / "gallery.json").read_text())
    assert [case["file"] for case in stored] == [f"gallery_0{i}.png" for i in range(1, 6)]
    assert sorted(path.name for path in figures.glob("*.png")) == [case["file"] for case in stored]
    with Picture.open(figures / "gallery_01.png") as strip:
        assert strip.size == (224 * (1 + len(maps)) + 6 * len(maps), 224)
