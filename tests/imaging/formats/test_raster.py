"""Pictures: the same picture in every dress gives the same pixels; half a picture gives an error."""

from __future__ import annotations

import io
import struct
import zlib

import builders as b
import numpy as np
import pytest
from PIL import Image as Pillow

from reslink.errors import InputError
from reslink.imaging.formats import png_integrity
from reslink.imaging.reading import read_image

PICTURE = b.picture()
SHAPE = PICTURE.shape
GREY = Pillow.fromarray(PICTURE)


def _palette() -> Pillow.Image:
    """A palette whose entries stand in reverse, so that indices are not grey values."""
    image = Pillow.fromarray(255 - PICTURE, "L").copy()
    image.putpalette([v for i in range(256) for v in (255 - i,) * 3])
    return image if image.mode == "P" else image.convert("P")


def _cmyk() -> Pillow.Image:
    zero = np.zeros_like(PICTURE)
    return Pillow.merge("CMYK", [Pillow.fromarray(plane) for plane in (zero, zero, zero, 255 - PICTURE)])


def _rgba() -> Pillow.Image:
    return GREY.convert("RGBA")


EXACT = {
    "png-grey": lambda: b.saved(GREY, "PNG"),
    "png-rgb": lambda: b.saved(GREY.convert("RGB"), "PNG"),
    "png-rgba": lambda: b.saved(_rgba(), "PNG"),
    "png-la": lambda: b.saved(GREY.convert("LA"), "PNG"),
    "png-palette": lambda: b.saved(_palette(), "PNG"),
    "png-trns": lambda: b.saved(GREY, "PNG", transparency=255),
    "png-text": lambda: b.png(SHAPE[1], SHAPE[0], b.rows(PICTURE), extra=b.chunk(b"tEXt", b"Author\0x" * 9)),
    "png-trailing": lambda: b.saved(GREY, "PNG") + b"garbage",
    "tiff": lambda: b.saved(GREY, "TIFF"),
    "tiff-lzw": lambda: b.saved(GREY, "TIFF", compression="tiff_lzw"),
    "tiff-deflate": lambda: b.saved(GREY.convert("RGB"), "TIFF", compression="tiff_adobe_deflate"),
    "tiff-cmyk": lambda: b.saved(_cmyk(), "TIFF"),
    "bmp-grey": lambda: b.saved(GREY, "BMP"),
    "bmp-rgb": lambda: b.saved(GREY.convert("RGB"), "BMP"),
    "bmp-rgba": lambda: b.saved(_rgba(), "BMP"),
    "webp": lambda: b.saved(GREY.convert("RGB"), "WEBP", lossless=True),
    "npy": lambda: b.npy(PICTURE),
    "npy-fortran": lambda: b.npy(np.asfortranarray(PICTURE)),
}


@pytest.mark.parametrize("dress", EXACT)
def test_the_same_picture_in_every_dress_gives_the_same_pixels(dress: str) -> None:
    image = read_image(EXACT[dress]())
    np.testing.assert_array_equal(image.pixels, PICTURE)
    assert (image.unit, image.white, image.modality) == ("grey", 255.0, None)
    assert image.pixels.dtype == np.float32
    assert not image.pixels.flags.writeable


def test_16_bits_are_kept() -> None:
    wide = PICTURE.astype(np.uint16) * 257
    for data in (b.saved(Pillow.fromarray(wide), "PNG"), b.saved(Pillow.fromarray(wide), "TIFF"), b.npy(wide)):
        image = read_image(data)
        assert image.white == 65535.0
        np.testing.assert_array_equal(image.pixels / 257, PICTURE)


def test_16_bit_colour_is_the_same_picture() -> None:
    wide = np.repeat(PICTURE.astype(">u2")[..., None] * 257, 3, axis=-1).astype(">u2")
    image = read_image(b.png(SHAPE[1], SHAPE[0], b.rows(wide), depth=16, colour=2))
    np.testing.assert_allclose(image.pixels / image.white, PICTURE / 255.0, atol=0.005)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(kind: str, orientation: int) -> None:
    # EXIF 2.32, 4.6.4 A: where row 0 and column 0 of the stored picture lie in the scene.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }[orientation](PICTURE)
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    image = Pillow.fromarray(np.ascontiguousarray(stored))
    options = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(kind, {})
    source = image.convert("RGB") if kind == "WEBP" else image
    pixels = read_image(b.saved(source, kind, exif=exif, **options)).pixels
    assert pixels.shape == SHAPE
    np.testing.assert_allclose(pixels, PICTURE, atol=6 if kind == "JPEG" else 0)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"subsampling": 2}])
