"""Limits that every reader keeps, and the errors that name them.

The limits are checked from the header, before a pixel is decoded.
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
MAX_FILE_BYTES = 512 * MIB
MAX_PIXELS = 64 * MIB  # of one file, all frames together: 512 x 512 x 256
MAX_SERIES_PIXELS = 128 * MIB
MAX_DECODED_BYTES = 512 * MIB
MAX_SIDE = 16384
MIN_SIDE = 16
MAX_ASPECT = 32
MAX_FRAMES = 4096
MAX_SLOPE = 1e4
MAX_INTERCEPT = 1e5

# Up to here a file is decoded in this process; beyond, in a child process with limits on memory and time.
QUICK_PIXELS = 4 * MIB
QUICK_BYTES = 8 * MIB
QUICK_DICOM_BYTES = 3 * MIB // 2

FORMATS = "PNG, JPEG, TIFF, WebP, BMP, NPY, DICOM and NIfTI"

_quiet_lock = threading.RLock()


class ImagingWarning(UserWarning):
    """An image is read, and something about it should be known."""


def warn(message: str) -> None:
    """Warns the caller of the reader; the only kind of warning that leaves the readers."""
    warnings.warn(message, ImagingWarning, stacklevel=3)


def damaged(name: str, why: str) -> InputError:
    """Returns the error for a file that is not whole or not what it claims to be."""
    return InputError(
        f"{name} cannot be read: {why}",
        "A file is read whole or not at all",
        "Copy or export the file again, or leave it out",
    )


def unsupported(name: str, what: str, allowed: str) -> InputError:
    """Returns the error for a well-formed file of a kind that is not read."""
    return InputError(f"{name} {what}", allowed, "Convert the file, for example to PNG or uncompressed DICOM")


def too_large(name: str, what: str, limit: str) -> InputError:
    """Returns the error for a file beyond a limit."""
    return InputError(f"{name} {what}", f"The limit is {limit}", "Crop, split or downsample it, then try again")


def check_size(width: int, height: int, name: str, frames: int = 1) -> None:
    """Checks the size that a header claims.

    Raises:
        InputError: If a side, the aspect, the number of frames or of pixels is out of limits.
    """
    size = f"claims {width} x {height} pixels" + (f" x {frames} frames" if frames != 1 else "")
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"{name} {size}",
            f"An image has at least {MIN_SIDE} pixels on each side",
            "Give the image itself, not an icon or a strip of it",
        )
    if max(width, height) > MAX_SIDE:
        raise too_large(name, size, f"{MAX_SIDE} pixels on a side")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise too_large(name, size, f"a side {MAX_ASPECT} times the other")
    if not 1 <= frames <= MAX_FRAMES:
        raise too_large(name, size, f"1 to {MAX_FRAMES} frames")
    if width * height * frames > MAX_PIXELS:
        raise too_large(name, size, f"{MAX_PIXELS // MIB} megapixels in one file")


def check_rescale(slope: float, intercept: float, name: str) -> None:
    """Checks a linear rescale for plausibility (DICOM PS3.3 C.11.1, NIfTI scl_slope).

    Raises:
        InputError: If a value is not finite, zero or implausibly large: it would silently corrupt every pixel.
    """
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise damaged(name, f"its rescale slope {slope} and intercept {intercept} are not finite")
    if not 0 < abs(slope) <= MAX_SLOPE or abs(intercept) > MAX_INTERCEPT:
        raise InputError(
            f"{name} has an implausible rescale slope {slope:g} or intercept {intercept:g}",
            f"The slope is within ±{MAX_SLOPE:g} and not 0, the intercept within ±{MAX_INTERCEPT:g}",
            "Export the file again from where it came",
        )


def finite_float32(pixels: NDArray[np.generic], name: str) -> NDArray[np.float32]:
    """Returns pixels as contiguous float32.

    Raises:
        InputError: If a value is NaN or infinite, also after the conversion.
    """
    with np.errstate(all="ignore"):
        values = np.ascontiguousarray(pixels, dtype=np.float32)
    # The smallest and the largest value tell of NaN too, and need no array of Booleans; whole numbers are finite.
    if pixels.dtype.kind not in "bu" and values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise damaged(name, "it holds values that are not finite (NaN or infinity)")
    return values


def guess_unit_is_hu(values: NDArray[np.float32]) -> bool:
    """Whether numbers without a unit are Hounsfield units.

    The rule for NIfTI and NPY, which carry no unit: whole numbers (to within 0.001), the lowest at −200 or below, none
    outside −32768 to 32767. Air is −1000 HU and fat −100 HU; magnitudes of MR are never negative.
    """
    low, high = float(values.min()), float(values.max())
    if not (-32768 <= low <= -200 and high <= 32767):
        return False
    sample = values.reshape(-1)[:: max(1, values.size // 100_000)]
    return bool(np.abs(sample - np.rint(sample)).max() <= 1e-3)


def open_regular(path: str | Path) -> int:
    """Opens a regular file for reading, never waiting on a pipe or a device.

    Returns:
        A file descriptor, to be closed by the caller.

    Raises:
        InputError: If the path is missing, not readable, not a regular file, empty or too large.
    """
    name = str(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"{name} cannot be opened: {why}", "The path must name a file that may be read", "Check the path"
        ) from error
    try:
        _check_regular(os.fstat(handle), name)
    except InputError:
        os.close(handle)
        raise
    return handle


def _check_regular(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name} is not a regular file", "Devices, pipes and sockets are not read", "Copy the data to a file")
    if status.st_size == 0:
        raise damaged(name, "it is empty")
    if status.st_size > MAX_FILE_BYTES:
        raise too_large(name, f"has {status.st_size / MIB:.0f} MiB", f"{MAX_FILE_BYTES // MIB} MiB a file")


def read_regular(path: str | Path) -> bytes:
    """Returns the bytes of a regular file within the limits; errors as in :func:`open_regular`."""
    with os.fdopen(open_regular(path), "rb") as stream:
        return read_limited(stream.read(MAX_FILE_BYTES + 1), str(path))


def read_limited(data: bytes, name: str) -> bytes:
    """Returns data that was handed over in memory, once it is known to be within the limits."""
    if not data:
        raise damaged(name, "it is empty")
    if len(data) > MAX_FILE_BYTES:
        raise too_large(name, f"has {len(data) / MIB:.0f} MiB", f"{MAX_FILE_BYTES // MIB} MiB a file")
    return data


@contextlib.contextmanager
def quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Silences the warnings of the libraries below, which may quote patient data; yields the list of them; ours go on.

    The filter is global to a process, so one thread at a time may hold it.
    """
    with _quiet_lock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
    for warning in caught:
        if warning.category is ImagingWarning:
            warn(str(warning.message))
