"""Scan groups of image files, and splits by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from tests.datasets.scan_groups.conftest import Scans

from reslink.datasets.case import Case
from reslink.datasets.grouping import group_cases
from reslink.datasets.manifest import Manifest
from reslink.datasets.scan_groups.cases import group_scans
from reslink.datasets.scan_groups.groups import scan_groups
from reslink.errors import InputError, UsageError
from reslink.labels import Labels


@pytest.fixture
def manifest(scans: Scans, tmp_path: Path) -> Manifest:
    """The phantoms as files without patients, whose names say nothing."""
    cases = []
    for i, image in enumerate(scans.images):
        path = tmp_path / f"{i:02}.png"
        Picture.fromarray(image.pixels.astype(np.uint8)).save(path)
        cases.append(Case(path, "ab"[i % 2], name=path.name))
    return Manifest(tuple(cases), Labels(("a", "b")), tmp_path)


def partition(groups: list[str] | list[int]) -> list[list[bool]]:
    return [[a == b for b in groups] for a in groups]


def test_files_have_the_groups_of_their_pictures(scans: Scans, manifest: Manifest) -> None:
    groups = group_cases(manifest, scans.thumbnails, "scan")
    assert partition(groups) == partition(scan_groups(scans.signatures))
    assert groups[0] == "00.png"  # a group has the name of its first case


def test_patients_come_first(scans: Scans, manifest: Manifest) -> None:
    known = replace(manifest, cases=tuple(replace(case, patient_id=f"p{i}") for i, case in enumerate(manifest.cases)))
    assert len(set(group_cases(known, scans.thumbnails, "scan", []))) == len(scans.images)
    half = replace(manifest, cases=(*known.cases[:24], *manifest.cases[24:]))
    groups = group_cases(half, scans.thumbnails, "scan", [])
    assert len(set(groups[:24])) == 24
    assert len(set(groups[24:])) < 24
    assert not set(groups[:24]) & set(groups[24:])


def test_a_given_split_is_checked_without_scans(scans: Scans, manifest: Manifest) -> None:
    groups = group_cases(manifest, scans.thumbnails, "scan", [], include_similar=False)
    assert len(set(groups)) == len(scans.images)


def test_refused(scans: Scans, manifest: Manifest) -> None:
    with pytest.raises(UsageError, match=r"Series cannot be grouped by scan.*a series is one scan.*Group by both"):
        group_scans(manifest.cases[:1] * 2, scans.thumbnails[:2])
    manifest.cases[0].path.unlink()
    with pytest.raises(InputError, match=r"Every image that was read before is read again"):
        group_scans(manifest.cases[:2], scans.thumbnails[:2])
    assert group_scans([], scans.thumbnails[:0]) == []
