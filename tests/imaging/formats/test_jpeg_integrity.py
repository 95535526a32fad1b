"""Complete JPEG streams are read; streams with missing data are refused."""

from __future__ import annotations

import io
import struct

import builders as b
import numpy as np
import pytest
from PIL import Image as Pillow

from reslink.errors import InputError
from reslink.imaging.reading import read_image

PICTURE = b.picture()
SHAPE = PICTURE.shape
GRAY = Pillow.fromarray(PICTURE)


def test_a_jpeg_that_ends_in_mid_gray_is_complete() -> None:
    """Mid-gray in the last block looks like missing data; the second decoding tells them apart."""
    flat = PICTURE.copy()
    flat[-16:] = 128
    data = b.saved(Pillow.fromarray(flat), "JPEG", quality=95)
    np.testing.assert_allclose(read_image(data).pixels, flat, atol=8)


def test_a_jpeg_with_fewer_rows_than_its_header_is_refused() -> None:
    data = bytearray(b.saved(GRAY, "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 2] = struct.pack(">H", SHAPE[0] * 4)
    Pillow.open(io.BytesIO(bytes(data))).load()
    with pytest.raises(InputError, match="a part of the JPEG picture is missing"):
        read_image(bytes(data))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_truncated_jpeg_with_an_end_marker_is_refused(share: float, options: dict[str, object], mode: str) -> None:
    big = Pillow.fromarray(b.picture(128, 160)).convert(mode)
    data = b.saved(big, "JPEG", quality=90, **options)
    start = data.index(b"\xff\xda") + 14
    cut = data[: start + int((len(data) - start) * share)].rstrip(b"\xff") + b"\xff\xd9"
    with pytest.raises(InputError, match="JPEG"):
        read_image(cut)


def test_missing_restart_segments_are_refused() -> None:
    data = b.saved(GRAY, "JPEG", restart_marker_blocks=3)
    with pytest.raises(InputError, match="restart markers"):
        read_image(data.replace(data[data.index(b"\xff\xd1") : data.index(b"\xff\xd4")], b""))
