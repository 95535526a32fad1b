"""The slices of a case that is a series: folders, volumes, single slices, and what is refused or left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import dataset, written
from pydicom.uid import CTImageStorage, generate_uid

from reslink.errors import InputError
from reslink.imaging.series_slices import read_series_slices


def head(level: float, radius: float = 30.0) -> np.ndarray:
    y, x = np.mgrid[:96, :96]
    pixels = np.full((96, 96), -1000.0)
    pixels[np.hypot((y - 48) / 1.2, x - 48) < radius] = 60
    pixels[np.hypot((y - 48) / 1.2, x - 48) < radius - 4] = level
    return pixels


def write(folder: Path, positions: list[float], radius: float = 30.0, first: int = 0, **changes: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"SeriesInstanceUID": generate_uid(), "SOPClassUID": CTImageStorage, "Modality": "CT", "BodyPartExamined": "HEAD"}
    fields |= {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [2.0, 2.0]}
    fields |= {"RescaleSlope": 1, "RescaleIntercept": -1024} | changes
    for i, z in enumerate(positions, first):
        position = {"ImagePositionPatient": [-90.0, -90.0, z], "SOPInstanceUID": generate_uid()}
        stored = (head(10 + z, radius) + 1024).astype(np.uint16)
        (folder / f"{i}.dcm").write_bytes(written(dataset(stored, **fields, **position)))


def test_the_slices_of_a_folder_are_ordered_by_position(tmp_path):
    write(tmp_path, [20.0, 0.0, 10.0])
    series = read_series_slices(tmp_path, "s")
    assert [file.name for file in series.files] == ["1.dcm", "2.dcm", "0.dcm"]
    assert [float(plane.pixels[48, 48]) for plane in series.planes] == [10, 20, 30]
    assert (series.positions, series.count, series.unreadable) == ((0, 1, 2), 3, ())


def test_slices_with_little_or_no_head_are_left_out(tmp_path):
    write(tmp_path, [0.0, 10.0, 20.0], SeriesInstanceUID="2.25.1")
    write(tmp_path, [30.0], radius=14.0, first=3, SeriesInstanceUID="2.25.1")
    series = read_series_slices(tmp_path, "s")
    assert (series.positions, series.count) == ((0, 1, 2), 4)


def test_a_series_without_a_head_is_refused(tmp_path):
    write(tmp_path, [0.0, 10.0], radius=0)
    with pytest.raises(InputError, match=r"s has 2 slices, and no slice shows a head.*needs a slice with a head"):
        read_series_slices(tmp_path, "s")


def test_a_folder_with_two_series_is_refused_with_their_names(tmp_path):
    write(tmp_path, [0.0, 10.0, 20.0])
    write(tmp_path, [0.0, 10.0], first=3)
    with pytest.raises(
        InputError, match=r"(?s)s holds 2 series.*0\.dcm \(3 slices\), 3\.dcm \(2 slices\).*A case is one series.*own"
    ):
        read_series_slices(tmp_path, "s")


def test_a_series_and_a_slice_of_another_are_refused(tmp_path):
    write(tmp_path, [0.0, 10.0, 20.0])
    write(tmp_path, [5.0], first=3)
    with pytest.raises(InputError, match=r"3\.dcm \(1 slice\)"):
        read_series_slices(tmp_path, "s")


def test_two_slices_at_one_position_are_refused(tmp_path):
    write(tmp_path, [0.0, 10.0, 10.0])
    with pytest.raises(InputError, match=r"cannot be used as a series.*same position"):
        read_series_slices(tmp_path, "s")


def test_an_unreadable_slice_is_named_and_the_others_are_used(tmp_path):
    write(tmp_path, [0.0, 10.0, 20.0])
    content = (tmp_path / "1.dcm").read_bytes()
    (tmp_path / "1.dcm").write_bytes(content[: len(content) // 2])
    series = read_series_slices(tmp_path, "s")
    assert len(series.planes) == 2
    assert len(series.unreadable) == 1
    assert "1.dcm" in series.unreadable[0]


def test_one_slice_is_a_series(tmp_path):
    write(tmp_path, [0.0])
    assert len(read_series_slices(tmp_path, "s").planes) == 1
    assert len(read_series_slices(tmp_path / "0.dcm", "s").planes) == 1


def test_a_localizer_beside_the_series_is_not_used(tmp_path):
    write(tmp_path, [0.0, 10.0, 20.0], SeriesInstanceUID="2.25.1")
    write(tmp_path, [5.0], first=3, SeriesInstanceUID="2.25.1", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert [file.name for file in read_series_slices(tmp_path, "s").files] == ["0.dcm", "1.dcm", "2.dcm"]


def test_a_folder_without_dicom_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(InputError, match=r"s is a folder without DICOM files"):
        read_series_slices(tmp_path, "s")


def test_a_volume_gives_its_slices(tmp_path):
    np.save(tmp_path / "v.npy", np.stack([head(20), head(30), np.full((96, 96), -1000.0)]).astype(np.float32))
    series = read_series_slices(tmp_path / "v.npy", "v", "hu")
    assert (series.positions, series.count) == ((0, 1), 3)
