"""Gray TIFF of every depth, byte order, layout and polarity, written byte by byte or by libtiff."""

from __future__ import annotations

import io
import itertools
import struct
import warnings
from typing import Any

import builders as b
import numpy as np
import pytest
from PIL import Image as Pillow

from reslink.datasets.phantom.cohort import render_slice
from reslink.errors import InputError
from reslink.imaging.limits import ImagingWarning
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image

WIDE = b.picture().astype(np.uint16) * 257


def pixels(data: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_image(data).pixels


LAYOUTS = [{"big": big, **parts} for big in (False, True) for parts in ({}, {"strips": 5}, {"tile": 16})]
DEPTHS = {
    "uint8": (WIDE // 257).astype(np.uint8),
    "uint16": WIDE,
    "float16": (WIDE / 65535).astype(np.float16),
    "float32": (WIDE / 65535).astype(np.float32),
    "float64": WIDE / 65535,
    "int8": (WIDE // 514).astype(np.int8),
    "int16": (WIDE // 4).astype(np.int16),
}


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_white_is_zero_is_the_same_picture(depth: str, layout: dict[str, Any]) -> None:
    values = DEPTHS[depth]
    largest = 2 ** (values.itemsize * 8) - 1 if values.dtype.kind == "u" else values.max()
    black = pixels(b.tiff(values, 1, **layout))
    np.testing.assert_array_equal(black, values.astype(np.float32))
    white = pixels(b.tiff((largest - values).astype(values.dtype), 0, **layout))
    np.testing.assert_allclose(white - white.min(), black - black.min(), atol=2e-3 if depth == "float16" else 1e-6)
    if values.dtype.kind == "u":
        np.testing.assert_array_equal(white, black)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("big", [False, True])
def test_packed_bits_have_a_polarity_too(bits: int, big: bool) -> None:
    values = WIDE[:, :40] >> (16 - bits)
    planes = [(values >> shift) & 1 for shift in range(bits - 1, -1, -1)]
    packed = np.packbits(np.stack(planes, axis=-1).reshape(48, -1).astype(np.uint8), axis=1)
    expected = np.rint(values * (255 / (2**bits - 1)))
    for photometric, content in ((1, packed), (0, ~packed)):
        np.testing.assert_array_equal(pixels(b.tiff(content, photometric, big=big, bits=bits, width=40)), expected)


@pytest.mark.parametrize(
    ("compression", "predictor"),
    [("packbits", 1), *itertools.product(("tiff_lzw", "tiff_adobe_deflate"), (1, 2, 3))],
)
@pytest.mark.parametrize("values", [WIDE, WIDE.astype(np.float32) / 7], ids=["uint16", "float32"])
def test_compressed_values_are_those_of_libtiff(compression: str, predictor: int, values: np.ndarray) -> None:
    predictor = min(predictor, 2) if values.dtype.kind == "u" else predictor  # 3 is for floating point
    info = {317: predictor} if predictor > 1 else {}
    data = b.saved(Pillow.fromarray(values), "TIFF", compression=compression, tiffinfo=info)
    np.testing.assert_array_equal(np.asarray(Pillow.open(io.BytesIO(data))), values)
    np.testing.assert_array_equal(read_image(data).pixels, values.astype(np.float32))
    data = data.replace(struct.pack("<HHIHH", 262, 3, 1, 1, 0), struct.pack("<HHIHH", 262, 3, 1, 0, 0))
    top = 65535 if values.dtype.kind == "u" else values.max()
    np.testing.assert_array_equal(read_image(data).pixels, np.float32(top) - values)


def test_white_is_zero_subtracts_from_the_stated_maximum() -> None:
    data = b.tiff((WIDE / 65535).astype(np.float32), 0, t341=2.0)
    np.testing.assert_allclose(read_image(data).pixels, 2 - WIDE / 65535, atol=1e-6)
    assert (read_image(data).unit, read_image(data).modality, read_image(data).white) == ("MR", None, None)


def test_the_network_sees_the_same_head_for_both_polarities() -> None:
    y, x = np.mgrid[-48:48, -48:48]
    head = np.where(np.hypot(x / 30, y / 38) < 1, 0.3 + 0.3 * np.cos(x / 9) ** 2 + 0.2 * np.sin(y / 5) ** 2, 0)
    seen = []
    for dtype, top in ((np.uint16, 65535), (np.float32, 1), (np.float64, 1), (np.int16, 20000)):
        values = (head * top).astype(dtype)
        for photometric in (1, 0):
            content = values if photometric else (top - values).astype(dtype)
            seen.append(Preprocess()(read_image(b.tiff(content, photometric))))
    for other in seen[1:]:
        np.testing.assert_allclose(other, seen[0], atol=2 / 255 / 0.25)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_tag_is_applied_at_every_depth(orientation: int) -> None:
    data = b.saved(Pillow.fromarray(WIDE.astype(np.float32)), "TIFF", tiffinfo={274: orientation})
    expected = np.asarray(Pillow.open(io.BytesIO(data)))
    np.testing.assert_array_equal(read_image(data).pixels, expected)


def test_signed_values_keep_their_sign() -> None:
    signed = (WIDE // 64).astype(np.int16) - 300
    np.testing.assert_array_equal(read_image(b.tiff(signed, 1)).pixels, signed)
    np.testing.assert_array_equal(read_image(b.tiff(signed.astype(np.int32), 1)).pixels, signed)
    image = read_image(b.tiff(signed + 300, 1))
    assert (image.unit, image.white) == ("gray", 65535.0)


def test_reversed_bits_are_undone() -> None:
    reverse = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1], axis=1)[:, 0]
    swapped = reverse[WIDE.view(np.uint8)].view(np.uint16)
    np.testing.assert_array_equal(pixels(b.tiff(swapped, 1, t266=2)), WIDE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b.tiff(WIDE.astype(np.uint32) * 70000, 1), "has 32-bit integers"),
        (b.tiff(WIDE.astype(np.uint32), 0), "has 32-bit integers"),
        (b.tiff(WIDE, None), r"does not state whether 0 is black or white \(tag 262\)"),
        (b.tiff(WIDE, 0, bits=12), "of 12 bits .* photometric interpretation 0"),
        (
            b.tiff(WIDE.astype(np.uint64), 1),
            r"1 samples per pixel of 64 bits \(unsigned\) and the photometric interpretation 1",
        ),
        (b.tiff(WIDE, 4), "16 bits .* photometric interpretation 4"),
        (b.tiff(WIDE, 1)[:-2000], "cannot be read"),
        (b"MM\0+" + bytes(60), "is a big-endian BigTIFF"),
    ],
    ids=["beyond 16 bits", "32 bits inverted", "no polarity", "12 bits", "64 bits", "mask", "cut", "BigTIFF"],
)
def test_what_cannot_be_honored_is_refused_in_words(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_image(data)
    assert caught.value.next_step


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("kind", ["u2", "i2", "inverted"])
def test_stored_hu_are_converted_as_in_a_png(kind: str, layout: dict[str, Any]) -> None:
    values = np.clip(np.rint(render_slice(4, 1, level=0.0, sequence="CT", size=128).pixels) + 1024, 0, 4095).astype(np.uint16)
    stored = 65535 - values if kind == "inverted" else values.astype(kind)
    with pytest.warns(ImagingWarning, match=r"holds HU \+ 1024 by its histogram"):
        expected = read_image(b.saved(Pillow.fromarray(values), "PNG"))
    with pytest.warns(ImagingWarning, match=r"holds HU \+ 1024 by its histogram"):
        image = read_image(b.tiff(stored, 0 if kind == "inverted" else 1, **layout))
    np.testing.assert_array_equal(image.pixels, expected.pixels)
    np.testing.assert_array_equal(image.pixels, values - 1024.0)
    assert (image.unit, image.modality, image.white) == (expected.unit, expected.modality, expected.white) == ("HU", "CT", None)


def test_other_16_bit_values_are_gray() -> None:
    for image in (read_image(b.tiff(WIDE, 1)), read_image(b.tiff((WIDE // 4).astype(np.int16), 1))):
        assert (image.unit, image.modality, image.white) == ("gray", None, 65535.0)
