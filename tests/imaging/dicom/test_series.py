"""The order of DICOM files, from the place that their headers state."""

from __future__ import annotations

from pathlib import Path

import builders as b
import pytest
from pydicom import dcmread

from reslink.imaging.reading import find_images


def write(folder: Path, places: list[float]) -> None:
    """Writes slices under the names 0, 1, 2 and so on."""
    for i, z in enumerate(places):
        place = {"ImagePositionPatient": [3, 4, z], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        ds = b.dataset(b.picture(), SOPInstanceUID=f"2.25.{i + 1}", SeriesInstanceUID="2.25.7", **place)
        (folder / str(i)).write_bytes(b.written(ds))


@pytest.mark.parametrize("block", [70_000, 2_000_000])
def test_a_long_value_before_the_place_changes_no_order(tmp_path: Path, block: int) -> None:
    places = [5.0, -5.0, 0.0, 10.0]
    write(tmp_path, places)
    for path in tmp_path.iterdir():
        ds = dcmread(path)
        ds.private_block(0x0019, "MAKER", create=True).add_new(1, "OB", bytes(block))
        ds.save_as(path)
    assert [float(dcmread(file).ImagePositionPatient[2]) for file in find_images([tmp_path])] == sorted(places)


def test_a_header_of_many_items_is_given_up_after_so_many_bytes(tmp_path: Path) -> None:
    """Where a slice lies is read in this process, so what is read of a file has a limit."""
    write(tmp_path, [0.0, 5.0])
    path = tmp_path / "0"
    ds = dcmread(path)
    ds.ReferencedImageSequence = [b.item(ReferencedSOPInstanceUID="2.25." + "1" * 59) for _ in range(4000)]
    ds["ReferencedImageSequence"].is_undefined_length = True
    ds.save_as(path)
    assert find_images([tmp_path])[-1] == path
