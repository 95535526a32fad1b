"""Check TIFF files, and read gray TIFF of 16 to 64 bits per sample with the polarity of their tags.

Pillow ignores WhiteIsZero for 16 bits and floating point, reads signed 8-bit values as unsigned, and does not know 16-bit and
64-bit floating point. Here it only undoes the compression: the file is presented to it as 8-bit gray with as many columns as
bytes in a row, and NumPy interprets the bytes (TIFF 6.0, sections 3, 8, 14, 15 and 19; TIFF Technical Note 3).
"""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import TiffImagePlugin

from reslink.imaging.image import Image, Unit
from reslink.imaging.limits import check_size, damaged_error, silence_warnings, too_large_error, unsupported_error
from reslink.imaging.orientation import Orientation
from reslink.imaging.units import image_of_values

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_FILL_ORDER, _STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_SIZES = 266, 273, 274, 277, 278, 279
_PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES = 284, 317, 322, 323, 324, 325
_SAMPLE_FORMAT, _MAX_VALUE = 339, 341

# Codecs that report missing rows as an error. JPEG and fax codecs fill them silently.
_COMPRESSIONS: Final = {"raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "zstd", "lzma"}
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_TYPES: Final = {
    **{(8, 2): "i1", (16, 2): "i2", (32, 2): "i4"},
    **{(16, 1): "u2", (32, 1): "u4"},
    **{(16, 3): "f2", (32, 3): "f4", (64, 3): "f8"},
}
"""NumPy type by bits per sample and sample format (1 unsigned, 2 signed, 3 floating point)."""

_TURNS: Final = {
    2: Orientation(columns_reversed=True),
    3: Orientation(rows_reversed=True, columns_reversed=True),
    4: Orientation(rows_reversed=True),
    5: Orientation(transposed=True),
    6: Orientation(transposed=True, columns_reversed=True),
    7: Orientation(transposed=True, rows_reversed=True, columns_reversed=True),
    8: Orientation(transposed=True, rows_reversed=True),
}
"""How stored pixels are turned upright, by the value of the tag Orientation."""

Tags = dict[int, Any]


def read_tags(data: bytes, name: str) -> tuple[Tags, bool]:
    """Returns the tags of the first picture in a file, and whether there are more pictures.

    Raises:
        InputError: If the size is beyond the limits, the polarity is not stated, the compression is not supported, or strips or
            tiles are not listed.
    """
    if data[:4] == b"MM\0+":
        raise unsupported_error(name, "is a big-endian BigTIFF", "BigTIFF is supported in little-endian byte order")
    header = data[:16] if data[2:4] == b"+\0" else data[:8]
    directory = TiffImagePlugin.ImageFileDirectory_v2(header)
    stream = io.BytesIO(data)
    stream.seek(directory.next)
    with silence_warnings():
        directory.load(stream)
        tags = dict(directory)
    if not {_WIDTH, _HEIGHT} <= set(tags):
        raise damaged_error(name, "the TIFF directory is broken")
    check_size(int(tags[_WIDTH]), int(tags[_HEIGHT]), name)
    compression = TiffImagePlugin.COMPRESSION_INFO.get(tags.get(_COMPRESSION, 1), "unknown")
    if compression not in _COMPRESSIONS:
        raise unsupported_error(
            name, f"is a TIFF with {compression} compression", "TIFF is supported with LZW, deflate or no compression"
        )
    if _PHOTOMETRIC not in tags:
        raise damaged_error(name, "the TIFF does not state whether 0 is black or white (tag 262)")
    _check_parts(tags, name)
    return tags, directory.next != 0


def _check_parts(tags: Tags, name: str) -> None:
    """Checks that the file lists all strips or tiles of the picture (TIFF 6.0, sections 3 and 15)."""
    width, height = int(tags[_WIDTH]), int(tags[_HEIGHT])
    if _TILE_WIDTH in tags:
        expected = -(-width // int(tags[_TILE_WIDTH])) * -(-height // int(tags[_TILE_HEIGHT]))
        offsets = tags.get(_TILE_OFFSETS, ())
    else:
        expected = -(-height // min(int(tags.get(_ROWS_PER_STRIP, height)), height))
        offsets = tags.get(_STRIP_OFFSETS, ())
    planes = int(tags.get(_SAMPLES, 1)) if tags.get(_PLANAR, 1) == 2 else 1
    if len(offsets) != expected * planes:
        raise damaged_error(name, f"the TIFF lists {len(offsets)} of {expected * planes} strips or tiles")


def describe(tags: Tags) -> str:
    """Returns the pixel format in words, for the error about a format that Pillow does not read."""
    bits, kinds = tags.get(_BITS, (1,)), tags.get(_SAMPLE_FORMAT, (1,))
    kind = {1: "unsigned", 2: "signed", 3: "floating point"}.get(kinds[0], "unknown")
    return (
        f"is a TIFF with {tags.get(_SAMPLES, 1)} samples per pixel of {bits[0]} bits ({kind}) and the photometric "
        f"interpretation {tags[_PHOTOMETRIC]}"
    )


def read_gray(data: bytes, tags: Tags, name: str, unit: Unit | None = None) -> Image | None:
    """Reads a gray TIFF of one sample per pixel that Pillow does not read by its tags; None for all others.

    Args:
        data: The whole file.
        tags: Result of :func:`read_tags`.
        name: File name for messages.
        unit: The unit stated by the user; None decides by the histogram (:mod:`reslink.imaging.units`).

    Returns:
        Gray values from 0 to 65535 for unsigned integers, with 0 as black, unless they look like stored HU, as in PNG:
        WhiteIsZero is inverted at the maximum of the bit depth. Signed and floating point pixels keep their values and have no
        unit; with WhiteIsZero they are subtracted from the largest value, stated by SMaxSampleValue or else of the picture.
    """
    bits, kind = tags.get(_BITS, (1,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0]
    code = _TYPES.get((bits, 1 if kind == 4 else kind))
    if code is None or tags.get(_SAMPLES, 1) != 1 or tags[_PHOTOMETRIC] not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
        return None
    dtype = np.dtype(code).newbyteorder(">" if data[:2] == b"MM" else "<")
    values = _without_predictor(_raw_rows(data, tags, dtype.itemsize, name), tags, dtype, name)
    values = _TURNS.get(tags.get(_ORIENTATION, 1), Orientation()).to_view(values)
    inverted = tags[_PHOTOMETRIC] == _WHITE_IS_ZERO
    if dtype.kind == "u":
        plane = np.iinfo(dtype).max - values if inverted else values
        return _gray_image(plane, name, unit)
    if dtype.kind == "i" and not inverted and values.min() >= 0 and bits > 8:
        return _gray_image(values, name, unit)
    if not inverted:
        return image_of_values(values, name, unit)
    finite = values[np.isfinite(values)]
    largest = tags.get(_MAX_VALUE, (finite.max() if finite.size else 0,))
    image = image_of_values(float(largest[0]) - values.astype(np.float64), name, unit or "MR")
    return image if unit else replace(image, modality=None)


def _gray_image(plane: NDArray[Any], name: str, unit: Unit | None) -> Image:
    if plane.max() > 65535:
        raise unsupported_error(name, "has 32-bit integers", "Pictures have 8 or 16 bits, or floating point values")
    return image_of_values(plane, name, unit, white=65535.0)


def _raw_rows(data: bytes, tags: Tags, item_size: int, name: str) -> NDArray[np.uint8]:
    """Returns the bytes of each row, uncompressed, (H, W * item size)."""
    width, height = int(tags[_WIDTH]) * item_size, int(tags[_HEIGHT])
    if Pillow.MAX_IMAGE_PIXELS and width * height > Pillow.MAX_IMAGE_PIXELS:
        raise too_large_error(name, f"has {width * height} bytes of pixels", f"{Pillow.MAX_IMAGE_PIXELS} bytes")
    entries = {tag: tags[tag] for tag in _COPIED if tag in tags}
    entries |= {_WIDTH: width, _HEIGHT: height, _BITS: 8, _PHOTOMETRIC: _BLACK_IS_ZERO, _SAMPLES: 1}
    if _TILE_WIDTH in tags:
        entries[_TILE_WIDTH] = int(tags[_TILE_WIDTH]) * item_size
    content = b"II*\0" + struct.pack("<I", len(data)) + data[8:] + _directory(len(data), entries)
    with silence_warnings():
        picture = Pillow.open(io.BytesIO(content), formats=["TIFF"])
        picture.load()
    return np.asarray(picture)


_COPIED: Final = (
    *(_COMPRESSION, _FILL_ORDER, _ROWS_PER_STRIP, _STRIP_OFFSETS, _STRIP_SIZES),
    *(_TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES),
)


def _directory(at: int, entries: Tags) -> bytes:
    """Returns a little-endian directory of unsigned 32-bit tags for the offset ``at`` of a file."""
    head, tail = struct.pack("<H", len(entries)), b""
    end = at + 2 + 12 * len(entries) + 4
    for tag, value in sorted(entries.items()):
        numbers = value if isinstance(value, tuple) else (value,)
        body = struct.pack(f"<{len(numbers)}I", *numbers)
        head += struct.pack("<HHI", tag, 4, len(numbers)) + (body if len(body) == 4 else struct.pack("<I", end + len(tail)))
        tail += body if len(body) > 4 else b""
    return head + bytes(4) + tail


def _without_predictor(rows: NDArray[np.uint8], tags: Tags, dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Returns the values of the rows; predictors store the difference to the left neighbor within a strip or tile."""
    predictor, width = tags.get(_PREDICTOR, 1), int(tags[_WIDTH])
    if predictor == 1 or tags.get(_COMPRESSION, 1) in (1, 32773):  # a predictor belongs to LZW, deflate and their successors
        return rows.view(dtype)
    step = int(tags.get(_TILE_WIDTH, width))
    parts = [rows[:, at * dtype.itemsize : (at + step) * dtype.itemsize] for at in range(0, width, step)]
    if predictor == 2:
        words = np.dtype(f"u{dtype.itemsize}").newbyteorder(dtype.byteorder)
        sums = [np.cumsum(np.ascontiguousarray(part).view(words), axis=1, dtype=f"u{dtype.itemsize}") for part in parts]
        return np.concatenate(sums, axis=1).astype(words).view(dtype)
    if predictor == 3 and dtype.kind == "f" and width % step == 0:
        return np.concatenate([_without_float_predictor(part, dtype) for part in parts], axis=1)
    raise unsupported_error(name, f"is a TIFF with predictor {predictor}", "TIFF is supported with predictors 1 and 2")


def _without_float_predictor(rows: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Undoes the differences of bytes, which are stored by significance, the most significant of all values first."""
    planes = np.cumsum(rows, axis=1, dtype=np.uint8).reshape(len(rows), dtype.itemsize, -1)
    return np.ascontiguousarray(planes.transpose(0, 2, 1)).view(dtype.newbyteorder(">"))[..., 0]
