"""Formats from the first bytes of files that other libraries wrote."""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path

import builders as b
import numpy as np
import pytest
from PIL import Image as Pillow
from pydicom import uid

from reslink.errors import InputError
from reslink.files import sha256
from reslink.imaging.decode import HEAD_BYTES, decode, decodes_in_process, detect_image_format, unsupported_format
from reslink.imaging.dicom.header import read_elements_until
from reslink.imaging.reading import read_image
from reslink.imaging.search import find_images

PICTURE = b.picture()


def without_preamble(implicit: bool) -> bytes:
    stream, dataset = io.BytesIO(), b.dataset(PICTURE)
    del dataset.file_meta
    dataset.save_as(stream, implicit_vr=implicit, little_endian=True)
    return stream.getvalue()


WITH_PREAMBLE = b.written(b.dataset(PICTURE))
STANDARD = read_image(WITH_PREAMBLE).pixels


def big_endian() -> bytes:
    stream, dataset = io.BytesIO(), b.dataset(PICTURE)
    del dataset.file_meta
    dataset.save_as(stream, implicit_vr=False, little_endian=False)
    return stream.getvalue()


def implicit_meta() -> bytes:
    """Meta information in implicit VR, as some old writers made it."""
    value = b"1.2.840.10008.1.2.1\0"
    body = without_preamble(implicit=False)
    return b"\2\0\0\0\4\0\0\0" + (8 + len(value)).to_bytes(4, "little") + b"\2\0\x10\0\x14\0\0\0" + value + body


DICOM_STARTS = {
    "group 2": WITH_PREAMBLE[132:],
    "DICM": WITH_PREAMBLE[128:],
    "group 2 without its length": WITH_PREAMBLE[144:],
    "implicit group 2": implicit_meta(),
    "gzip": b.zipped(WITH_PREAMBLE),
    "gzip of group 2": b.zipped(WITH_PREAMBLE[132:]),
    "gzip of group 8": b.zipped(without_preamble(implicit=True)),
    "group 8, implicit": without_preamble(implicit=True),
    "group 8, explicit": without_preamble(implicit=False),
    "group 8, big endian": big_endian(),
}


@pytest.mark.parametrize("start", DICOM_STARTS)
def test_dicom_is_read_with_any_start(start: str, tmp_path: Path) -> None:
    """Alone, in a folder, with the position of the slice, and its header without the pixels."""
    data = DICOM_STARTS[start]
    assert detect_image_format(data[:HEAD_BYTES]) == "DICOM"
    np.testing.assert_array_equal(read_image(data).pixels, STANDARD)
    (tmp_path / "IM0001").write_bytes(data)
    assert find_images([tmp_path]) == [tmp_path / "IM0001"]
    header = read_elements_until(tmp_path / "IM0001", 0x0008FFFF)
    assert header is not None
    assert header.Modality == "MR"


def test_slices_with_any_start_are_sorted_by_position(tmp_path: Path) -> None:
    for i, cut in enumerate((0, 128, 132, None)):
        tags = {
            "ImagePositionPatient": [0, 0, -i],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "SeriesInstanceUID": "2.25.7",
        }
        data = b.written(b.dataset(PICTURE, **tags))
        (tmp_path / f"{i}").write_bytes(b.zipped(data) if cut is None else data[cut:])
    assert [path.name for path in find_images([tmp_path])] == ["3", "2", "1", "0"]


