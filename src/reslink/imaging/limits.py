"""Limits of all readers, and the errors that report them.

The limits are checked from the header, before any pixel is decoded.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reslink.errors import InputError

MIB = 1 << 20
GZIP = b"\x1f\x8b"  # the first bytes of gzipped data
MAX_FILE_BYTES = 512 * MIB
MAX_PIXELS = 64 * MIB  # all frames of one file: 512 x 512 x 256
MAX_SERIES_PIXELS = 128 * MIB
MAX_DECODED_BYTES = 512 * MIB
MAX_SIDE = 16384
MIN_SIDE = 16
MAX_ASPECT = 32
MAX_FRAMES = 4096
MAX_SLOPE = 1e4
MAX_INTERCEPT = 1e5

# Files up to these limits are decoded in this process, larger ones in a child process with limits on memory and time.
MAX_IN_PROCESS_PIXELS = 4 * MIB
MAX_IN_PROCESS_BYTES = 8 * MIB
MAX_IN_PROCESS_DICOM_BYTES = 3 * MIB // 2

FORMATS = "PNG, JPEG, TIFF, WebP, BMP, NPY, DICOM and NIfTI"

_warnings_lock = threading.RLock()


class ImagingWarning(UserWarning):
    """A warning about an image that was read."""


def warn(message: str) -> None:
    """Warns the caller of the reader. Readers issue no other category of warnings."""
    warnings.warn(message, ImagingWarning, stacklevel=3)


def damaged_error(name: str, reason: str) -> InputError:
    """Returns the error for an incomplete or invalid file."""
    return InputError(
        f"{name} cannot be read: {reason}",
        "Incomplete or invalid files are not read",
        "Copy or export the file again, or exclude it",
    )


def unsupported_error(name: str, problem: str, allowed: str) -> InputError:
    """Returns the error for a valid file in an unsupported format."""
    return InputError(f"{name} {problem}", allowed, "Convert the file, for example to PNG or uncompressed DICOM")


def too_large_error(name: str, size: str, limit: str) -> InputError:
    """Returns the error for a file beyond a limit."""
    return InputError(f"{name} {size}", f"The limit is {limit}", "Crop, split or downsample the image")


def check_size(width: int, height: int, name: str, frames: int = 1) -> None:
    """Checks the image size given in a header.

    Raises:
        InputError: If a side, the aspect ratio, the number of frames or the number of pixels is out of limits.
    """
    size = f"has {width} x {height} pixels" + (f" x {frames} frames" if frames != 1 else "")
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"{name} {size}",
            f"An image has at least {MIN_SIDE} pixels on each side",
            "Use the full image, not an icon or a strip of it",
        )
    if max(width, height) > MAX_SIDE:
        raise too_large_error(name, size, f"{MAX_SIDE} pixels on a side")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise too_large_error(name, size, f"an aspect ratio of {MAX_ASPECT}")
    if not 1 <= frames <= MAX_FRAMES:
        raise too_large_error(name, size, f"1 to {MAX_FRAMES} frames")
    if width * height * frames > MAX_PIXELS:
        raise too_large_error(name, size, f"{MAX_PIXELS // MIB} megapixels per file")


def check_rescale(slope: float, intercept: float, name: str) -> None:
    """Checks that a linear rescale is plausible (DICOM PS3.3 C.11.1, NIfTI scl_slope).

    Raises:
        InputError: If a value is not finite, zero or implausibly large, which would corrupt every pixel.
    """
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise damaged_error(name, f"its rescale slope {slope} and intercept {intercept} are not finite")
    if not 0 < abs(slope) <= MAX_SLOPE or abs(intercept) > MAX_INTERCEPT:
        raise InputError(
            f"{name} has an implausible rescale slope {slope:g} or intercept {intercept:g}",
            f"The slope is within ±{MAX_SLOPE:g} and not 0, the intercept within ±{MAX_INTERCEPT:g}",
            "Export the file again from its source",
        )


def finite_float32(pixels: NDArray[np.generic], name: str) -> NDArray[np.float32]:
    """Returns pixels as contiguous float32.

    Raises:
        InputError: If a value is NaN or infinite, before or after the conversion.
    """
    with np.errstate(all="ignore"):
        values = np.ascontiguousarray(pixels, dtype=np.float32)
    # The minimum and the maximum reveal NaN too, without a Boolean array. Integers are always finite.
    if pixels.dtype.kind not in "bu" and values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise damaged_error(name, "it contains values that are not finite (NaN or infinity)")
    return values


def open_regular_file(path: str | Path, name: str = "") -> int:
    """Opens a regular file for reading, without waiting on a pipe or a device.

    Args:
        path: The file.
        name: Its name for messages; '' for the path.

    Returns:
        A file descriptor that the caller must close.

    Raises:
        InputError: If the path is missing, not readable, not a regular file, empty or too large.
    """
    name = name or str(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{name} cannot be opened: {reason}", "The path must be a readable file", "Check the path") from error
    try:
        _check_regular(os.fstat(handle), name)
    except InputError:
        os.close(handle)
        raise
    return handle


def _check_regular(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InputError(
            f"{name} is not a regular file", "Devices, pipes and sockets are not supported", "Copy the data to a file"
        )
    if status.st_size == 0:
        raise damaged_error(name, "it is empty")
    if status.st_size > MAX_FILE_BYTES:
        raise too_large_error(name, f"has {status.st_size / MIB:.0f} MiB", f"{MAX_FILE_BYTES // MIB} MiB per file")


def read_regular_file(path: str | Path) -> bytes:
    """Returns the bytes of a regular file within the limits; errors as in :func:`open_regular_file`."""
    with os.fdopen(open_regular_file(path), "rb") as stream:
        return check_data_size(stream.read(MAX_FILE_BYTES + 1), str(path))


def check_data_size(data: bytes, name: str) -> bytes:
    """Returns the data of a file if its size is within the limits; raises an InputError otherwise."""
    if not data:
        raise damaged_error(name, "it is empty")
    if len(data) > MAX_FILE_BYTES:
        raise too_large_error(name, f"has {len(data) / MIB:.0f} MiB", f"{MAX_FILE_BYTES // MIB} MiB per file")
    return data


@contextlib.contextmanager
def silence_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Collects warnings of libraries, which may quote patient data, in the yielded list; passes on our own warnings.

    Warning filters are global to a process, so only one thread at a time can use this.
    """
    with _warnings_lock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
    for warning in caught:
        if warning.category is ImagingWarning:
            warn(str(warning.message))
