"""Complete PNG files are read; files with missing or excess data are refused."""

from __future__ import annotations

import io
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
GRAY = Pillow.fromarray(PICTURE)


def _palette() -> Pillow.Image:
    """A palette with reversed entries, so that indices are not gray values."""
    image = Pillow.fromarray(255 - PICTURE, "L").copy()
    image.putpalette([v for i in range(256) for v in (255 - i,) * 3])
    return image if image.mode == "P" else image.convert("P")


def test_a_png_with_half_its_rows_is_refused() -> None:
    """The file is well-formed, and Pillow alone accepts it."""
    data = b.png(SHAPE[1], SHAPE[0], b.rows(PICTURE[: SHAPE[0] // 2]))
    Pillow.open(io.BytesIO(data)).load()
    with pytest.raises(InputError, match="PNG pixel data has 984 bytes, but the header requires 1968"):
        read_image(data)


def test_the_png_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(InputError, match=r"10000 x 10000 pixels.*The limit is 64 megapixels"):
        read_image(b.png(10_000, 10_000, b"\0" * 10_001 * 10_000))


def test_a_text_bomb_in_a_png_is_not_inflated() -> None:
    bomb = b.chunk(b"zTXt", b"x\0\0" + zlib.compress(b"\0" * 50_000_000))
    data = b.png(SHAPE[1], SHAPE[0], b.rows(PICTURE), extra=bomb)
    np.testing.assert_array_equal(read_image(data).pixels, PICTURE)


@pytest.mark.parametrize("stored", [0, png_integrity.STORED_BYTES])
@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB", "RGBA", "LA", "P"])
def test_the_clean_png_is_the_same_picture(mode: str, stored: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png_integrity, "STORED_BYTES", stored)
    content = b.saved(Pillow.fromarray(PICTURE.astype(np.uint16) * 200) if mode == "I;16" else GRAY.convert(mode), "PNG")
    clean = png_integrity.check_chunks(content, "x.png").clean
    before, after = (Pillow.open(io.BytesIO(data)) for data in (content, clean))
    assert after.mode == before.mode
    np.testing.assert_array_equal(np.asarray(after), np.asarray(before))
    assert (clean[clean.index(b"IDAT") + 4 :][:2] == b"\x78\x01") == (stored > 0), "only uncompressed data begins like this"


def test_png_keeps_palette_transparency_and_orientation_around_stored_rows() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    content = b.saved(_palette(), "PNG", transparency=7, exif=exif)
    after = Pillow.open(io.BytesIO(png_integrity.check_chunks(content, "x.png").clean))
    assert (after.info["transparency"], after.getexif()[0x0112]) == (7, 6)
    np.testing.assert_array_equal(after.convert("RGBA"), Pillow.open(io.BytesIO(content)).convert("RGBA"))
