"""Grouping by patient, by near duplicates, by both, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reslink.datasets.case import Case
from reslink.datasets.grouping import group_cases
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.labels import Labels


@pytest.fixture
def manifest() -> Manifest:
    """24 cases of 12 patients in two classes."""
    cases = (Case(Path(f"/data/{i:02}.png"), "ab"[i % 2], f"p{i // 2}", name=f"{i:02}.png") for i in range(24))
    return Manifest(tuple(cases), Labels(("a", "b")), Path("/data"))


def test_modes_that_need_no_image(manifest: Manifest) -> None:
    assert len(set(group_cases(manifest, None, "none"))) == 24
    assert group_cases(manifest, None, "patient") == [f"patient p{i // 2}" for i in range(24)]


def test_duplicates_and_both(manifest: Manifest) -> None:
    rng = np.random.default_rng(0)
    heads = np.kron(rng.integers(60, 250, (24, 16, 16)), np.ones((4, 4))).astype(np.uint8)
    y, x = np.mgrid[:64, :64]
    heads *= (np.hypot(y - 32, x - 32) < 28).astype(np.uint8)
    heads[7] = heads[0]  # of another patient
    groups = group_cases(manifest, heads, "duplicate")
    assert groups[0] == groups[7] != groups[1]
    assert len(set(groups)) == 23
    groups = group_cases(manifest, heads, "both")
    assert groups[0] == groups[1] == groups[6] == groups[7]
    assert len(set(groups)) == 11


def test_refused(manifest: Manifest) -> None:
    with pytest.raises(UsageError, match="Grouping by both compares the images"):
        group_cases(manifest, None, "both")
    with pytest.raises(UsageError, match=r"Cannot group cases by 'patients'.*Did you mean 'patient'"):
        group_cases(manifest, None, "patients")  # type: ignore[arg-type]
