"""Pixel data of every supported transfer syntax: exact values, and refusal of incomplete data."""

from __future__ import annotations

from typing import Any

import builders as b
import numpy as np
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

from reslink.errors import InputError
from reslink.imaging.reading import read_image

STORED = b.picture(48, 40).astype(np.uint16) * 16
CT = {"Modality": "CT", "SOPClassUID": b.CT_CLASS, "RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}
LOSSLESS = [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGLossless, uid.JPEGLosslessSV1]


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian])
def test_uncompressed_syntaxes(syntax: uid.UID) -> None:
    big = syntax == uid.ExplicitVRBigEndian
    ds = b.dataset(STORED, **CT)
    ds.PixelData = STORED.astype(">u2" if big else "<u2").tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    np.testing.assert_array_equal(read_image(b.written(ds)).pixels, STORED - 1024.0)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda s: s.name[:40])
@pytest.mark.parametrize("frames", [1, 3])
def test_compressed_without_loss_is_exact(syntax: uid.UID, frames: int) -> None:
    array = STORED if frames == 1 else np.stack([STORED, STORED[::-1], STORED // 3])
    image = read_image(b.compressed(array, syntax, **CT))
    np.testing.assert_array_equal(image.pixels, array - 1024.0)
    assert image.unit == "HU"


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless])
def test_compressed_signed_pixels(syntax: uid.UID) -> None:
    signed = STORED.astype(np.int16) - 2000
    np.testing.assert_array_equal(read_image(b.compressed(signed, syntax, **CT)).pixels, signed - 1024.0)


def jpeg_file(stream: bytes, array: np.ndarray, syntax: uid.UID = uid.JPEGBaseline8Bit, **attributes: Any) -> bytes:
    ds = b.dataset(array, **attributes)
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = syntax
    return b.written(ds)


def test_jpeg_baseline_is_near() -> None:
    from PIL import Image as Pillow

    stream = b.saved(Pillow.fromarray(b.picture()), "JPEG", quality=95)
    np.testing.assert_allclose(read_image(jpeg_file(stream, b.picture())).pixels, b.picture(), atol=8)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda s: s.name[:40])
def test_half_a_codestream_is_refused(syntax: uid.UID) -> None:
    stream = b.encoded(STORED, syntax, b.dataset(STORED))
    for cut in (stream[: len(stream) // 2], stream[: len(stream) // 2].rstrip(b"\xff") + b"\xff\xd9"):
        with pytest.raises(InputError, match="cannot be read"):
            read_image(jpeg_file(cut + b"\0" * (len(cut) % 2), STORED, syntax))


def test_a_codestream_of_another_size_is_refused() -> None:
    for syntax in LOSSLESS:
        stream = b.encoded(STORED, syntax, b.dataset(STORED))
        taller = b.dataset(STORED, Rows=96)
        taller.PixelData = encapsulate([stream])
        taller["PixelData"].VR = "OB"
        taller.file_meta.TransferSyntaxUID = syntax
        with pytest.raises(InputError, match="cannot be read"):
            read_image(b.written(taller))


@pytest.mark.parametrize("syntax", [uid.MPEG2MPML, uid.JPEG2000MC, "1.2.840.10008.1.2.4.94"])
def test_other_syntaxes_are_refused_by_name(syntax: str) -> None:
    data = jpeg_file(b"\0" * 100, STORED, uid.UID(syntax))
    with pytest.raises(InputError, match=f"has the transfer syntax {uid.UID(syntax).name.split()[0]}"):
        read_image(data)
