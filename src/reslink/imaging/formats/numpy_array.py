"""NumPy's ``.npy``, a plane or a stack of planes of plain numbers, never a pickle; and arrays in memory."""

from __future__ import annotations

import io
import math
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from reslink.errors import UsageError, nearest
from reslink.imaging.image import Image, Unit
from reslink.imaging.limits import (
    MAX_DECODED_BYTES,
    check_size,
    damaged,
    finite_float32,
    guess_unit_is_hu,
    too_large,
    unsupported,
)

MAGIC = b"\x93NUMPY"
_WHITE = {("u", 1): 255.0, ("u", 2): 65535.0}


def read_array(data: bytes, name: str) -> Image:
    """Reads an array of shape (H, W) or (D, H, W).

    uint8 and uint16 are grey values; other numbers are HU where
    :func:`~reslink.imaging.limits.guess_unit_is_hu` says so, else an arbitrary intensity (unit ``MR``).

    Raises:
        InputError: If the array holds objects or text, has another number of axes, is cut short or too large.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(stream)
    except Exception as error:  # the header is a Python literal, which can break in many ways
        raise damaged(name, "the NPY header is broken") from error
    if dtype.kind not in "uif" or len(shape) not in (2, 3):
        raise unsupported(
            name,
            f"holds {dtype} of shape {shape}",
            "Arrays are (H, W) or (D, H, W) of integers or floating point numbers",
        )
    check_size(shape[-1], shape[-2], name, frames=shape[0] if len(shape) == 3 else 1)
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_DECODED_BYTES:
        raise too_large(name, f"has {size} bytes of numbers", f"{MAX_DECODED_BYTES} bytes")
    start = stream.tell()
    if len(data) < start + size:
        raise damaged(name, f"the NPY data has {len(data) - start} bytes, the header claims {size}")
    values = np.frombuffer(data, dtype, count=math.prod(shape), offset=start)
    pixels = finite_float32(values.reshape(shape, order="F" if fortran else "C"), name)
    white = _WHITE.get((dtype.kind, dtype.itemsize))
    if white:
        return Image(pixels, unit="grey", white=white, source=name)
    if guess_unit_is_hu(pixels):
        return Image(pixels, unit="HU", modality="CT", source=name)
    return Image(pixels, unit="MR", source=name)


def image_of(array: NDArray[Any], unit: Unit | None = None, source: str = "array") -> Image:
    """Returns an array in memory as an image.

    Args:
        array: (H, W), or (D, H, W) for a volume; integers or floating point numbers; not changed.
        unit: ``HU`` for CT, ``MR`` for an arbitrary intensity, ``grey`` for a picture; not needed for uint8, which is ``grey``.
        source: What it is called in messages.

    Raises:
        UsageError: If the unit is missing or not one of these.
        InputError: If the array has another number of axes, holds no numbers or one that is not finite, is out of limits, or
            its last axis has 3 or 4 places, as a colour picture has.
    """
    if unit is None and array.dtype != np.uint8:
        raise UsageError(
            f"An array of {array.dtype} was given without a unit",
            "Numbers may be HU, MR or grey; only uint8 is grey without saying so",
            'Say unit="HU" for CT, unit="MR" for MR, unit="grey" for a picture',
        )
    if unit is not None and unit not in get_args(Unit):
        raise UsageError(f"There is no unit {unit!r}", "The units are HU, MR and grey", nearest(str(unit), get_args(Unit)))
    if array.dtype.kind not in "uif" or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] in (3, 4)):
        raise unsupported(
            source,
            f"holds {array.dtype} of shape {array.shape}",
            "Arrays are (H, W) or (D, H, W) of integers or floating point numbers, not colour pictures",
        )
    check_size(array.shape[-1], array.shape[-2], source, frames=array.shape[0] if array.ndim == 3 else 1)
    pixels = finite_float32(array, source)
    pixels = pixels.copy() if np.may_share_memory(pixels, array) else pixels  # an image makes its pixels read-only
    white = _WHITE.get((array.dtype.kind, array.dtype.itemsize)) if unit in (None, "grey") else None
    return Image(pixels, unit or "grey", "CT" if unit == "HU" else "MR" if unit == "MR" else None, white=white, source=source)


def no_source(source: object) -> UsageError:
    """Returns the error for what is neither a path nor an image; it names the type, never what is in the thing."""
    return UsageError(
        f"{type(source).__name__} was given to predict",
        "A source is a path, a reslink.Image or a NumPy array; many of them are a list or another iterable",
        "Give the content of a file as reslink.read_image(content), a tensor as tensor.numpy(), a picture as numpy.asarray(it)",
    )
