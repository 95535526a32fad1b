"""PNG, JPEG, TIFF, WebP and BMP: pictures, returned as grey values.

Colour becomes luminance (ITU-R BT.601, as Pillow's ``convert("L")``); what is transparent becomes black; the EXIF
orientation is applied; of an animation the first frame is taken, with a warning.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps

from reslink.imaging.formats import jpeg_integrity, png_integrity
from reslink.imaging.image import Image
from reslink.imaging.limits import MIB, QUICK_PIXELS, check_size, damaged, finite_float32, quiet, unsupported, warn

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

# Codecs inside TIFF that report a missing row as an error. JPEG and fax codes inside TIFF fill it in silence.
_TIFF_COMPRESSIONS = {"raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "zstd", "lzma"}


def quick(kind: str, data: bytes, name: str) -> bool:
    """Whether a picture is so small and plain that it is decoded in this process: PNG, JPEG or BMP of up to 4 Mpx."""
    size = _claimed_size(kind, data, name)
    if kind == "JPEG" and b"\xff\xc2" in data:
        return size <= MIB  # progressive: up to 100 passes
    return size <= QUICK_PIXELS


def _claimed_size(kind: str, data: bytes, name: str) -> int:
    if kind == "PNG":
        return int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
    if kind == "JPEG":
        return jpeg_integrity.claimed_size(data, name)
    width, height, compression = _bmp_header(data, name)
    return width * height if compression in (0, 3) else QUICK_PIXELS + 1


def read_raster(kind: str, data: bytes, name: str) -> Image:
    """Decodes a picture.

    Args:
        kind: ``PNG``, ``JPEG``, ``TIFF``, ``WEBP`` or ``BMP``, as found from the content.
        data: The whole file.
        name: File name for messages.

    Returns:
        A grey image, 0 to 255 or 65535; a floating point TIFF keeps its values, with unit ``MR`` (arbitrary intensity).

    Raises:
        InputError: If the file is not whole, too large or of a kind that is not read.
    """
    if kind == "PNG":
        return _read_png(data, name)
    if kind == "JPEG":
        return _read_jpeg(data, name)
    if kind == "BMP":
        _check_bmp(data, name)
    if kind == "WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise damaged(name, "the WebP data breaks off")
    return _to_image(_open(kind, data, name), name)


def _open(kind: str, data: bytes, name: str) -> PillowImage:
    with quiet():
        picture = Pillow.open(io.BytesIO(data), formats=[kind])
        check_size(*picture.size, name)
        if kind == "TIFF":
            _check_tiff(picture, name)
        animated = getattr(picture, "n_frames", 1) > 1
        picture.load()
    if animated:
        _warn_animated(name)
    return picture


def _warn_animated(name: str) -> None:
    warn(f"{name} holds several frames; the first is taken")


def _read_png(data: bytes, name: str) -> Image:
    found = png_integrity.survey(data, name)
    picture = Pillow.open(io.BytesIO(found.clean), formats=["PNG"])
    picture.load()
    if found.animated:
        _warn_animated(name)
    return _to_image(picture, name)


def _read_jpeg(data: bytes, name: str) -> Image:
    found = jpeg_integrity.survey(data, name)
    check_size(found.width, found.height, name)
    if found.kind == 0xC3 or found.precision != 8:
        raise unsupported(name, "is a lossless or 12-bit JPEG", "Baseline and progressive 8-bit JPEG are read")
    whole = data[: found.end]
    picture = decode_jpeg(whole)
    prove_whole(whole, found, np.asarray(picture), name)
    return _to_image(picture, name)


def decode_jpeg(data: bytes) -> PillowImage:
    """Returns the decoded picture of a baseline or progressive JPEG stream."""
    with quiet() if b"Exif\0" in data[:65536] else contextlib.nullcontext() as complaints:
        picture = Pillow.open(io.BytesIO(data), formats=["JPEG"])
        picture.load()
    picture.info["complaints"] = bool(complaints)
    return picture


def prove_whole(data: bytes, found: jpeg_integrity.Survey, pixels: NDArray[np.uint8], name: str) -> None:
    """Proves that a decoded JPEG is whole.

    libjpeg fills what is missing with zero blocks, so that the last block comes out in one mid-grey. Where it does, or
    where the picture came in several scans, the stream is decoded again with filler at the end of each scan: a whole
    picture stays as it is.

    Raises:
        InputError: If the picture changes.
    """
    top, left = found.tail()
    grey = bool((np.abs(pixels[top:, left:].astype(np.int16) - 128) <= 1).all())
    if not grey and len(found.scans) == 1 and len(found.sampling) < 4:
        return
    if not np.array_equal(np.asarray(decode_jpeg(jpeg_integrity.with_filler(data, found))), pixels):
        raise damaged(name, "a part of the JPEG picture is missing")


def _to_image(picture: PillowImage, name: str) -> Image:
    upright = _upright(picture, name)
    plane, white = _grey(upright, name)
    pixels = finite_float32(plane, name)
    return Image(pixels, unit="grey" if white else "MR", white=white, source=name)


def _upright(picture: PillowImage, name: str) -> PillowImage:
    if "exif" not in picture.info:
        return picture
    try:
        with quiet() as complaints:
            upright = ImageOps.exif_transpose(picture)
        if not complaints and not picture.info.get("complaints"):
            return upright
    except Exception:  # noqa: BLE001 - broken metadata raises many kinds of error
        upright = picture
    warn(f"{name} has broken EXIF data; its orientation may be wrong")
    return upright


def _grey(picture: PillowImage, name: str) -> tuple[NDArray[np.generic], float | None]:
    """Returns the grey plane and its white, None for values without one."""
    mode = picture.mode
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or (mode in ("P", "L", "RGB", "1") and "transparency" in picture.info):
        picture = _over_black(picture)
        mode = picture.mode
    if mode == "L":
        return np.asarray(picture), 255.0
    if mode in ("1", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"):
        middle = picture if mode in ("1", "RGB") else picture.convert("RGB")
        return np.asarray(middle.convert("L")), 255.0
    if mode.startswith("I;16"):
        return _over_black_16(np.asarray(picture), picture), 65535.0
    if mode == "I":
        plane = np.asarray(picture)
        if plane.min() < 0 or plane.max() > 65535:
            raise unsupported(name, "holds 32-bit whole numbers", "Pictures have 8 or 16 bits, or floating point")
        return plane, 65535.0
    if mode == "F":
        return np.asarray(picture), None
    raise unsupported(name, f"has the pixel format {mode!r}", "Grey, RGB, RGBA, palette and CMYK pictures are read")


def _over_black(picture: PillowImage) -> PillowImage:
    full = picture.convert("RGBA")
    if full.getchannel("A").getextrema() == (255, 255):
        return full.convert("RGB")
    return Pillow.alpha_composite(Pillow.new("RGBA", full.size, (0, 0, 0, 255)), full).convert("RGB")


def _over_black_16(plane: NDArray[np.generic], picture: PillowImage) -> NDArray[np.generic]:
    clear = picture.info.get("transparency")
    return np.where(plane == clear, 0, plane) if isinstance(clear, int) else plane


def _bmp_header(data: bytes, name: str) -> tuple[int, int, int]:
    """Returns width, height and compression of a BMP file."""
    size = int.from_bytes(data[14:18], "little")
    if size == 12:
        return int.from_bytes(data[18:20], "little"), int.from_bytes(data[20:22], "little"), 0
    if size < 40 or len(data) < 34:
        raise damaged(name, "the BMP header is broken")
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
            raise damaged(name, f"the BMP data has {len(data)} bytes, the header claims {needed}")


def _check_tiff(picture: PillowImage, name: str) -> None:
    """Checks that the file names a strip or tile for each part of the picture (TIFF 6.0, sections 3 and 15)."""
    compression = str(picture.info.get("compression", "raw"))
    if compression not in _TIFF_COMPRESSIONS:
        raise unsupported(name, f"is a TIFF with {compression} inside", "TIFF is read with LZW, deflate or no compression")
    tags = picture.tag_v2  # type: ignore[attr-defined]
    width, height = int(tags[256]), int(tags[257])  # as stored; picture.size is as turned upright
    if 322 in tags:
        parts = -(-width // int(tags[322])) * -(-height // int(tags[323]))
        offsets = tags.get(324, ())
    else:
        parts = -(-height // min(int(tags.get(278, height)), height))
        offsets = tags.get(273, ())
    planes = int(tags.get(277, 1)) if tags.get(284, 1) == 2 else 1
    if len(offsets) != parts * planes:
        raise damaged(name, f"the TIFF names {len(offsets)} of {parts * planes} parts of the picture")