def test_jpeg_is_what_its_decoder_gives(options: dict[str, object]) -> None:
    for image in (GREY, GREY.convert("RGB")):
        data = b.saved(image, "JPEG", quality=90, **options)
        expected = np.asarray(Pillow.open(io.BytesIO(data)).convert("L"))
        np.testing.assert_array_equal(read_image(data).pixels, expected)


def test_jpeg_of_cmyk_is_the_same_picture() -> None:
    data = b.saved(_cmyk(), "JPEG", quality=100)
    np.testing.assert_allclose(read_image(data).pixels, PICTURE, atol=6)


def test_a_jpeg_that_ends_in_mid_grey_is_whole() -> None:
    """Mid-grey in the last block looks like missing data; the second decoding tells them apart."""
    flat = PICTURE.copy()
    flat[-16:] = 128
    data = b.saved(Pillow.fromarray(flat), "JPEG", quality=95)
    np.testing.assert_allclose(read_image(data).pixels, flat, atol=8)


def test_transparent_pixels_are_black() -> None:
    alpha = np.full(SHAPE, 255, np.uint8)
    alpha[:8] = 0
    image = _rgba()
    image.putalpha(Pillow.fromarray(alpha))
    pixels = read_image(b.saved(image, "PNG")).pixels
    assert pixels[:8].max() == 0
    np.testing.assert_array_equal(pixels[8:], PICTURE[8:])


def test_colour_becomes_luminance() -> None:
    colours = np.zeros((32, 48, 3), np.uint8)
    colours[:, :16, 0] = colours[:, 16:32, 1] = colours[:, 32:, 2] = 255
    pixels = read_image(b.saved(Pillow.fromarray(colours), "PNG")).pixels
    assert pixels[0, [0, 20, 40]] == pytest.approx([0.299 * 255, 0.587 * 255, 0.114 * 255], abs=1)


