"""The side of a guarded child process: limits, then requests until the input ends.

It reads requests from standard input and writes responses to standard output: a line of JSON, then raw bytes; never a pickle.
RLIMIT_AS limits its memory. Two timers limit each request, one for processor time (SIGPROF) and one for elapsed time
(SIGALRM); their default action ends the process even inside a C library. macOS accepts RLIMIT_AS but does not enforce it: there
only the checks before the child starts limit memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

HEADROOM = 900 << 20  # bytes of address space in addition to the loaded libraries

Handler: TypeAlias = Callable[[dict[str, Any], bytes | None], tuple[dict[str, Any], list[NDArray[Any]]]]
"""Returns the header and the arrays of the response to one request and its payload."""


def run(handle: Handler, headroom: int = HEADROOM) -> None:
    """Serves on the original standard output; output of libraries is discarded.

    Args:
        handle: Handles a request.
        headroom: Bytes of memory in addition to that of the imported libraries; import what is needed before.
    """
    responses = os.fdopen(os.dup(1), "wb")
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and closes our input
    _limit_memory(headroom)
    responses.write(b"ready\n")
    responses.flush()
    with contextlib.suppress(BrokenPipeError):
        _serve(sys.stdin.buffer, responses, handle)


def _limit_memory(headroom: int) -> None:
    """Limits the address space to the current size plus headroom; disables core dumps, which would contain pixels."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # no /proc outside Linux
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + headroom, used + headroom))


def start_timers(cpu_seconds: float, wall_seconds: float) -> None:
    """Ends this process after some processor time, or after more elapsed time on a busy machine."""
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, wall_seconds)


def _serve(requests: IO[bytes], responses: IO[bytes], handle: Handler) -> None:
    """Handles requests until standard input ends."""
    while line := requests.readline():
        request = json.loads(line)
        size = request.get("size")
        payload = None if size is None else requests.read(size)
        header, arrays = handle(request, payload)
        responses.write(json.dumps(header).encode() + b"\n")
        for array in arrays:
            responses.write(array.reshape(-1).view(np.uint8).data)
        responses.flush()
        del payload, arrays
        start_timers(0, 0)
