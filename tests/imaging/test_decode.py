"""Formats from the first bytes of files that other libraries wrote."""

from __future__ import annotations

import io

import builders as b
import numpy as np
import pytest
from PIL import Image as Pillow
from pydicom import uid

from reslink.imaging.decode import HEAD_BYTES, decode, decodes_in_process, detect_image_format

PICTURE = b.picture()


def without_preamble(implicit: bool) -> bytes:
    stream, dataset = io.BytesIO(), b.dataset(PICTURE)
    del dataset.file_meta
    dataset.save_as(stream, implicit_vr=implicit, little_endian=True)
    return stream.getvalue()


FILES = {
    **{kind: b.saved(Pillow.fromarray(PICTURE), kind) for kind in ("PNG", "JPEG", "TIFF", "WEBP", "BMP")},
    "NPY": b.npy(PICTURE),
    "NIFTI": b.nifti(PICTURE),
    "DICOM": b.written(b.dataset(PICTURE)),
}
VARIANTS = [
    *FILES.items(),
    ("NIFTI", b.zipped(b.nifti(PICTURE))),
    ("DICOM", without_preamble(implicit=True)),
    ("DICOM", without_preamble(implicit=False)),
    ("DICOM", b"II*\0" + b.written(b.dataset(PICTURE))[4:]),  # a TIFF header in the preamble
]


@pytest.mark.parametrize(("file_format", "data"), VARIANTS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(VARIANTS)])
def test_the_format_is_detected(file_format: str, data: bytes) -> None:
    assert detect_image_format(data[:HEAD_BYTES]) == file_format


@pytest.mark.parametrize(
    "head", [b"", b"BM", b"RIFF\0\0\0\0WAVE", b"%PDF-1.7", b"\0" * HEAD_BYTES, b"PK\x03\x04" + b"\0" * 100]
)
def test_other_content_has_no_format(head: bytes) -> None:
    assert detect_image_format(head) is None


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "NPY", "DICOM"])
def test_every_format_has_its_decoder(file_format: str) -> None:
    image, geometry = decode(file_format, FILES[file_format], "it")
    np.testing.assert_array_equal(image.pixels, PICTURE)
    assert geometry == {}


def test_a_slice_has_its_geometry() -> None:
    tags = {"ImagePositionPatient": [1, 2, 3], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "SeriesInstanceUID": "2.25.7"}
    _, geometry = decode("SLICE", b.written(b.dataset(PICTURE, **tags)), "it")
    assert geometry == {
        "position": [1, 2, 3],
        "rows": [1, 0, 0],
        "columns": [0, 1, 0],
        "series": "2.25.7",
        "localizer": False,
        "excluded": None,
    }


def test_only_small_simple_files_are_decoded_in_this_process() -> None:
    compressed = b.compressed(PICTURE.astype(np.uint16), uid.JPEGLSLossless)
    answers = {name: decodes_in_process(name, FILES[name], "it") for name in ("NPY", "PNG", "DICOM", "NIFTI", "TIFF")}
    assert answers == {"NPY": True, "PNG": True, "DICOM": True, "NIFTI": False, "TIFF": False}
    assert not decodes_in_process("DICOM", compressed, "it")
