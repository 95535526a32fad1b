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


def segments(data: bytes) -> list[bytes]:
    """The header of a JPEG, cut before each marker up to the first scan; the last part begins with it."""
    parts, at = [data[:2]], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]]


JUNK = {
    "fill bytes": b"\xff\xff\xff",
    "zeros": b"\0\0\0\0",
    "text": b"made by a scanner",
    "stuffed zeros": b"\xff\0\xff\0",
    "an unknown APP": b"\xff\xeb\0\x08hidden",
    "a comment": b"\xff\xfe\0\x07hello",
    "a restart marker": b"\xff\xd3",
}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}], ids=str)
def test_bytes_between_markers_change_nothing(junk: str, options: dict[str, object]) -> None:
    """libjpeg skips them, and so do viewers."""
    data = b.saved(Pillow.fromarray(b.picture(64, 64)), "JPEG", quality=90, **options)
    head, *middle, last = segments(data)
    head += middle.pop(0)  # a JPEG begins with three known bytes
    changed = head + b"".join(JUNK[junk] + part for part in middle) + JUNK[junk] + last
    np.testing.assert_array_equal(np.asarray(Pillow.open(io.BytesIO(changed))), np.asarray(Pillow.open(io.BytesIO(data))))
    np.testing.assert_array_equal(read_image(changed).pixels, read_image(data).pixels)
    start = len(changed) - len(last) + 14
    for share in (0.3, 0.6, 0.9):
        cut = changed[: start + int((len(changed) - start) * share)].rstrip(b"\xff")
        for end in (b"", b"\xff\xd9", b"\xff\xff\xff\xd9"):
            with pytest.raises(InputError, match="JPEG"):
                read_image(cut + end)


def test_fill_bytes_before_the_end_marker_are_no_data() -> None:
    data = b.saved(GRAY, "JPEG", quality=90)
    np.testing.assert_array_equal(read_image(data[:-2] + b"\xff\xff\xff\xd9").pixels, read_image(data).pixels)


def test_a_picture_within_a_picture_is_refused() -> None:
    head, *rest = segments(b.saved(GRAY, "JPEG"))
    with pytest.raises(InputError, match="contains two pictures"):
        read_image(head + rest[0] + b"\xff\xd8" + b"".join(rest[1:]))
