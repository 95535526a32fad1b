"""Corrections by a trusted source: unanimous matches only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reslink.audit.checks.label_corrections import LabelCorrections, write_corrections
from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.groups import DuplicatePair

LABELS = ["Healthy", "Tumor", "Tumor", "Healthy", "Tumor", "Healthy"]
SOURCES = ["ct", "ich", "ich", "ich", "ct", "ct"]
CASES = [
    Case(Path(f"{source}/{i}.png"), label, name=f"{source}/{i}.png")
    for i, (label, source) in enumerate(zip(LABELS, SOURCES, strict=True))
]


def find(*pairs: tuple[int, int, float]) -> LabelCorrections:
    return LabelCorrections.find(CASES, SOURCES, [DuplicatePair(i, j, c, 4) for i, j, c in pairs], "ich")


def test_the_most_similar_image_is_the_evidence() -> None:
    found = find((0, 1, 0.95), (0, 2, 0.98), (0, 4, 1.0), (1, 3, 1.0))
    assert [(one.row, one.evidence, one.correlation, one.orientation) for one in found.corrections] == [(0, 2, 0.98, 4)]
    assert found.ambiguous == ()
    result = found.as_dict(CASES, SOURCES)
    assert result["summary"] == "1 label of other sources can be corrected by ich (Healthy to Tumor: 1)"
    assert result["rows"] == [
        {
            "name": "ct/0.png",
            "given_label": "Healthy",
            "corrected_label": "Tumor",
            "evidence": "ich/2.png",
            "correlation": 0.98,
            "orientation": 4,
            "set": "ct",
        }
    ]


@pytest.mark.parametrize(("given", "turned"), [(0, 0), (1, 3), (2, 2), (3, 1), (4, 4), (5, 5), (7, 7)])
def test_the_orientation_is_that_of_the_evidence(given: int, turned: int) -> None:
    first = LabelCorrections.find(CASES, SOURCES, [DuplicatePair(0, 1, 1.0, given)], "ich").corrections
    second = LabelCorrections.find(CASES[::-1], SOURCES[::-1], [DuplicatePair(4, 5, 1.0, given)], "ich").corrections
    assert [one.orientation for one in (*first, *second)] == [given, turned]
    image = np.arange(6).reshape(2, 3)

    def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
        rotated = np.rot90(pixels, orientation % 4)
        return rotated[:, ::-1] if orientation >= 4 else rotated

    assert np.array_equal(turn(turn(image, given), turned), image)


def test_nothing_is_corrected_without_a_clear_match() -> None:
    found = find((0, 1, 0.93), (2, 4, 0.99), (1, 5, 0.99), (3, 5, 0.95))
    assert found.corrections == ()
    assert found.ambiguous == (5,)
    summary = found.as_dict(CASES, SOURCES)["summary"]
    assert summary == (
        "0 labels of other sources can be corrected by ich; not corrected, because their matches have several labels: 1 image"
    )


def test_the_table_can_be_given_as_corrections(tmp_path: Path) -> None:
    for case in CASES:
        folder = tmp_path / "data" / case.label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / case.path.name).write_bytes(case.name.encode())
    rows = find((0, 1, 0.95)).as_dict(CASES, SOURCES)["rows"]
    rows[0]["name"] = "Healthy/0.png"
    manifest = Manifest.open(tmp_path / "data", corrections=write_corrections(tmp_path / "fix.csv", rows))
    assert manifest.label_counts() == {"Healthy": 2, "Tumor": 4}
