"""The child process that decodes risky files: ``python -m reslink.imaging.sandbox.worker``, started by ``child.py``.

It reads requests from standard input and answers on standard output: a line of JSON, then raw bytes; never a pickle.
Its memory is limited by RLIMIT_AS and each request by two timers, of work (SIGPROF) and of waiting (SIGALRM), whose
default action ends the process also inside a C library. macOS accepts RLIMIT_AS and does not keep it: there the size
checks from the header alone limit memory.
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

HEADROOM = 900 << 20  # bytes of address space beyond what the loaded libraries take


def limit_memory() -> None:
    """Limits the address space to what is in use now and some headroom; forbids core dumps, which would hold pixels."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # no /proc outside Linux
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, used + HEADROOM))


def answer(request: dict[str, Any], payload: bytes | None) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Returns the head and the blocks of bytes of the answer to one request."""
    from reslink.imaging.decode import decode
    from reslink.imaging.limits import ImagingWarning, damaged, read_regular

    _start_clock(request["kind"], request["seconds"], request["patience"])
    name = str(request["name"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            data = read_regular(request["path"]) if payload is None else payload
            image, facts = decode(request["kind"], data, name)
        except InputError as error:
            return {"error": [error.given, error.allowed, error.next_step]}, []
        except Exception as error:  # noqa: BLE001 - whatever a library raises is a bad file
            refusal = damaged(name, f"its content is broken or too large ({type(error).__name__})")
            return {"error": [refusal.given, refusal.allowed, refusal.next_step]}, []
    head = {
        "shape": image.pixels.shape,
        "padding": image.padding is not None,
        "warnings": [str(w.message) for w in caught if w.category is ImagingWarning],
        "facts": facts,
        "fields": {
            "unit": image.unit,
            "modality": image.modality,
            "spacing": image.spacing,
            "white": image.white,
            "inverted": image.inverted,
            "window": image.window,
        },
    }
    return head, [image.pixels] if image.padding is None else [image.pixels, image.padding]


def _start_clock(kind: str, seconds: float, patience: float) -> None:
    """Lets this process live on for some seconds of work, and some more of waiting for its turn on a busy machine."""
    from reslink.imaging.decode import prepare

    prepare(kind)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, patience)


def _stop_clock() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answers requests until standard input ends."""
    while line := requests.readline():
        request = json.loads(line)
        size = request.get("size")
        payload = None if size is None else requests.read(size)
        head, blocks = answer(request, payload)
        answers.write(json.dumps(head).encode() + b"\n")
        for block in blocks:
            answers.write(block.reshape(-1).view(np.uint8).data)
        answers.flush()
        del payload, blocks
        _stop_clock()


def main() -> None:
    """Serves on the original standard output; what libraries print goes nowhere."""
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes our input
    limit_memory()  # numpy is loaded by now, so that the memory of its threads does not count
    answers.write(b"ready\n")
    answers.flush()
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
