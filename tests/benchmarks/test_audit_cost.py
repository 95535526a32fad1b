"""The measurement of the processor time of an audit: every part of a file, and the images that are chosen."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from reslink.datasets.phantom.cohort import PhantomSettings, make_cohort


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    return make_cohort(tmp_path / "heads", PhantomSettings(patients=6, slices=1, size=128, seed=2))


def test_each_part_of_a_file_takes_time(audit_cost: ModuleType, heads: Path) -> None:
    parts = audit_cost.files(heads, images=2, rounds=1)
    features = {"head mask", "text", "image features", "thumbnail", "asymmetry", "outside the head"}
    assert set(parts) == {"read", *features, "all", "head mask, thumbnail and fingerprint"}
    assert all(milliseconds > 0 for milliseconds in parts.values())


def test_the_images_are_evenly_spaced(audit_cost: ModuleType, heads: Path) -> None:
    names = [case.name for case in audit_cost.evenly_spaced(heads, 3).cases]
    assert names == [case.name for case in audit_cost.evenly_spaced(heads, 6).cases][::2]


def test_the_memory_of_the_comparisons_is_that_of_different_files(audit_cost: ModuleType) -> None:
    found = audit_cost.memory(60)
    assert found["images"] == 60
    assert found["pairs"] == 3  # a twentieth are copies
    assert found["MiB"] >= 0
