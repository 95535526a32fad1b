"""A child process with limits on memory and time, for code that runs on untrusted content.

It is started with ``subprocess``, which also works inside daemonic multiprocessing workers.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import numpy as np

TIME_SIGNALS = (-signal.SIGPROF, -signal.SIGALRM)
"""Exit codes of a child that used up its time."""

_MAX_LINE = 1 << 20


class GuardedProcess:
    """A child process that handles one request at a time, see :mod:`reslink.imaging.sandbox.child`.

    Args:
        module: The module that the child runs.
        words: Its arguments.

    Raises:
        OSError: If the child cannot be started.
    """

    def __init__(self, module: str, *words: str) -> None:
        self.process = subprocess.Popen(  # noqa: S603 - only modules of reslink
            [sys.executable, "-P", "-m", module, *words],  # -P: no module of the working folder is imported
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        if self._read_line() != b"ready\n":
            self.close()
            raise OSError("the child process did not start")

    def _read_line(self) -> bytes:
        return self.process.stdout.readline(_MAX_LINE) if self.process.stdout else b""

    def send(self, request: dict[str, Any], payload: bytes | None = None) -> dict[str, Any]:
        """Sends a request and returns the header of the response.

        Args:
            request: The request.
            payload: Bytes to send after it; the child then finds their number in ``request["size"]``.

        Raises:
            OSError: If the child had ended before the request was sent.
            EOFError: If it ended during the request.
        """
        stream = self.process.stdin
        if stream is None or self.process.poll() is not None:
            raise OSError("the child process has ended")
        if payload is not None:
            request = request | {"size": len(payload)}
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
        header: dict[str, Any] = json.loads(line)
        return header

    def read_into(self, array: np.ndarray[Any, Any]) -> None:
        """Fills an array with the next bytes of the response.

        Raises:
            EOFError: If the child ended before.
        """
        view = array.reshape(-1).view(np.uint8).data
        if self.process.stdout is None or self.process.stdout.readinto(view) != len(view):  # type: ignore[attr-defined]
            raise EOFError

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