def test_float_tiff_keeps_its_values() -> None:
    values = PICTURE.astype(np.float32) * 3.7
    image = read_image(b.saved(Pillow.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(image.pixels, values)
    assert (image.unit, image.white) == ("MR", None)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_of_an_animation_the_first_frame_is_taken_with_a_warning(kind: str, options: dict[str, object]) -> None:
    others = [Pillow.fromarray(255 - PICTURE).convert("RGB")] * 2
    data = b.saved(GREY.convert("RGB"), kind, save_all=True, append_images=others, **options)
    with pytest.warns(UserWarning, match="holds several frames; the first is taken"):
        image = read_image(data)
    np.testing.assert_array_equal(image.pixels, PICTURE)


def test_broken_exif_costs_the_orientation_only() -> None:
    data = b.saved(GREY, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xee" * 40)
    with pytest.warns(UserWarning, match="broken EXIF data; its orientation may be wrong"):
        assert read_image(data).pixels.shape == SHAPE


def test_a_png_with_half_its_rows_is_refused() -> None:
    """The file is well-formed, and Pillow alone accepts it."""
    data = b.png(SHAPE[1], SHAPE[0], b.rows(PICTURE[: SHAPE[0] // 2]))
    Pillow.open(io.BytesIO(data)).load()
    with pytest.raises(InputError, match="PNG pixel data holds 984 bytes, the header claims 1968"):
        read_image(data)


def test_a_jpeg_that_claims_more_than_it_holds_is_refused() -> None:
    data = bytearray(b.saved(GREY, "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 2] = struct.pack(">H", SHAPE[0] * 4)
    Pillow.open(io.BytesIO(bytes(data))).load()
    with pytest.raises(InputError, match="a part of the JPEG picture is missing"):
        read_image(bytes(data))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_cut_jpeg_with_an_end_marker_is_refused(share: float, options: dict[str, object], mode: str) -> None:
    big = Pillow.fromarray(b.picture(128, 160)).convert(mode)
    data = b.saved(big, "JPEG", quality=90, **options)
    start = data.index(b"\xff\xda") + 14
    cut = data[: start + int((len(data) - start) * share)].rstrip(b"\xff") + b"\xff\xd9"
    with pytest.raises(InputError, match="JPEG"):
        read_image(cut)


def test_missing_restart_segments_are_refused() -> None:
    data = b.saved(GREY, "JPEG", restart_marker_blocks=3)
    with pytest.raises(InputError, match="restart markers"):
        read_image(data.replace(data[data.index(b"\xff\xd1") : data.index(b"\xff\xd4")], b""))


def test_a_tiff_that_names_half_its_strips_is_refused() -> None:
    image = Pillow.fromarray(b.picture(64, 64))
    data = b.saved(image, "TIFF", tiffinfo={278: 8})
    tag = data.index(struct.pack("<HHI", 273, 4, 8))
    broken = data[:tag] + struct.pack("<HHI", 273, 4, 4) + data[tag + 8 :]
    with pytest.raises(InputError, match="names 4 of 8 parts"):
        read_image(broken)


def test_the_png_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(InputError, match=r"10000 x 10000 pixels.*The limit is 64 megapixels"):
        read_image(b.png(10_000, 10_000, b"\0" * 10_001 * 10_000))


def test_a_text_bomb_in_a_png_is_not_inflated() -> None:
    bomb = b.chunk(b"zTXt", b"x\0\0" + zlib.compress(b"\0" * 50_000_000))
    data = b.png(SHAPE[1], SHAPE[0], b.rows(PICTURE), extra=bomb)
    np.testing.assert_array_equal(read_image(data).pixels, PICTURE)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((8, 8), "at least 16 pixels on each side"),
        ((16, 1024), "a side 32 times the other"),
        ((20_000, 1_000), "16384 pixels on a side"),
    ],
)
def test_sizes_out_of_limits_are_refused(size: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_image(b.saved(Pillow.new("1", size), "PNG"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{"a": 1}] * 400, object).reshape(20, 20), "holds object"),
        (np.zeros((20, 20), complex), "holds complex128"),
        (np.zeros((20, 20), bool), "holds bool"),
        (np.zeros(400), r"shape \(400,\)"),
        (np.full((20, 20), np.nan), "not finite"),
        (np.full((20, 20), np.inf), "not finite"),
        (np.full((20, 20), 1e300), "not finite"),
        (np.zeros((20, 20), [("a", "u1")]), "Arrays are"),
    ],
)
def test_arrays_that_are_no_image_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_image(b.npy(array))


def test_units_of_arrays() -> None:
    ct = np.where(PICTURE > 100, 40, -1000).astype(np.int16)
    assert read_image(b.npy(ct)).unit == "HU"
    assert read_image(b.npy(ct.astype(np.float64))).unit == "HU"
    assert read_image(b.npy(ct / 7)).unit == "MR"
    assert read_image(b.npy(PICTURE.astype(np.float32))).unit == "MR"
    assert read_image(b.npy(np.stack([PICTURE] * 3))).pixels.shape == (3, *SHAPE)


@pytest.mark.parametrize("stored", [0, png_integrity.STORED_BYTES])
@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB", "RGBA", "LA", "P"])
def test_png_handed_on_is_the_same_picture(mode: str, stored: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png_integrity, "STORED_BYTES", stored)
    content = b.saved(Pillow.fromarray(PICTURE.astype(np.uint16) * 200) if mode == "I;16" else GREY.convert(mode), "PNG")
    clean = png_integrity.survey(content, "x.png").clean
    before, after = (Pillow.open(io.BytesIO(data)) for data in (content, clean))
    assert after.mode == before.mode
    np.testing.assert_array_equal(np.asarray(after), np.asarray(before))
    assert (clean[clean.index(b"IDAT") + 4 :][:2] == b"\x78\x01") == (stored > 0), "only what is stored begins so"


def test_png_keeps_palette_transparency_and_orientation_around_stored_rows() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    content = b.saved(_palette(), "PNG", transparency=7, exif=exif)
    after = Pillow.open(io.BytesIO(png_integrity.survey(content, "x.png").clean))
    assert (after.info["transparency"], after.getexif()[0x0112]) == (7, 6)
    np.testing.assert_array_equal(after.convert("RGBA"), Pillow.open(io.BytesIO(content)).convert("RGBA"))
