"""Decode files in child processes with limits, so that a decoder that crashes, hangs or runs out of memory affects one file.

The child processes are reused, so that a series of compressed slices is fast. They are started with ``subprocess``, which also
works inside daemonic multiprocessing workers. Each process has its own pool.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from reslink.errors import InputError
from reslink.imaging.image import Image, Unit
from reslink.imaging.limits import MAX_PIXELS, damaged_error, warn
from reslink.imaging.orientation import Orientation

CPU_SECONDS = 4.0  # processor time per file
WALL_SECONDS = 20.0  # elapsed time per file; only reached if other programs use the processors
_MAX_LINE = 1 << 20


class _DecoderProcess:
    """A child process that handles one request at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reslink.imaging.sandbox.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        if self._read_line() != b"ready\n":
            self.close()
            raise OSError("the decoding process did not start")

    def _read_line(self) -> bytes:
        return self.process.stdout.readline(_MAX_LINE) if self.process.stdout else b""

    def send(self, request: dict[str, Any], payload: bytes | None) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
        """Sends a request; returns the header and the arrays of the response.

        Raises:
            OSError: If the child had ended before the request was sent.
            EOFError: If it ended during the request.
        """
        stream = self.process.stdin
        if stream is None or self.process.poll() is not None:
            raise OSError("the decoding process has ended")
        try:
            stream.write(json.dumps(request).encode() + b"\n")
            if payload is not None:
                stream.write(payload)
            stream.flush()
        except BrokenPipeError:
            raise EOFError from None
        line = self._read_line()
        if not line.endswith(b"\n"):
            raise EOFError
        header = json.loads(line)
        return header, [] if "error" in header else self._read_arrays(header)

    def _read_arrays(self, header: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
        shape = tuple(int(n) for n in header["shape"])
        if not 0 < int(np.prod(shape)) <= MAX_PIXELS:
            raise EOFError
        arrays: list[np.ndarray[Any, Any]] = [np.empty(shape, np.float32)]
        if header["padding"]:
            arrays.append(np.empty(shape, np.bool_))
        for array in arrays:
            view = array.reshape(-1).view(np.uint8).data
            if self.process.stdout is None or self.process.stdout.readinto(view) != len(view):  # type: ignore[attr-defined]
                raise EOFError
        return arrays

    def close(self) -> int:
        """Ends the child and returns its exit code, negative for a signal."""
        self.close_pipes()
        try:
            return self.process.wait(1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def close_pipes(self) -> None:
        """Closes the pipes; the child ends when its input ends."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue


class _Pool:
    """The idle child processes; a thread takes one out while it uses it."""

    def __init__(self) -> None:
        self.idle: list[_DecoderProcess] = []
        self.lock = threading.Lock()
        self.inherited: list[_DecoderProcess] = []

    def acquire(self) -> _DecoderProcess:
        with self.lock:
            while self.idle:
                child = self.idle.pop()
                if child.process.poll() is None:
                    return child
                child.close()
        return _DecoderProcess()

    def release(self, child: _DecoderProcess) -> None:
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
    else:
        request["size"] = len(source)
    child = _start(name)
    try:
        header, arrays = child.send(request, payload)
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


def _start(name: str) -> _DecoderProcess:
    try:
        return _pool.acquire()
    except OSError as error:
        raise InputError(
            f"{name} cannot be decoded: {error}",
            "Compressed and large files are decoded in a separate process",
            "Check that Python can start processes and that enough memory is free",
        ) from error


def _crash_error(code: int, name: str) -> InputError:
    import signal

    if code in (-signal.SIGPROF, -signal.SIGALRM):
        return damaged_error(name, f"decoding took longer than {CPU_SECONDS:g} seconds")
    return damaged_error(name, f"the decoder crashed (exit code {code})")


def _to_image(header: dict[str, Any], arrays: list[np.ndarray[Any, Any]], name: str) -> Image:
    fields = dict(header["fields"])
    for field in ("spacing", "window"):
        fields[field] = tuple(fields[field]) if fields[field] else None
    fields["orientation"] = Orientation(*fields["orientation"]) if fields["orientation"] else None
    fields["notes"] = tuple(fields["notes"])
    return Image(arrays[0], padding=arrays[1] if len(arrays) > 1 else None, source=name, **fields)
