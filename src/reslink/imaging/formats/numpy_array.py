"""Images from NumPy: ``.npy`` files of plain numbers (never a pickle), and arrays in memory."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reslink.errors import UsageError
from reslink.imaging.image import Image, Unit
from reslink.imaging.limits import (
    MAX_DECODED_BYTES,
    check_size,
    damaged_error,
    too_large_error,
    unsupported_error,
)
from reslink.imaging.spellings import parse_unit
from reslink.imaging.units import image_of_values

_WHITE = {("u", 1): 255.0, ("u", 2): 65535.0}


def read_array(data: bytes, name: str, unit: Unit | None = None) -> Image:
    """Reads an array of shape (H, W) or (D, H, W).

    Args:
        data: The whole file.
        name: File name for messages.
        unit: The unit stated by the user. None decides by the histogram (:mod:`reslink.imaging.units`): HU, gray values for
            uint8 and uint16, or arbitrary intensities (``MR``).

    Raises:
        InputError: If the array has objects or text, another number of axes, is truncated or too large.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(stream)
    except Exception as error:  # the header is a Python literal, which can be invalid in many ways
        raise damaged_error(name, "the NPY header is broken") from error
    if dtype.kind not in "uif" or len(shape) not in (2, 3):
        raise unsupported_error(
            name,
            f"has the type {dtype} and the shape {shape}",
            "Arrays are (H, W) or (D, H, W) of integers or floating point numbers",
        )
    check_size(shape[-1], shape[-2], name, frames=shape[0] if len(shape) == 3 else 1)
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_DECODED_BYTES:
        raise too_large_error(name, f"has {size} bytes of data", f"{MAX_DECODED_BYTES} bytes")
    start = stream.tell()
    if len(data) < start + size:
        raise damaged_error(name, f"the NPY data has {len(data) - start} bytes, but the header requires {size}")
    values = np.frombuffer(data, dtype, count=math.prod(shape), offset=start)
    return image_of_values(
        values.reshape(shape, order="F" if fortran else "C"), name, unit, white=_WHITE.get((dtype.kind, dtype.itemsize))
    )


def image_from_array(array: NDArray[Any], unit: Unit | None = None, source: str = "array") -> Image:
    """Returns an image made from an array in memory.

    Args:
        array: (H, W), or (D, H, W) for a volume; integers or floating point numbers; not changed.
        unit: ``HU`` for CT, ``MR`` for arbitrary intensities, ``gray`` for a picture, in any case. The default for uint8 is
            ``gray``; other types need a unit.
        source: Name for messages.

    Raises:
        UsageError: If the unit is missing or invalid.
        InputError: If the array has another number of axes, is not numeric, has values that are not finite, is out of limits,
            or has a last axis of length 3 or 4 like a color picture.
    """
    if unit is None and array.dtype != np.uint8:
        raise UsageError(
            f"An array of {array.dtype} was given without a unit",
            "The unit is HU, MR or gray; only uint8 arrays have a default, gray",
            'Use unit="HU" for CT, unit="MR" for MR, unit="gray" for a picture',
        )
    stated = parse_unit(unit)
    if array.dtype.kind not in "uif" or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] in (3, 4)):
        raise unsupported_error(
            source,
            f"has the type {array.dtype} and the shape {array.shape}",
            "Arrays are (H, W) or (D, H, W) of integers or floating point numbers, not color pictures",
        )
    check_size(array.shape[-1], array.shape[-2], source, frames=array.shape[0] if array.ndim == 3 else 1)
    white = _WHITE.get((array.dtype.kind, array.dtype.itemsize)) if stated in (None, "gray") else None
    values = array.copy() if array.dtype == np.float32 else array  # because an image makes its pixels read-only
    return image_of_values(values, source, stated or "gray", white=white)


def invalid_source_error(source: object) -> UsageError:
    """Returns the error for a source that is neither a path nor an image. It names the type, never the content."""
    return UsageError(
        f"predict received a {type(source).__name__}",
        "A source is a path, a reslink.Image, a NumPy array, or an iterable of these",
        "Use reslink.read_image(content) for bytes, tensor.numpy() for a tensor, numpy.asarray(picture) for a picture",
    )
