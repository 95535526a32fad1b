"""DICOM files of a folder as one volume, in the order of the positions that their headers state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import builders as b
import nibabel
import numpy as np
import pytest
from pydicom import dcmread, uid

from reslink.errors import InputError
from reslink.imaging.dicom.series import ALTERNATING_ACQUISITIONS, SEVERAL_OWNERS, group_files, group_slices
from reslink.imaging.image import slice_format
from reslink.imaging.reading import read_image, read_series, read_with_geometry
from reslink.imaging.search import find_images

STORED = b.picture(48, 40).astype(np.uint16) * 16
CT = {"Modality": "CT", "SOPClassUID": b.CT_CLASS, "RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}
AXIAL = [1, 0, 0, 0, 1, 0]


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


def write_series(folder: Path, places: list[float], **attributes: Any) -> np.ndarray:
    """Writes slices whose names say nothing about their order; slice i holds the value i."""
    volume = np.stack([STORED + 100 * i for i in range(len(places))])
    for i, z in enumerate(places):
        tags = {"ImageOrientationPatient": AXIAL, "SeriesInstanceUID": "2.25.7", "PixelSpacing": [0.5, 0.5], **attributes}
        ds = b.dataset(volume[i], **CT, ImagePositionPatient=[3, 4, z], SOPInstanceUID=f"2.25.{i + 1}", **tags)
        (folder / f"{(i * 7) % 11:02d}").write_bytes(b.written(ds))
    return volume


def test_a_series_is_sorted_by_position(tmp_path: Path) -> None:
    places = [5.0, -5.0, 0.0, 10.0]
    volume = write_series(tmp_path, places)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").write_bytes(b"x")
    image = read_series(tmp_path)
    np.testing.assert_array_equal(image.pixels, volume[np.argsort(places)] - 1024.0)
    assert image.spacing == (5.0, 0.5, 0.5)
    np.testing.assert_array_equal(read_image(tmp_path).pixels, image.pixels)
    files = find_images([tmp_path])
    assert [int(read_image(f).pixels[0, 0] - image.pixels[0, 0, 0]) for f in files] == [
        int(v) for v in (image.pixels[:, 0, 0] - image.pixels[0, 0, 0])
    ]


@pytest.mark.parametrize("uids", [("", ""), (None, None), ("2.25.7", "")])
def test_files_without_a_series_uid_are_no_series(tmp_path: Path, uids: tuple[str | None, str | None]) -> None:
    """They may be of different patients."""
    write_series(tmp_path, [0.0, 5.0])
    for path, uid_of_series in zip(sorted(tmp_path.iterdir()), uids, strict=True):
        ds = dcmread(path)
        del ds.SeriesInstanceUID
        if uid_of_series is not None:
            ds.SeriesInstanceUID = uid_of_series
        ds.save_as(path)
    files = sorted(tmp_path.iterdir())
    assert group_files(files) == [[path] for path in files]
    slices = [(geometry, slice_format(image)) for image, geometry in map(read_with_geometry, files)]
    assert group_slices(slices) == []


@pytest.mark.parametrize(
    ("owners", "groups"),
    [
        (["A", "A", "B", "B"], [([0, 1], None), ([2, 3], None)]),
        (["A", "B", "C", "D"], [([0, 1, 2, 3], SEVERAL_OWNERS)]),
        (["A", "A", "A", "B"], [([0, 1, 2, 3], SEVERAL_OWNERS)]),
        (["A", "", "A", ""], [([0, 1, 2, 3], None)]),
        (["^Some", "^Some", "^One", "^One"], [([0, 1], None), ([2, 3], None)]),
        (["A", "A", "^Some", "^One"], [([0, 1, 2, 3], None)]),
    ],
)
def test_slices_of_several_patients_with_one_series_uid(
    tmp_path: Path, owners: list[str], groups: list[tuple[list[int], str | None]]
) -> None:
    """Some programs write one Series Instance UID into the files of all patients; others write a new patient into each file."""
    slices = []
    for i, owner in enumerate(owners):
        tags = {"ImageOrientationPatient": AXIAL, "ImagePositionPatient": [3, 4, 5.0 * i], "SeriesInstanceUID": "2.25.7"}
        tags["PatientName" if "^" in owner else "PatientID"] = owner
        (tmp_path / f"{i}.dcm").write_bytes(b.written(b.dataset(STORED, **{**CT, **tags})))
        image, geometry = read_with_geometry(tmp_path / f"{i}.dcm")
        slices.append((geometry, slice_format(image)))
    assert [(group.indices, group.refusal) for group in group_slices(slices)] == groups
    if len(groups) == 1 and groups[0][1] is None:
        assert read_series(tmp_path).pixels.shape == (4, *STORED.shape)
    else:
        with pytest.raises(InputError, match="belong to different series, studies or patients"):
            read_series(tmp_path)


@pytest.mark.parametrize(
    ("acquisitions", "alternate"),
    [
        ("ABABAB", True),
        ("AABBAA", True),
        ("AAABBB", False),
        ("ABCDEF", False),
        ("AABBCC", False),
        ("AAAAAA", False),
        ("      ", False),
    ],
)
def test_acquisitions_at_alternating_positions_are_noted(tmp_path: Path, acquisitions: str, alternate: bool) -> None:
    for i, acquisition in enumerate(acquisitions):
        tags = {"ImageOrientationPatient": AXIAL, "ImagePositionPatient": [3, 4, 2.5 * i], "SeriesInstanceUID": "2.25.7"}
        if acquisition != " ":
            tags["AcquisitionNumber"] = ord(acquisition)
        (tmp_path / f"{i}.dcm").write_bytes(b.written(b.dataset(STORED, **{**CT, **tags})))
    slices = [(geometry, slice_format(image)) for image, geometry in map(read_with_geometry, sorted(tmp_path.iterdir()))]
    [group] = group_slices(slices)
    expected = (ALTERNATING_ACQUISITIONS,) if alternate else ()
    assert (group.refusal, group.notes) == (None, expected)
    assert tuple(note for note in read_series(tmp_path).notes if "acquisitions" in note) == expected


@pytest.mark.parametrize("cosines", [[1, 0, 0, 0, -1, 0], [-1, 0, 0, 0, -1, 0], [0, 1, 0, 1, 0, 0]])
def test_a_series_of_any_direction_is_the_same_volume(tmp_path: Path, cosines: list[float]) -> None:
    """From the feet to the head in the radiological view, also where the normal of the stored slices points to the feet."""
    places = [5.0, -5.0, 0.0, 10.0]
    volume = write_series(tmp_path, places, ImageOrientationPatient=cosines)[np.argsort(places)] - 1024.0
    turned = {-1: volume[:, ::-1, ::-1], 1: volume[:, ::-1], 0: volume.swapaxes(1, 2)}[cosines[0]]
    image = read_series(tmp_path)
    np.testing.assert_array_equal(image.pixels, turned)
    np.testing.assert_array_equal(np.stack([read_image(file).pixels for file in find_images([tmp_path])]), turned)


def test_a_sagittal_series_is_sorted_along_its_own_normal(tmp_path: Path) -> None:
    for i, x in enumerate([2.0, 0.0, 1.0]):
        ds = b.dataset(
            STORED + i, ImagePositionPatient=[x, 0, 0], ImageOrientationPatient=[0, 1, 0, 0, 0, -1], SeriesInstanceUID="2.25.7"
        )
        (tmp_path / f"{i}.dcm").write_bytes(b.written(ds))
    # The normal of rows to the back and columns to the feet points to the patient's right: x falls.
    np.testing.assert_array_equal(read_series(tmp_path).pixels[:, 0, 0] - STORED[0, 0], [0, 2, 1])


def test_uneven_gaps_are_told(tmp_path: Path) -> None:
    write_series(tmp_path, [0.0, 5.0, 15.0, 20.0])
    with pytest.warns(UserWarning, match="uneven gaps between slices: 5.00 to 10.00 mm"):
        read_series(tmp_path)


def test_spacings_are_compared_where_the_first_slice_states_none(tmp_path: Path) -> None:
    for i, spacing in enumerate((None, [0.5, 0.5], [0.6, 0.6])):
        tags = {"ImageOrientationPatient": AXIAL, "SeriesInstanceUID": "2.25.7", "PixelSpacing": spacing}
        (tmp_path / f"{i}.dcm").write_bytes(
            b.written(b.dataset(STORED, **{**CT, **tags, "ImagePositionPatient": [3, 4, 5.0 * i]}))
        )
    with pytest.raises(InputError, match=r"2\.dcm and .*1\.dcm have different pixel spacings"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "odd.dcm is a localizer"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "odd.dcm and .* have different orientations"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, -1, 0]}, "odd.dcm and .* have different orientations"),
        ({"ImagePositionPatient": [3, 4, 5.0]}, "odd.dcm.* have the same position"),
        ({"SeriesInstanceUID": "2.25.8"}, "odd.dcm and .* belong to different series"),
        ({"StudyInstanceUID": "2.25.8"}, "odd.dcm and .* belong to different series, studies or patients"),
        ({"PatientID": "other"}, "odd.dcm and .* belong to different series, studies or patients"),
        ({"PixelSpacing": [0.6, 0.6]}, "odd.dcm and .* have different pixel spacings"),
        ({"ImagePositionPatient": None}, "odd.dcm does not state the position of its slice"),
        ({"RescaleSlope": "nan"}, "odd.dcm cannot be read"),
        ({"RescaleSlope": "", "RescaleIntercept": "", "RescaleType": ""}, "odd.dcm and .* have different kinds of values"),
    ],
)
def test_a_series_with_an_odd_file_is_refused_by_name(tmp_path: Path, odd: dict[str, Any], message: str) -> None:
    owner = {"StudyInstanceUID": "2.25.6", "PatientID": "P"}
    write_series(tmp_path, [0.0, 5.0, 10.0], **owner)
    common = {"ImageOrientationPatient": AXIAL, "SeriesInstanceUID": "2.25.7", "PixelSpacing": [0.5, 0.5], **owner}
    ds = b.dataset(STORED, **{**CT, **common, "ImagePositionPatient": [3, 4, 15.0], **odd})
    (tmp_path / "odd.dcm").write_bytes(b.written(ds))
    with pytest.raises(InputError, match=message):
        read_series(tmp_path)


def test_a_series_of_compressed_slices_uses_one_child(tmp_path: Path) -> None:
    from reslink.imaging.sandbox import pool

    pool._pool.close()  # other tests may have left idle children
    for i in range(8):
        tags = {"ImageOrientationPatient": AXIAL, "SeriesInstanceUID": "2.25.7", "ImagePositionPatient": [0, 0, i]}
        (tmp_path / f"{i}.dcm").write_bytes(b.compressed(STORED + i, uid.JPEGLSLossless, **CT, **tags))
    assert read_series(tmp_path).pixels.shape == (8, *STORED.shape)
    assert len(pool._pool.idle) == 1


@pytest.mark.data
def test_the_ct_head(shared_data: Path) -> None:
    folder = shared_data / "series" / "ct_head"
    image = read_image(folder)
    assert image.pixels.shape == (30, 512, 512)
    assert (image.unit, image.modality) == ("HU", "CT")
    assert image.spacing == pytest.approx((2.0, 0.507, 0.507))
    middle = image.pixels[15]
    assert np.median(middle[(middle > -1200) & (middle < -800)]) == pytest.approx(-1000, abs=20)  # air
    head = middle[180:330, 180:330]
    assert 25 <= np.median(head[(head > 0) & (head < 80)]) <= 42  # brain
    # The skull grows smaller towards the vertex: from the feet to the head.
    areas = [(plane > 300).sum() + ((plane > 0) & (plane < 80)).sum() for plane in image.pixels]
    assert areas[-1] < areas[10]


@pytest.mark.data
def test_the_mr_head(shared_data: Path) -> None:
    image = read_image(shared_data / "series" / "mr_head")
    assert image.pixels.shape == (24, 256, 256)
    assert (image.unit, image.modality) == ("MR", "MR")
    assert image.spacing == pytest.approx((0.9, 0.859375, 0.859375), rel=1e-6)
    steps = np.abs(np.diff(image.pixels[:, 60:200, 60:200], axis=0)).mean(axis=(1, 2))
    shuffled = np.abs(image.pixels[0, 60:200, 60:200] - image.pixels[12, 60:200, 60:200]).mean()
    assert steps.max() < shuffled  # neighbors are alike


@pytest.mark.data
def test_nifti_and_dicom_of_one_head_agree(shared_data: Path, tmp_path: Path) -> None:
    """The same head through nibabel, with the affine of PS3.3 C.7.6.2.1.1, gives the same slices."""
    files = [dcmread(p) for p in sorted((shared_data / "series" / "ct_head").iterdir())]
    files.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    stored = np.stack([ds.pixel_array for ds in files], axis=-1)[::4, ::4]  # (row, column, slice)
    first = files[0]
    affine = np.diag([first.PixelSpacing[1] * 4.0, first.PixelSpacing[0] * 4.0, 2.0, 1.0])
    affine[:3, 3] = first.ImagePositionPatient
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    path = tmp_path / "head.nii.gz"
    nibabel.save(nibabel.Nifti1Image(stored.transpose(1, 0, 2), lps_to_ras @ affine), path)
    from_nifti = read_image(path)
    np.testing.assert_array_equal(from_nifti.pixels, read_image(shared_data / "series" / "ct_head").pixels[:, ::4, ::4])
    assert (from_nifti.unit, from_nifti.spacing) == ("HU", pytest.approx((2.0, 2.028, 2.028)))
