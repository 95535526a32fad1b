"""Series of remote files are those of the same files in memory."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from reslink.imaging.dicom import listed_slices, series
from reslink.imaging.dicom.geometry import Plane
from reslink.imaging.dicom.listed_slices import ListedSlices
from reslink.imaging.dicom.series import group_files
from reslink.remote_paths import RemotePath


def test_series_slices_and_files_without_a_position_come_in_the_order_of_local_files(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = random.Random(0)
    headers: dict[Path, tuple[str, Plane] | None] = {}
    for i in range(60):
        plane = Plane(np.array([drawn.random(), 0.1, drawn.choice([0.3, drawn.random()])]), *np.eye(3)[:2])
        headers[RemotePath(f"s3://heads/{i:02d}.dcm", f"v{i}")] = drawn.choice([None, ("1.2", plane), ("1.1", plane)])
    for module in (series, listed_slices):
        monkeypatch.setattr(module, "read_series_position", headers.__getitem__)
    with ListedSlices() as slices:
        for start in (0, 30):  # two folders
            files = list(headers)[start : start + 30]
            for file in files:
                slices.add(file)
            found = list(slices.take_series())
            assert found == group_files(files)
            assert sum(len(members) > 1 for members in found) == 2
            assert {file.version for members in found for file in members} == {file.version for file in files}
        assert list(slices.take_series()) == []
