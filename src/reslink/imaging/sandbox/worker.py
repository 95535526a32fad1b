"""The child process that decodes files: ``python -m reslink.imaging.sandbox.worker``, started by ``pool.py``.

It reads requests from standard input and writes responses to standard output: a line of JSON, then raw bytes; never a pickle.
RLIMIT_AS limits its memory. Two timers limit each request, one for processor time (SIGPROF) and one for elapsed time
(SIGALRM); their default action ends the process even inside a C library. macOS accepts RLIMIT_AS but does not enforce it: there
only the size checks of the headers limit memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from reslink.errors import InputError

HEADROOM = 900 << 20  # bytes of address space in addition to the loaded libraries


def limit_memory() -> None:
    """Limits the address space to the current size plus headroom; disables core dumps, which would contain pixels."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # no /proc outside Linux
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, used + HEADROOM))


def handle(request: dict[str, Any], payload: bytes | None) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Returns the header and the arrays of the response to one request."""
    from reslink.imaging.decode import decode
    from reslink.imaging.limits import ImagingWarning, damaged_error, read_regular_file

    _start_timers(request["file_format"], request["cpu_seconds"], request["wall_seconds"])
    name = str(request["name"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            data = read_regular_file(request["path"]) if payload is None else payload
            image, geometry = decode(request["file_format"], data, name, request["unit"])
        except InputError as error:
            return {"error": [error.given, error.allowed, error.next_step]}, []
        except Exception as error:  # noqa: BLE001 - any error of a library means a broken file
            damaged = damaged_error(name, f"its content is broken or too large ({type(error).__name__})")
            return {"error": [damaged.given, damaged.allowed, damaged.next_step]}, []
    header = {
        "shape": image.pixels.shape,
        "padding": image.padding is not None,
        "warnings": [str(w.message) for w in caught if w.category is ImagingWarning],
        "geometry": geometry,
        "fields": {
            "unit": image.unit,
            "modality": image.modality,
            "spacing": image.spacing,
            "white": image.white,
            "inverted": image.inverted,
            "window": image.window,
            "orientation": image.orientation,
            "notes": image.notes,
            "excluded": image.excluded,
            "sequence": image.sequence,
            "plane": image.plane,
        },
    }
    return header, [image.pixels] if image.padding is None else [image.pixels, image.padding]


def _start_timers(file_format: str, cpu_seconds: float, wall_seconds: float) -> None:
    """Ends this process after some processor time, or after more elapsed time on a busy machine."""
    from reslink.imaging.decode import import_decoder

    import_decoder(file_format)
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, wall_seconds)


def _stop_timers() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)


def serve(requests: IO[bytes], responses: IO[bytes]) -> None:
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
        _stop_timers()


def main() -> None:
    """Serves on the original standard output; output of libraries is discarded."""
    responses = os.fdopen(os.dup(1), "wb")
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and closes our input
    limit_memory()  # after NumPy was imported, so that the memory of its threads does not count
    responses.write(b"ready\n")
    responses.flush()
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, responses)


if __name__ == "__main__":
    main()
