"""Read PNG, JPEG, TIFF, WebP and BMP pictures as gray values.

Color is converted to luminance (ITU-R BT.601, as Pillow's ``convert("L")``), transparent pixels become black, and the EXIF
orientation is applied. The first frame of an animation is used, with a warning.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from reslink.errors import InputError
from reslink.imaging.formats import jpeg_integrity, png_integrity, tiff
from reslink.imaging.image import Image, Unit
from reslink.imaging.limits import (
    MAX_IN_PROCESS_PIXELS,
    MIB,
    check_size,
    damaged_error,
    silence_warnings,
    unsupported_error,
    warn,
)
from reslink.imaging.units import image_of_values

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage


def is_small(kind: str, data: bytes, name: str) -> bool:
    """Whether a PNG, JPEG or BMP is small enough (up to 4 megapixels) to be decoded in this process."""
    pixels = _size_in_header(kind, data, name)
    if kind == "JPEG" and b"\xff\xc2" in data:
        return pixels <= MIB  # progressive: up to 100 passes
    return pixels <= MAX_IN_PROCESS_PIXELS


def _size_in_header(kind: str, data: bytes, name: str) -> int:
    if kind == "PNG":
        return int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
    if kind == "JPEG":
        return jpeg_integrity.claimed_pixels(data, name)
    width, height, compression = _bmp_header(data, name)
    return width * height if compression in (0, 3) else MAX_IN_PROCESS_PIXELS + 1


def read_raster(kind: str, data: bytes, name: str, unit: Unit | None = None) -> Image:
    """Decodes a picture.

    Args:
        kind: ``PNG``, ``JPEG``, ``TIFF``, ``WEBP`` or ``BMP``, detected from the content.
        data: The whole file.
        name: File name for messages.
        unit: The unit stated by the user; None decides by the histogram (:mod:`reslink.imaging.units`).

    Returns:
        A gray image, 0 to 255 or 65535, 0 is black, if no other unit is stated. A TIFF of signed or floating point values keeps
        its values, see :func:`reslink.imaging.formats.tiff.read_gray`.

    Raises:
        InputError: If the file is incomplete, too large or in an unsupported format.
    """
    if kind == "PNG":
        return _read_png(data, name, unit)
    if kind == "JPEG":
        return _read_jpeg(data, name, unit)
    if kind == "TIFF":
        return _read_tiff(data, name, unit)
    if kind == "BMP":
        _check_bmp(data, name)
    if kind == "WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise damaged_error(name, "the WebP data is truncated")
    return _to_image(_open(kind, data, name), name, unit)


def _open(kind: str, data: bytes, name: str) -> PillowImage:
    with silence_warnings():
        picture = Pillow.open(io.BytesIO(data), formats=[kind])
        check_size(*picture.size, name)
        animated = getattr(picture, "n_frames", 1) > 1
        picture.load()
    if animated:
        _warn_animated(name)
    return picture


def _read_tiff(data: bytes, name: str, unit: Unit | None) -> Image:
    tags, more = tiff.read_tags(data, name)
    image = tiff.read_gray(data, tags, name, unit)
    if image is None:
        try:
            return _to_image(_open("TIFF", data, name), name, unit)
        except UnidentifiedImageError:
            allowed = "TIFF is supported with gray of 1 to 32 bits or floating point, and color of 8 or 16 bits"
            raise unsupported_error(name, tiff.describe(tags), allowed) from None
    if more:
        _warn_animated(name)
    return image


def _warn_animated(name: str) -> None:
    warn(f"{name} has several frames; the first one is used")


def _read_png(data: bytes, name: str, unit: Unit | None) -> Image:
    structure = png_integrity.check_chunks(data, name)
    picture = Pillow.open(io.BytesIO(structure.clean), formats=["PNG"])
    picture.load()
    if structure.animated:
        _warn_animated(name)
    return _to_image(picture, name, unit)


def _read_jpeg(data: bytes, name: str, unit: Unit | None) -> Image:
    structure = jpeg_integrity.scan_markers(data, name)
    check_size(structure.width, structure.height, name)
    if structure.process == 0xC3 or structure.precision != 8:
        raise unsupported_error(name, "is a lossless or 12-bit JPEG", "Baseline and progressive 8-bit JPEG are supported")
    stream = data[: structure.end]
    picture = decode_jpeg(stream)
    check_complete(stream, structure, np.asarray(picture), name)
    return _to_image(picture, name, unit)


def decode_jpeg(data: bytes) -> PillowImage:
    """Returns the decoded picture of a baseline or progressive JPEG stream."""
    with silence_warnings() if b"Exif\0" in data[:65536] else contextlib.nullcontext() as caught:
        picture = Pillow.open(io.BytesIO(data), formats=["JPEG"])
        picture.load()
    picture.info["had_warnings"] = bool(caught)
    return picture


def check_complete(data: bytes, structure: jpeg_integrity.JpegStructure, pixels: NDArray[np.uint8], name: str) -> None:
    """Checks that a decoded JPEG is complete.

    libjpeg fills missing data with zero blocks, so that the last block is uniformly mid-gray. If it is, or if the picture has
    several scans, the stream is decoded again with filler at the end of each scan: a complete picture does not change.

    Raises:
        InputError: If the picture changes.
    """
    top, left = structure.last_mcu()
    is_gray = bool((np.abs(pixels[top:, left:].astype(np.int16) - 128) <= 1).all())
    if not is_gray and len(structure.scans) == 1 and len(structure.sampling) < 4:
        return
    if not np.array_equal(np.asarray(decode_jpeg(jpeg_integrity.with_filler(data, structure))), pixels):
        raise damaged_error(name, "a part of the JPEG picture is missing")


def _to_image(picture: PillowImage, name: str, unit: Unit | None) -> Image:
    upright = _upright(picture, name)
    plane, white = _gray(upright, name)
    return image_of_values(plane, name, unit, white=white)


def _upright(picture: PillowImage, name: str) -> PillowImage:
    if "exif" not in picture.info:
        return picture
    try:
        with silence_warnings() as caught:
            upright = ImageOps.exif_transpose(picture)
        if not caught and not picture.info.get("had_warnings"):
            return upright
    except Exception:  # noqa: BLE001 - broken metadata raises many kinds of errors
        upright = picture
    warn(f"{name} has broken EXIF data; its orientation may be wrong")
    return upright


def _gray(picture: PillowImage, name: str) -> tuple[NDArray[np.generic], float | None]:
    """Returns the gray plane and its maximum, None for floating point values."""
    mode = picture.mode
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or (mode in ("P", "L", "RGB", "1") and "transparency" in picture.info):
        picture = _over_black(picture, name)
        mode = picture.mode
    if mode == "L":
        return np.asarray(picture), 255.0
    if mode in ("1", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"):
        rgb = picture if mode in ("1", "RGB") else picture.convert("RGB")
        return np.asarray(rgb.convert("L")), 255.0
    if mode.startswith("I;16"):
        return _over_black_16(np.asarray(picture), picture, name), 65535.0
    if mode == "I":
        plane = np.asarray(picture)
        if plane.min() < 0 or plane.max() > 65535:
            raise unsupported_error(name, "has 32-bit integers", "Pictures have 8 or 16 bits, or floating point values")
        return plane, 65535.0
    if mode == "F":
        return np.asarray(picture), None
    raise unsupported_error(name, f"has the pixel format {mode!r}", "Gray, RGB, RGBA, palette and CMYK pictures are supported")


def _over_black(picture: PillowImage, name: str) -> PillowImage:
    rgba = picture.convert("RGBA")
    alpha = rgba.getchannel("A").getextrema()
    if alpha == (255, 255):
        return rgba.convert("RGB")
    if alpha == (0, 0):
        raise _transparent_error(name)
    return Pillow.alpha_composite(Pillow.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")


def _over_black_16(plane: NDArray[np.generic], picture: PillowImage, name: str) -> NDArray[np.generic]:
    transparent = picture.info.get("transparency")
    if not isinstance(transparent, int):
        return plane
    if (plane == transparent).all():
        raise _transparent_error(name)
    return np.where(plane == transparent, 0, plane)


def _transparent_error(name: str) -> InputError:
    return InputError(
        f"{name} is fully transparent",
        "Transparent pixels are read as black, so that some pixels must be opaque",
        "Export the picture again without an alpha channel",
    )


def _bmp_header(data: bytes, name: str) -> tuple[int, int, int]:
    """Returns width, height and compression of a BMP file."""
    size = int.from_bytes(data[14:18], "little")
    if size == 12:
        return int.from_bytes(data[18:20], "little"), int.from_bytes(data[20:22], "little"), 0
    if size < 40 or len(data) < 34:
        raise damaged_error(name, "the BMP header is broken")
    height = abs(int.from_bytes(data[22:26], "little", signed=True))
    return int.from_bytes(data[18:22], "little", signed=True), height, int.from_bytes(data[30:34], "little")


def _check_bmp(data: bytes, name: str) -> None:
    width, height, compression = _bmp_header(data, name)
    check_size(width, height, name)
    if compression in (0, 3):
        depth_at = 24 if data[14] == 12 else 28
        bits = int.from_bytes(data[depth_at : depth_at + 2], "little")
        needed = int.from_bytes(data[10:14], "little") + (width * bits + 31) // 32 * 4 * height
        if bits == 0 or len(data) < needed:
            raise damaged_error(name, f"the BMP data has {len(data)} bytes, but the header requires {needed}")
