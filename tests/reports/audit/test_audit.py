"""The page about an audit: made from a list and the files, closed in itself, without what may not be shown."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from reslink.audit.checks.file_quality import KINDS
from reslink.datasets.manifest import Manifest
from reslink.imaging.image import Unit
from reslink.reports.audit.page import audit_report, render, turned
from reslink.reports.audit.thumbnails import Pictures


@pytest.fixture
def manifest(tmp_path: Path, rng: np.random.Generator) -> Manifest:
    for label in ("Healthy", "Tumor"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(2):
            Picture.fromarray(rng.integers(0, 255, (96, 96), np.uint8)).save(tmp_path / "data" / label / f"{i}.png")
    return Manifest.open(tmp_path / "data")


@pytest.fixture
def audit() -> dict[str, Any]:
    figure = {"estimate": 0.9, "ci_low": 0.8, "ci_high": 0.95, "method": "BCa", "n": 4}
    names = [f"{label}/{i}.png" for label in ("Healthy", "Tumor") for i in range(2)]
    box = {"top": 5, "left": 5, "height": 20, "width": 60, "in_head": False}
    pair = {"paths": [names[0], names[2]], "correlation": 0.93, "orientation": 4, "same_file": False}
    return {
        "images": 4,
        "classes": {"Healthy": 2, "Tumor": 2},
        "groups": 3,
        "patients": 0,
        "patients_from_headers": 0,
        "text_words": {},
        "near_duplicates": [[names[0], names[2]]],
        "near_duplicate_pairs": [pair],
        "group_leakage": [{"kind": "near_duplicates", "paths": [names[0], names[2]], "splits": ["train", "test"]}],
        "label_conflicts": [[names[0], names[2]]],
        "shortcuts": [
            {
                "probe": "outside_head",
                "balanced_accuracy": figure,
                "chance": 0.5,
                "above_chance": True,
                "is_check": True,
                "failed": True,
                "top_features": ["mean, top left corner"],
                "examples": {"Healthy": names[:1], "Tumor": names[2:]},
            }
        ],
        "burned_in_text": names[:1],
        "text_boxes": {names[0]: [box]},
        "identity": {names[1]: ["PatientName"]},
        "suspected_label_errors": [
            {"path": names[3], "given": "Tumor", "suggested": "Healthy", "score": 0.1, "confident": True}
        ],
        "files": {kind: [] for kind in KINDS} | {"blank": [{"path": names[1], "message": "all its pixels are alike"}]},
        "skipped_checks": [{"check": "shortcuts: file_metadata", "reason": "a class has 1 group"}],
        "checks": [{"check": "outside_head", "failed": True, "reason": "a model can score 0.9"}],
        "verdict": "fail",
    }


def test_the_page_is_closed_in_itself(manifest: Manifest, audit: dict[str, Any], tmp_path: Path) -> None:
    page = audit_report(audit, manifest, tmp_path).read_text()
    assert "Research use only" in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "<script" not in page
    assert str(tmp_path) not in page


def test_each_section_says_what_was_found(manifest: Manifest, audit: dict[str, Any]) -> None:
    page = render(audit, manifest)
    for text in (
        "Failed",
        "Mirrored</b>, correlation 0.93",
        "a model reaches 0.900 without seeing the brain",
        "mean, top left corner",
        "given Tumor",
        "PatientName",
        "all its pixels are alike",
        "Shortcuts: File and header metadata",
        "1 group of near duplicates and 0 patients",
    ):
        assert text in page
    assert len(re.findall("data:image/jpeg;base64,", page)) == 13


def test_sources_have_a_section_of_their_own(manifest: Manifest, audit: dict[str, Any]) -> None:
    assert 'id="sources"' not in render(audit, manifest)
    figure = audit["shortcuts"][0]["balanced_accuracy"]
    [pair], (first, *_, last) = audit["near_duplicate_pairs"], [case.name for case in manifest.cases]
    one = {"label": None, "balanced_accuracy": figure, "chance": 0.5, "cramers_v": 0.71, "predicts": True}
    audit |= {
        "sources": {
            "counts": {"north": {"Healthy": 2, "Tumor": 0}, "south": {"Healthy": 0, "Tumor": 2}},
            "outside_head": {"balanced_accuracy": figure, "chance": 0.5, "above_chance": True, "top_features": []},
            "labels": [one],
            "conclusion": "Source and label are confounded.",
        },
        "source_conflicts": [pair | {"paths": [first, last], "labels": ["Healthy", "Tumor"], "sources": ["north", "south"]}],
        "source_conflict_notes": ["north and south label the same images differently (Healthy in north: 1 pair)"],
        "label_corrections": {"summary": "1 label of other sources can be corrected by north"},
    }
    page = render(audit, manifest)
    for text in (
        "Source and label are confounded.",
        "0.710",
        "north: Healthy",
        "1 label of other sources can be corrected",
        "1 of 1 pair",
    ):
        assert text in page
    few = audit | {"sources": audit["sources"] | {"outside_head": None, "labels": [], "conclusion": ""}, "source_conflicts": []}
    assert "could not be measured" in render(few, manifest)


def test_a_clean_audit_has_no_alarm(manifest: Manifest, audit: dict[str, Any]) -> None:
    keys = ("near_duplicates", "near_duplicate_pairs", "group_leakage", "label_conflicts", "shortcuts", "burned_in_text")
    empty = {key: [] for key in keys}
    clean = audit | empty | {"suspected_label_errors": [], "skipped_checks": [], "checks": [], "verdict": "pass"}
    clean |= {"text_boxes": {}, "identity": {}, "files": {kind: [] for kind in KINDS}}
    page = render(clean, manifest)
    assert "Passed" in page
    assert 'class="verdict alarm"' not in page
    assert "Every file can be read and looks like the other heads." in page
    few = {"check": "files: wrong_orientation", "reason": "11 images look like heads, and fewer than 20 are not held"}
    page = render(clean | {"skipped_checks": [few]}, manifest)
    assert "looks like the other heads" not in page
    assert "Some checks were skipped" in page


def test_where_patients_come_from_and_how_many_words_there_are(manifest: Manifest, audit: dict[str, Any]) -> None:
    page = render(audit | {"patients": 3, "patients_from_headers": 3, "text_words": {"Healthy/0.png": 4}}, manifest)
    assert "<dd>3, from DICOM headers</dd>" in page
    assert "Tesseract reads 4 words in 1 image" in page
    assert "<dd>3, 1 from DICOM headers</dd>" in render(audit | {"patients": 3, "patients_from_headers": 1}, manifest)


def test_letters_cannot_be_read_in_the_pictures(tmp_path: Path) -> None:
    """Strokes of two pixels, which a picture of this size would show, are gone."""
    pixels = np.zeros((168, 168), np.uint8)
    pixels[10:30, 10:90:4] = 255
    Picture.fromarray(pixels).save(tmp_path / "a.png")
    box = {"top": 8, "left": 8, "height": 24, "width": 84}

    def spread(boxes: dict[str, Any]) -> float:
        address = Pictures({"a.png": tmp_path / "a.png"}, boxes).whole("a.png")
        shown = np.asarray(Picture.open(io.BytesIO(base64.b64decode(address.split(",")[1]))), np.float64)
        return float(np.abs(np.diff(shown[12:28, 12:88], axis=1)).mean())

    assert spread({}) > 40
    assert spread({"a.png": [box]}) < 0.2 * spread({})


def test_a_vanished_file_leaves_a_gap(manifest: Manifest, audit: dict[str, Any]) -> None:
    manifest.cases[0].path.unlink()
    page = render(audit, manifest)
    assert "Healthy/0.png" in page


@pytest.mark.parametrize(
    ("orientation", "words"), [(0, "as it is"), (1, "rotated by 90° clockwise"), (4, "mirrored"), (6, "upside down")]
)
def test_a_turn_is_said_in_words(orientation: int, words: str) -> None:
    assert turned(orientation) == words


def test_thumbnails_are_read_with_the_stated_unit(tmp_path: Path) -> None:
    values = np.zeros((64, 64), np.float32)
    values[16:48, 16:48] = np.linspace(-300, 1500, 32)
    np.save(tmp_path / "a.npy", values)
    units: tuple[Unit | None, ...] = ("HU", "MR", None)
    hu, mr, plain = (Pictures({"a": tmp_path / "a.npy"}, {}, {"a": unit}).whole("a") for unit in units)
    assert len({hu, mr}) == 2
    assert plain == mr


def test_a_check_that_needs_a_split_is_not_called_passed(manifest: Manifest, audit: dict[str, Any]) -> None:
    check = {"check": "group_leakage", "failed": False, "reason": "the data set has no split"}
    page = render(audit | {"checks": [check]}, manifest)
    assert ">not checked</td><td>The data set has no split." in page
    assert ">passed</td>" not in page
