"""NumPy's ``.npy``: a plane or a stack of planes of plain numbers, never a pickle."""

from __future__ import annotations

import io
import math

import numpy as np

from reslink.imaging.guard import (
    MAX_DECODED_BYTES,
    check_size,
    damaged,
    finite_float32,
    guess_unit_is_hu,
    too_large,
    unsupported,
)
from reslink.imaging.image import Image

MAGIC = b"\x93NUMPY"
_WHITE = {("u", 1): 255.0, ("u", 2): 65535.0}


def read_array(data: bytes, name: str) -> Image:
    """Reads an array of shape (H, W) or (D, H, W).

    uint8 and uint16 are grey values; other numbers are HU where
    :func:`~reslink.imaging.guard.guess_unit_is_hu` says so, else an arbitrary intensity (unit ``MR``).

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
