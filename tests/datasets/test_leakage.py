"""Which cases are leaked, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslink.datasets.case import Case
from reslink.datasets.leakage import (
    CALIBRATION_REASONS,
    NEAR_DUPLICATE,
    SAME_GROUP,
    SAME_PATIENT,
    check_group_leakage,
    leakage_reasons,
    leaked_cases,
)
from reslink.datasets.manifest import Manifest
from reslink.errors import CheckFailedError
from reslink.labels import Labels

PATIENTS = ("p0", "p0", "p1", None, None, None)
GROUPS = ["g0", "g0", "g1", "g1", "g2", "g3"]


@pytest.fixture
def manifest() -> Manifest:
    cases = (Case(Path(f"/data/{i}.png"), "ab"[i % 2], patient, name=f"{i}.png") for i, patient in enumerate(PATIENTS))
    return Manifest(tuple(cases), Labels(("a", "b")), Path("/data"))


def test_a_case_is_leaked_by_its_patient_or_its_group(manifest: Manifest) -> None:
    splits = ["train", "test", "train", "test", "test", "validation"]
    assert leaked_cases(manifest, GROUPS, splits) == {"1.png": SAME_PATIENT, "3.png": NEAR_DUPLICATE}


def test_a_clean_split_passes_the_check(manifest: Manifest) -> None:
    splits = ["train", "train", "test", "test", "train", "test"]
    assert leaked_cases(manifest, GROUPS, splits) == {}
    check_group_leakage(manifest, GROUPS, splits)


def test_the_check_names_the_split_and_two_cases(manifest: Manifest) -> None:
    splits = ["train", "train", "train", "test", "train", "test"]
    with pytest.raises(CheckFailedError, match=r"group of near duplicates appears in two parts of the folds: 2.png .* 3.png"):
        check_group_leakage(manifest, GROUPS, splits, "folds")


def test_only_a_certain_match_marks_patient_and_group(manifest: Manifest) -> None:
    assert leakage_reasons(manifest, GROUPS, {0: 0.95, 2: 0.8}) == {0: NEAR_DUPLICATE, 1: SAME_PATIENT, 2: NEAR_DUPLICATE}
    assert leakage_reasons(manifest, GROUPS, {3: 0.95}) == {2: SAME_GROUP, 3: NEAR_DUPLICATE}
    assert leakage_reasons(manifest, GROUPS, {3: 0.95}, CALIBRATION_REASONS)[2] == CALIBRATION_REASONS[2]
