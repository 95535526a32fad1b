"""Which cases are leaked, and why."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from reslink.bundles.fingerprints import TrainingImages
from reslink.datasets.case import Case
from reslink.datasets.leakage import (
    CALIBRATION_REASONS,
    NEAR_DUPLICATE,
    SAME_GROUP,
    SAME_PATIENT,
    check_group_leakage,
    find_training_duplicates,
    leakage_reasons,
    leaked_cases,
    seen_by_ancestors,
    without_seen,
)
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.fingerprints import make_fingerprints
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


def pictures(*seeds: int) -> np.ndarray:
    """Thumbnails that are nothing alike, one per seed."""
    return np.stack([np.kron(np.random.default_rng(s).integers(0, 255, (16, 16)), np.ones((4, 4))) for s in seeds]).astype(
        np.uint8
    )


def seen(*seeds: int, cleared: tuple[int, ...] = ()) -> TrainingImages:
    """The fingerprints of a network that was trained on these pictures and cleared others."""
    digests = [hashlib.sha256(picture.tobytes()).digest() for picture in pictures(*cleared)] if cleared else []
    return TrainingImages(make_fingerprints(pictures(*seeds)), np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32))


def test_images_of_any_ancestor_are_found() -> None:
    assert set(find_training_duplicates([seen(1), seen(3)], pictures(0, 1, 2, 3))) == {1, 3}
    assert find_training_duplicates([], pictures(0)) == {}


def test_what_one_network_cleared_counts_for_its_own_images_only() -> None:
    """A test image of the parent, which the parent cleared, became a training image of the child."""
    child, parent = seen(7), seen(7, cleared=(7,))
    assert find_training_duplicates([parent], pictures(7)) == {}
    assert set(find_training_duplicates([child, parent], pictures(7))) == {0}


def test_validation_and_test_images_of_an_ancestor_are_left_out_with_their_patients(manifest: Manifest) -> None:
    """The ancestor was trained on case 0 of patient p0, on case 4, and on case 5, from which the child is trained too."""
    splits = ["test", "test", "validation", "test", "test", "train"]
    reasons = seen_by_ancestors(manifest, GROUPS, pictures(*range(6)), splits, [seen(0), seen(4, 5)])
    assert reasons == {0: NEAR_DUPLICATE, 1: SAME_PATIENT, 4: NEAR_DUPLICATE}
    assert without_seen(splits, reasons) == ["unused", "unused", "validation", "test", "unused", "train"]
    assert seen_by_ancestors(manifest, GROUPS, pictures(*range(6)), splits, []) == {}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_that_an_ancestor_has_seen_whole_is_refused(split: str) -> None:
    other = {"validation": "test", "test": "validation"}[split]
    with pytest.raises(CheckFailedError, match=f"every image of the {split} split.*no ancestor.*split of the parent"):
        without_seen(["train", split, split, other], {1, 2})
    assert without_seen(["train", "validation"], set()) == ["train", "validation"]  # a run without a test split
