"""Decode files in child processes with limits, so that a decoder that crashes, hangs or runs out of memory affects one file.

The child processes are reused, so that a series of compressed slices is fast. Each process has its own pool.
"""

from __future__ import annotations

import atexit
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from reslink.errors import InputError
from reslink.imaging.image import Image, Unit
from reslink.imaging.limits import MAX_PIXELS, damaged_error, warn
from reslink.imaging.orientation import Orientation
from reslink.imaging.sandbox.guarded_process import TIME_SIGNALS, GuardedProcess

CPU_SECONDS = 4.0  # processor time per file
WALL_SECONDS = 20.0  # elapsed time per file; only reached if other programs use the processors
_WORKER = "reslink.imaging.sandbox.worker"


class _Pool:
    """The idle child processes; a thread takes one out while it uses it."""

    def __init__(self) -> None:
        self.idle: list[GuardedProcess] = []
        self.lock = threading.Lock()
        self.inherited: list[GuardedProcess] = []

    def acquire(self) -> GuardedProcess:
        with self.lock:
            while self.idle:
                child = self.idle.pop()
                if child.process.poll() is None:
                    return child
                child.close()
        return GuardedProcess(_WORKER)

    def release(self, child: GuardedProcess) -> None:
        with self.lock:
            self.idle.append(child)

    def close(self) -> None:
        """Ends all idle child processes at exit."""
        while self.idle:
            self.idle.pop().close()

    def release_after_fork(self) -> None:
        """Releases the child processes of the parent after a fork.

        They stay referenced, because Popen would otherwise wait for processes that are not ours.
        """
        self.lock = threading.Lock()
        for child in self.idle:
            child.close_pipes()
        self.inherited += self.idle
        self.idle = []


_pool = _Pool()
atexit.register(_pool.close)
os.register_at_fork(after_in_child=_pool.release_after_fork)


def decode_in_sandbox(
    file_format: str, source: Path | bytes, name: str, unit: Unit | None = None
) -> tuple[Image, dict[str, Any]]:
    """Decodes a file in a child process.

    Args:
        file_format: As for :func:`reslink.imaging.decode.decode`.
        source: The path, which the child process opens, or the bytes.
        name: File name for messages.
        unit: The unit stated by the user, for files that state none.

    Returns:
        The image, and its geometry for a DICOM slice.

    Raises:
        InputError: If the decoder raises one, crashes or takes too long.
    """
    payload = source if isinstance(source, bytes) else None
    request: dict[str, Any] = {
        "file_format": file_format,
        "name": name,
        "unit": unit,
        "cpu_seconds": CPU_SECONDS,
        "wall_seconds": WALL_SECONDS,
    }
    if isinstance(source, Path):
        request["path"] = str(source.absolute())
    child = _start(name)
    try:
        header = child.send(request, payload)
        arrays = [] if "error" in header else _read_arrays(child, header)
    except (OSError, EOFError, ValueError, KeyError):
        raise _crash_error(child.close(), name) from None
    except BaseException:
        child.process.kill()  # Ctrl-C in the middle of a response: the stream cannot be used any more
        child.close()
        raise
    _pool.release(child)
    for message in header.get("warnings", ()):
        warn(message)
    if "error" in header:
        raise InputError(*header["error"])
    return _to_image(header, arrays, name), header["geometry"]


def _start(name: str) -> GuardedProcess:
    try:
        return _pool.acquire()
    except OSError as error:
        raise InputError(
            f"{name} cannot be decoded: {error}",
            "Compressed and large files are decoded in a separate process",
            "Check that Python can start processes and that enough memory is free",
        ) from error


def _read_arrays(child: GuardedProcess, header: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    shape = tuple(int(n) for n in header["shape"])
    if not 0 < int(np.prod(shape)) <= MAX_PIXELS:
        raise EOFError
    arrays: list[np.ndarray[Any, Any]] = [np.empty(shape, np.float32)]
    if header["padding"]:
        arrays.append(np.empty(shape, np.bool_))
    for array in arrays:
        child.read_into(array)
    return arrays


def _crash_error(code: int, name: str) -> InputError:
    if code in TIME_SIGNALS:
        return damaged_error(name, f"decoding took longer than {CPU_SECONDS:g} seconds")
    return damaged_error(name, f"the decoder crashed (exit code {code})")


def _to_image(header: dict[str, Any], arrays: list[np.ndarray[Any, Any]], name: str) -> Image:
    fields = dict(header["fields"])
    for field in ("spacing", "window", "edges"):
        fields[field] = tuple(fields[field]) if fields[field] else None
    fields["orientation"] = Orientation(*fields["orientation"]) if fields["orientation"] else None
    fields["notes"] = tuple(fields["notes"])
    return Image(arrays[0], padding=arrays[1] if len(arrays) > 1 else None, source=name, **fields)
