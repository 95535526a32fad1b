"""Decoding in a child process with limits: a decoder that crashes, hangs or eats memory costs one file, no more.

The children are kept and used again, so that a series of compressed slices is quick. They are started by
``subprocess``, which also works inside daemonic multiprocessing workers, and each process keeps its own.
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
from reslink.imaging.image import Image
from reslink.imaging.limits import MAX_PIXELS, damaged, warn

SECONDS = 4.0  # of work, a file; as good as elapsed time unless the machine is overloaded
PATIENCE = 20.0  # of elapsed time, a file, where other programs take the processors
_MAX_LINE = 1 << 20


class _Child:
    """One child process that serves one request at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reslink.imaging.sandbox.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        if self._line() != b"ready\n":
            self.close()
            raise OSError("the decoding process did not start")

    def _line(self) -> bytes:
        return self.process.stdout.readline(_MAX_LINE) if self.process.stdout else b""

    def ask(self, request: dict[str, Any], payload: bytes | None) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
        """Returns the head and the arrays of the answer.

        Raises:
            OSError: If the child had ended before the request was sent.
            EOFError: If it ended while it was at work.
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
        line = self._line()
        if not line.endswith(b"\n"):
            raise EOFError
        head = json.loads(line)
        return head, [] if "error" in head else self._arrays(head)

    def _arrays(self, head: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
        shape = tuple(int(n) for n in head["shape"])
        if not 0 < int(np.prod(shape)) <= MAX_PIXELS:
            raise EOFError
        arrays: list[np.ndarray[Any, Any]] = [np.empty(shape, np.float32)]
        if head["padding"]:
            arrays.append(np.empty(shape, np.bool_))
        for array in arrays:
            view = array.reshape(-1).view(np.uint8).data
            if self.process.stdout is None or self.process.stdout.readinto(view) != len(view):  # type: ignore[attr-defined]
                raise EOFError
        return arrays

    def close(self) -> int:
        """Ends the child and returns its exit code, negative for a signal."""
        self.disown()
        try:
            return self.process.wait(1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def disown(self) -> None:
        """Closes the pipes; a child whose input ends ends."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue


class _Pool:
    """The children that wait for work; a thread takes one out while it uses it."""

    def __init__(self) -> None:
        self.idle: list[_Child] = []
        self.lock = threading.Lock()
        self.inherited: list[_Child] = []

    def take(self) -> _Child:
        with self.lock:
            while self.idle:
                child = self.idle.pop()
                if child.process.poll() is None:
                    return child
                child.close()
        return _Child()

    def give(self, child: _Child) -> None:
        with self.lock:
            self.idle.append(child)

    def close(self) -> None:
        """Ends all idle children, at the end of the program."""
        while self.idle:
            self.idle.pop().close()

    def forget(self) -> None:
        """Lets go, after a fork, of the parent's children; kept referenced, since they are not ours to end."""
        self.lock = threading.Lock()
        for child in self.idle:
            child.disown()
        self.inherited += self.idle
        self.idle = []


_pool = _Pool()
atexit.register(_pool.close)
os.register_at_fork(after_in_child=_pool.forget)


def decode_in_child(kind: str, source: Path | bytes, name: str) -> tuple[Image, dict[str, Any]]:
    """Decodes a file in a child process.

    Args:
        kind: As for :func:`reslink.imaging.decode.decode`.
        source: The path, which the child opens, or the bytes.
        name: File name for messages.

    Returns:
        The image and facts that the decoder found.

    Raises:
        InputError: What the decoder raised, or that it died or took too long.
    """
    payload = source if isinstance(source, bytes) else None
    request: dict[str, Any] = {"kind": kind, "name": name, "seconds": SECONDS, "patience": PATIENCE}
    if isinstance(source, Path):
        request["path"] = str(source.absolute())
    else:
        request["size"] = len(source)
    child = _start(name)
    try:
        head, arrays = child.ask(request, payload)
    except (OSError, EOFError, ValueError, KeyError):
        raise _death(child.close(), name) from None
    except BaseException:
        child.process.kill()  # Ctrl-C in the middle of an answer: the stream is of no use any more
        child.close()
        raise
    _pool.give(child)
    for message in head.get("warnings", ()):
        warn(message)
    if "error" in head:
        raise InputError(*head["error"])
    return _to_image(head, arrays, name), head["facts"]


def _start(name: str) -> _Child:
    try:
        return _pool.take()
    except OSError as error:
        raise InputError(
            f"{name} cannot be decoded: {error}",
            "Risky formats are decoded in a process of their own",
            "Check that Python can start processes, and that there is memory left",
        ) from error


def _death(code: int, name: str) -> InputError:
    import signal

    if code in (-signal.SIGPROF, -signal.SIGALRM):
        return damaged(name, f"decoding took longer than {SECONDS:g} seconds")
    return damaged(name, f"the decoder died on it (code {code})")


def _to_image(head: dict[str, Any], arrays: list[np.ndarray[Any, Any]], name: str) -> Image:
    fields = dict(head["fields"])
    for word in ("spacing", "window"):
        fields[word] = tuple(fields[word]) if fields[word] else None
    return Image(arrays[0], padding=arrays[1] if len(arrays) > 1 else None, source=name, **fields)
