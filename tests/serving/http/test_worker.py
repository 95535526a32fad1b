"""A file as the worker prepares it, compared with the readers and the preprocessing."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image as Picture
from uploaded import dicom, head, nifti, png

from reslink.errors import InputError
from reslink.imaging.head_mask import SEVERAL_HEADS, head_mask
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.serving.http import worker
from reslink.serving.http.worker import PrepareRequest, prepare

PREPROCESSES = [Preprocess(size=64), Preprocess(size=96, channels=1)]


@pytest.fixture(autouse=True)
def preprocesses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_preprocesses", PREPROCESSES)


def test_the_pixels_are_those_of_the_preprocessing() -> None:
    prepared = prepare(nifti(3), PrepareRequest((0, 1)))
    slices = read_image(nifti(3)).slices()
    assert (prepared.slices, prepared.unit, prepared.slice_format) == (3, slices[0].unit, None)
    for index, preprocess in enumerate(PREPROCESSES):
        np.testing.assert_array_equal(prepared.pixels[index], [preprocess.pixels(plane) for plane in slices])
    assert prepared.size == 3 * (64 * 64 * PREPROCESSES[0].planes + 96 * 96)


def test_one_slice_can_be_requested() -> None:
    [pixels] = prepare(nifti(3), PrepareRequest((0,), slice=2)).pixels[0]
    np.testing.assert_array_equal(pixels, PREPROCESSES[0].pixels(read_image(nifti(3)).slices()[2]))
    with pytest.raises(InputError, match=r"Slice 3 was requested.*has 3 slices, counted from 0.*from 0 to 2"):
        prepare(nifti(3), PrepareRequest((0,), slice=3))
    with pytest.raises(InputError, match=r"has 3 slices.*at most 2 slices"):
        prepare(nifti(3), PrepareRequest((0,), max_slices=2))


def test_a_contact_sheet_is_stated_as_such() -> None:
    several, single = (np.tile(head(1), count) for count in ((2, 3), (1, 1)))
    for pixels, excluded in ((several, SEVERAL_HEADS), (single, None)):
        content = io.BytesIO()
        Picture.fromarray(pixels).save(content, "PNG")
        assert prepare(content.getvalue(), PrepareRequest((0,))).stated.excluded == excluded


def test_heads_are_measured_only_where_there_can_be_a_series() -> None:
    assert prepare(png(1), PrepareRequest(head_areas=True)).head_areas == []
    [area] = prepare(dicom(1), PrepareRequest(head_areas=True)).head_areas
    assert area == head_mask(read_image(dicom(1))).sum() > 0


def test_the_viewer_gets_the_values_of_the_file() -> None:
    view = prepare(dicom(1), PrepareRequest(view_pixels=96 * 96)).view
    stored = np.frombuffer(zlib.decompress(view.packed), "<i2").reshape(view.shape)
    np.testing.assert_array_equal(stored[0] * view.scale + view.offset, head(1).astype(float) - 20)
    assert (view.shape, view.step, view.spacing, view.window) == ((1, 96, 96), 1, (1.0, 1.0), (40.0, 80.0))


def viewed(data: bytes) -> worker.ViewerVolume:
    view = prepare(data, PrepareRequest(view_pixels=96 * 96 * 3)).view
    assert view is not None
    return view


def test_the_viewer_gets_sides_position_thickness_and_description() -> None:
    told = {"SliceThickness": 2.5, "SeriesDescription": " Head\x1b 2.0 ", "PatientName": "Doe^Jane"}
    view = viewed(dicom(1, -30.5, **told))
    assert (view.edges, view.location, view.thickness) == (("R", "L", "A", "P"), -30.5, 2.5)
    assert view.description == r"Head\x1b 2.0"
    assert viewed(dicom(1, **told | {"SeriesDescription": "CT of JANE"})).description == "", "a part of the name"
    turned = viewed(dicom(1, ImageOrientationPatient=[-1.0, 0, 0, 0, -1, 0]))
    assert turned.edges == ("R", "L", "A", "P"), "the pixels are in the radiological view"
    sagittal = viewed(dicom(1, ImageOrientationPatient=[0, 1.0, 0, 0, 0, -1]))
    assert sagittal.edges == ("A", "P", "H", "F")


def test_the_viewer_gets_nothing_that_the_file_does_not_state() -> None:
    for data in (png(1), dicom(1, ImagePositionPatient=None, ImageOrientationPatient=None)):
        view = viewed(data)
        assert (view.edges, view.location, view.thickness, view.description) == (None, None, None, "")
    volume = viewed(nifti(3))
    assert (volume.edges, volume.location, volume.thickness) == (("R", "L", "A", "P"), None, 1.0)


def test_a_volume_beyond_the_limit_is_subsampled() -> None:
    view = prepare(nifti(3), PrepareRequest(view_pixels=3 * 50 * 50)).view
    assert (view.shape, view.step) == ((3, 48, 48), 2)
    stored = np.frombuffer(zlib.decompress(view.packed), "<i2").reshape(view.shape)
    expected = read_image(nifti(3)).pixels[:, ::2, ::2]
    np.testing.assert_allclose(stored * view.scale + view.offset, expected, atol=view.scale)


def test_messages_never_name_the_file() -> None:
    with pytest.raises(InputError, match=r"^the image"):
        prepare(png(1)[:200], PrepareRequest((0,)))


def test_an_orientation_that_is_not_stated_is_a_note_of_dicom_and_not_of_pictures() -> None:
    [note] = prepare(dicom(1, ImageOrientationPatient=None), PrepareRequest((0,))).notes
    assert "does not state its orientation" in note
    assert prepare(dicom(1), PrepareRequest((0,))).notes == prepare(png(1), PrepareRequest((0,))).notes == []


def test_a_slice_of_another_stored_direction_gives_the_same_pixels() -> None:
    hu = head(1).astype(np.int16) - 20
    turned = np.ascontiguousarray(hu[::-1, ::-1])
    prone = dicom(1, PixelData=turned.tobytes(), ImageOrientationPatient=[-1.0, 0, 0, 0, -1, 0])
    expected, found = (prepare(data, PrepareRequest((0,))) for data in (dicom(1), prone))
    np.testing.assert_array_equal(found.pixels[0], expected.pixels[0])
    assert found.slice_format is not None
    assert found.geometry["rows"] == expected.geometry["rows"] == [1, 0, 0]
