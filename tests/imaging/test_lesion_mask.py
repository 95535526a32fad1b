"""A mask is turned like its image: one without orientation was drawn on the stored pixels."""

from __future__ import annotations

import io
from pathlib import Path

import builders as b
import numpy as np
import pytest
from PIL import Image as Pillow

from reslink.datasets.cache.decode import DecodeJob, decode_case
from reslink.imaging.image import Image
from reslink.imaging.lesion_mask import aligned_mask, encode_mask
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image

STORED = b.picture(48, 40)
LESION = np.zeros((48, 40), np.uint8)
LESION[5:11, 26:36] = 255
TRANSPOSED = [0, -1, 0, 1, 0, 0]


def dicom(pixels: np.ndarray, orientation: list[float] | None) -> bytes:
    return b.written(b.dataset(pixels, ImageOrientationPatient=orientation, ImagePositionPatient=[0, 0, 0]))


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("orientation", [[1, 0, 0, 0, 1, 0], [-1, 0, 0, 0, 1, 0], [1, 0, 0, 0, -1, 0], TRANSPOSED])
def test_every_mask_follows_the_pixels_of_its_image(orientation: list[float]) -> None:
    """A bright square stands where the lesion is, in the file and after reading."""
    marked = np.where(LESION, 255, STORED // 2).astype(np.uint8)
    image = read_image(dicom(marked, orientation))
    for content in (png(LESION), dicom(LESION, orientation), dicom(LESION, None), b.npy(LESION)):
        mask = aligned_mask(read_image(content), image)
        np.testing.assert_array_equal(mask.pixels > 0, image.pixels == 255)


def test_a_dicom_mask_of_a_picture_goes_back_to_its_stored_pixels() -> None:
    mask = aligned_mask(read_image(dicom(LESION, TRANSPOSED)), read_image(png(STORED)))
    np.testing.assert_array_equal(mask.pixels, LESION)


def test_a_mask_of_a_picture_is_not_changed() -> None:
    mask, image = read_image(png(LESION)), read_image(png(STORED))
    assert aligned_mask(mask, image) is mask


def test_training_turns_the_mask(tmp_path: Path) -> None:
    """The network sees the same pixels and the same lesion for both ways to store a slice."""
    y, x = np.mgrid[-32:32, -32:32]
    head = np.where(np.hypot(x / 20, y / 26) < 1, 160, 0).astype(np.uint8)
    head[12:20, 34:42] = 250
    lesion = (head == 250).astype(np.uint8) * np.uint8(255)
    rows = []
    for name, turn, orientation in (("a", lambda a: a, [1, 0, 0, 0, 1, 0]), ("b", lambda a: a.T[:, ::-1], TRANSPOSED)):
        (tmp_path / f"{name}.dcm").write_bytes(dicom(np.ascontiguousarray(turn(head)), orientation))
        (tmp_path / f"{name}.png").write_bytes(png(np.ascontiguousarray(turn(lesion))))
        rows.append(decode_case(DecodeJob(name, tmp_path / f"{name}.dcm", tmp_path / f"{name}.png", Preprocess(), True)))
    np.testing.assert_array_equal(rows[0].pixels, rows[1].pixels)
    np.testing.assert_array_equal(rows[0].mask, rows[1].mask)
    assert rows[0].mask.any()


def test_images_state_what_they_do_not_know() -> None:
    known, unknown = read_image(dicom(STORED, TRANSPOSED)), read_image(dicom(STORED, None))
    assert known.orientation is not None and known.notes == ()  # noqa: PT018
    assert unknown.orientation is None
    assert "does not state its orientation" in unknown.notes[0]
    assert unknown.slices()[0].notes == unknown.notes
    assert read_image(png(STORED)).notes == ()
    assert Image(np.zeros((16, 16), np.float32), unit="MR").orientation is None


def test_an_encoded_mask_has_two_values() -> None:
    mask = np.array([[0, 0.5, 1], [7, 0, -1]], np.float32)
    assert np.asarray(Pillow.open(io.BytesIO(encode_mask(mask)))).tolist() == [[0, 255, 255], [255, 0, 255]]