@pytest.mark.parametrize("start", DICOM_STARTS)
def test_broken_dicom_with_any_start_is_an_input_error(start: str) -> None:
    data = DICOM_STARTS[start]
    for length in (40, 200, len(data) // 2, len(data) - 3):
        with pytest.raises(InputError):
            read_image(data[:length])
    rng = np.random.default_rng(5)
    for _ in range(20):
        with pytest.raises(InputError):
            read_image(data[:8] + rng.bytes(600))


def test_a_dicom_bomb_in_gzip_is_refused() -> None:
    with pytest.raises(InputError, match="inflates to more than the limit"):
        read_image(b.zipped(WITH_PREAMBLE + bytes(200 << 20)))


MGH = struct.pack(">6i", 1, 32, 32, 20, 1, 0) + bytes(1000)
HEIF = b"\0\0\0\x18ftyp"
UNSUPPORTED = {
    "GIF": b.saved(Pillow.fromarray(PICTURE), "GIF"),
    "JPEG 2000": b.saved(Pillow.fromarray(PICTURE), "JPEG2000"),
    "JPEG 2000 ": b.encoded(PICTURE.astype(np.uint16), uid.JPEG2000Lossless, b.dataset(PICTURE.astype(np.uint16))),
    "HEIF (HEIC, AVIF)": HEIF + b"heic" + bytes(100),
    "HEIF (HEIC, AVIF) ": HEIF + b"avif" + bytes(100),
    "FreeSurfer MGH (MGH, MGZ)": MGH,
    "gzipped FreeSurfer MGH (MGH, MGZ)": b.zipped(MGH),
    "NRRD": b"NRRD0004\n",
    "MetaImage (MHA, MHD)": b"ObjectType = Image\n",
    "MetaImage (MHA, MHD) ": b"NDims = 3\n",
    "Analyze 7.5 header (HDR)": struct.pack("<i", 348) + bytes(344),
    "Netpbm (PGM, PPM, PBM)": b.saved(Pillow.fromarray(PICTURE), "PPM"),
    "gzipped PNG": b.zipped(b.saved(Pillow.fromarray(PICTURE), "PNG")),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_image_formats_are_named(name: str, tmp_path: Path) -> None:
    """Also without a suffix, and in a folder, where they are not passed over."""
    data = UNSUPPORTED[name]
    assert unsupported_format(data[:HEAD_BYTES]) == name.strip()
    (tmp_path / "unnamed").write_bytes(data)
    [found] = find_images([tmp_path])
    with pytest.raises(
        InputError, match=rf"is a file in the format {re.escape(name.strip())}\. The supported.*Convert the file"
    ):
        read_image(found)


@pytest.mark.parametrize("name", ["a.img", "a.mgz", "a.hdr", "a.j2k", "a.avif", "a.ima", "a.dcm.gz", "a.jfif", "a.pgm"])
def test_a_name_of_an_image_is_not_passed_over(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\1\2\3 no known content")
    assert find_images([tmp_path]) == [tmp_path / name]


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a.ima", "A0001"])
def test_content_decides_for_every_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(WITH_PREAMBLE if name in ("a.ima", "A0001") else FILES["JPEG"])
    assert read_image(tmp_path / name).pixels.shape == PICTURE.shape


@pytest.mark.parametrize("content", [b"path,label\n" * 200, b"\x08\0\x08\xff" * 300, bytes(2000), b"P5X" * 200])
def test_other_content_in_gzip_and_alone_is_no_image(content: bytes) -> None:
    for data in (content, b.zipped(content)):
        assert detect_image_format(data[:HEAD_BYTES]) is None
        assert unsupported_format(data[:HEAD_BYTES]) is None


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
    tags |= {"StudyInstanceUID": "2.25.6", "PatientID": "P"}
    _, geometry = decode("SLICE", b.written(b.dataset(PICTURE, **tags)), "it")
    assert geometry == {
        "position": [1, 2, 3],
        "rows": [1, 0, 0],
        "columns": [0, 1, 0],
        "series": "2.25.7",
        "owner": ["2.25.6", sha256("P"), ""],
        "localizer": False,
        "excluded": None,
        "thickness": None,
        "description": "",
        "acquisition": "",
    }


def test_only_small_simple_files_are_decoded_in_this_process() -> None:
    compressed = b.compressed(PICTURE.astype(np.uint16), uid.JPEGLSLossless)
    answers = {name: decodes_in_process(name, FILES[name], "it") for name in ("NPY", "PNG", "DICOM", "NIFTI", "TIFF")}
    assert answers == {"NPY": True, "PNG": True, "DICOM": True, "NIFTI": False, "TIFF": False}
    assert not decodes_in_process("DICOM", compressed, "it")
