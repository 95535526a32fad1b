"""The measurements of the near-duplicate search: the copies of whole series that the fingerprints find."""

from __future__ import annotations

import csv
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort
from reslink.datasets.phantom.duplicates import DUPLICATE_KINDS


@pytest.fixture
def heads(tmp_path: Path) -> tuple[Path, dict[str, list[Path]]]:
    """Four patients with three slices each, and the files of each patient."""
    root = make_cohort(tmp_path / "heads", PhantomSettings(patients=4, slices=3, size=128, seed=2))
    files: dict[str, list[Path]] = {}
    with (root / "manifest.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            files.setdefault(row["patient_id"], []).append(root / row["path"])
    return root, files


def test_copies_of_known_series_are_found_and_those_of_other_patients_are_not(
    near_duplicates: ModuleType, heads: tuple[Path, dict[str, list[Path]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_duplicates, "ProcessPoolExecutor", ThreadPoolExecutor)
    found = near_duplicates.series(heads[0], seed=0)
    assert (found["copied_series"], found["other_series"]) == (2, 2)
    assert set(found["found_by_kind"]) == set(DUPLICATE_KINDS)
    assert (found["found_by_kind"]["exact"], found["least_share_by_kind"]["exact"]) == (2, 1.0)
    assert (found["flagged_of_others"], found["highest_share_of_others"]) == (0, 0.0)


def test_another_series_is_flagged_if_half_of_its_slices_are_copies(
    near_duplicates: ModuleType, heads: tuple[Path, dict[str, list[Path]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With seed 0, P0001 and P0003 are known. Two slices of P0002 are copies of theirs, and one of P0004."""
    monkeypatch.setattr(near_duplicates, "ProcessPoolExecutor", ThreadPoolExecutor)
    root, files = heads
    for known, other, slices in (("P0001", "P0002", (0, 1)), ("P0003", "P0004", (2,))):
        for i in slices:
            shutil.copy(files[known][i], files[other][i])
    found = near_duplicates.series(root, seed=0)
    assert (found["flagged_of_others"], found["highest_share_of_others"]) == (1, pytest.approx(2 / 3))
    assert found["least_share_by_kind"]["exact"] == 1.0


def test_the_largest_memory_of_a_block_is_measured(near_duplicates: ModuleType) -> None:
    with near_duplicates.peak_memory() as largest:
        block = bytearray(b"x" * (64 << 20))
        time.sleep(0.2)
        del block
    assert 50 < largest[0] < 200
