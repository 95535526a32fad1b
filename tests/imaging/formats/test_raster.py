"""Pictures: the same picture in every format gives the same pixels."""

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


def _palette() -> Pillow.Image:
    """A palette with reversed entries, so that indices are not gray values."""
    image = Pillow.fromarray(255 - PICTURE, "L").copy()
    image.putpalette([v for i in range(256) for v in (255 - i,) * 3])
    return image if image.mode == "P" else image.convert("P")


def _cmyk() -> Pillow.Image:
    zero = np.zeros_like(PICTURE)
    return Pillow.merge("CMYK", [Pillow.fromarray(plane) for plane in (zero, zero, zero, 255 - PICTURE)])


def _rgba() -> Pillow.Image:
    return GRAY.convert("RGBA")


EXACT = {
    "png-gray": lambda: b.saved(GRAY, "PNG"),
    "png-rgb": lambda: b.saved(GRAY.convert("RGB"), "PNG"),
    "png-rgba": lambda: b.saved(_rgba(), "PNG"),
    "png-la": lambda: b.saved(GRAY.convert("LA"), "PNG"),
    "png-palette": lambda: b.saved(_palette(), "PNG"),
    "png-trns": lambda: b.saved(GRAY, "PNG", transparency=255),
    "png-text": lambda: b.png(SHAPE[1], SHAPE[0], b.rows(PICTURE), extra=b.chunk(b"tEXt", b"Author\0x" * 9)),
    "png-trailing": lambda: b.saved(GRAY, "PNG") + b"garbage",
    "tiff": lambda: b.saved(GRAY, "TIFF"),
    "tiff-lzw": lambda: b.saved(GRAY, "TIFF", compression="tiff_lzw"),
    "tiff-deflate": lambda: b.saved(GRAY.convert("RGB"), "TIFF", compression="tiff_adobe_deflate"),
    "tiff-cmyk": lambda: b.saved(_cmyk(), "TIFF"),
    "bmp-gray": lambda: b.saved(GRAY, "BMP"),
    "bmp-rgb": lambda: b.saved(GRAY.convert("RGB"), "BMP"),
    "bmp-rgba": lambda: b.saved(_rgba(), "BMP"),
    "webp": lambda: b.saved(GRAY.convert("RGB"), "WEBP", lossless=True),
    "npy": lambda: b.npy(PICTURE),
    "npy-fortran": lambda: b.npy(np.asfortranarray(PICTURE)),
}


@pytest.mark.parametrize("variant", EXACT)
def test_the_same_picture_in_every_format_gives_the_same_pixels(variant: str) -> None:
    image = read_image(EXACT[variant]())
    np.testing.assert_array_equal(image.pixels, PICTURE)
    assert (image.unit, image.white, image.modality) == ("gray", 255.0, None)
    assert image.pixels.dtype == np.float32
    assert not image.pixels.flags.writeable


def test_16_bits_are_kept() -> None:
    wide = PICTURE.astype(np.uint16) * 257
    for data in (b.saved(Pillow.fromarray(wide), "PNG"), b.saved(Pillow.fromarray(wide), "TIFF"), b.npy(wide)):
        image = read_image(data)
        assert image.white == 65535.0
        np.testing.assert_array_equal(image.pixels / 257, PICTURE)


def test_16_bit_color_is_the_same_picture() -> None:
    wide = np.repeat(PICTURE.astype(">u2")[..., None] * 257, 3, axis=-1).astype(">u2")
    image = read_image(b.png(SHAPE[1], SHAPE[0], b.rows(wide), depth=16, color=2))
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
    for image in (GRAY, GRAY.convert("RGB")):
        data = b.saved(image, "JPEG", quality=90, **options)
        expected = np.asarray(Pillow.open(io.BytesIO(data)).convert("L"))
        np.testing.assert_array_equal(read_image(data).pixels, expected)


def test_jpeg_of_cmyk_is_the_same_picture() -> None:
    data = b.saved(_cmyk(), "JPEG", quality=100)
    np.testing.assert_allclose(read_image(data).pixels, PICTURE, atol=6)


def test_transparent_pixels_are_black() -> None:
    alpha = np.full(SHAPE, 255, np.uint8)
    alpha[:8] = 0
    image = _rgba()
    image.putalpha(Pillow.fromarray(alpha))
    pixels = read_image(b.saved(image, "PNG")).pixels
    assert pixels[:8].max() == 0
    np.testing.assert_array_equal(pixels[8:], PICTURE[8:])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PNG of 8 bits", "PNG of 16 bits"])
def test_a_fully_transparent_picture_is_an_error(mode: str) -> None:
    if mode in ("RGBA", "LA"):
        image = GRAY.convert(mode)
        image.putalpha(0)
        data = b.saved(image, "PNG")
    else:
        blank = np.full(SHAPE, 7, np.uint8 if "8" in mode else np.uint16)
        data = b.saved(Pillow.fromarray(blank), "PNG", transparency=7)
    with pytest.raises(InputError, match=r"is fully transparent.*without an alpha channel"):
        read_image(data)


def test_color_becomes_luminance() -> None:
    colors = np.zeros((32, 48, 3), np.uint8)
    colors[:, :16, 0] = colors[:, 16:32, 1] = colors[:, 32:, 2] = 255
    pixels = read_image(b.saved(Pillow.fromarray(colors), "PNG")).pixels
    assert pixels[0, [0, 20, 40]] == pytest.approx([0.299 * 255, 0.587 * 255, 0.114 * 255], abs=1)


def test_float_tiff_keeps_its_values() -> None:
    values = PICTURE.astype(np.float32) * 3.7
    image = read_image(b.saved(Pillow.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(image.pixels, values)
    assert (image.unit, image.white) == ("MR", None)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_the_first_frame_of_an_animation_is_used_with_a_warning(kind: str, options: dict[str, object]) -> None:
    others = [Pillow.fromarray(255 - PICTURE).convert("RGB")] * 2
    data = b.saved(GRAY.convert("RGB"), kind, save_all=True, append_images=others, **options)
    with pytest.warns(UserWarning, match="has several frames; the first one is used"):
        image = read_image(data)
    np.testing.assert_array_equal(image.pixels, PICTURE)


def test_broken_exif_only_loses_the_orientation() -> None:
    data = b.saved(GRAY, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xee" * 40)
    with pytest.warns(UserWarning, match="broken EXIF data; its orientation may be wrong"):
        assert read_image(data).pixels.shape == SHAPE


def test_a_tiff_that_lists_half_its_strips_is_refused() -> None:
    image = Pillow.fromarray(b.picture(64, 64))
    data = b.saved(image, "TIFF", tiffinfo={278: 8})
    tag = data.index(struct.pack("<HHI", 273, 4, 8))
    broken = data[:tag] + struct.pack("<HHI", 273, 4, 4) + data[tag + 8 :]
    with pytest.raises(InputError, match="lists 4 of 8 strips or tiles"):
        read_image(broken)
