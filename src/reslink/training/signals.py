"""Ctrl-C and SIGTERM: the current step is finished, the state is saved, and the message says how to resume."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from reslink.errors import ReslinkError

Handlers = Mapping[signal.Signals, Callable[[int, FrameType | None], Any] | int | None]


class Interrupted(ReslinkError):
    """Training was stopped by a signal; its state is saved (exit code 130)."""

    exit_code = 130


class StopFlag:
    """Whether the run was asked to stop."""

    def __init__(self) -> None:
        self.requested = False


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Sets a flag at the first SIGINT or SIGTERM inside the block; a second one has its usual effect.

    Outside the main thread, where Python allows no signal handlers, the flag is never set.
    """
    flag = StopFlag()
    with handlers_as_before() as before:

        def request_stop(_number: int, _frame: FrameType | None) -> None:
            flag.requested = True
            _restore(before)

        for number in before:
            signal.signal(number, request_stop)
        yield flag


@contextlib.contextmanager
def handlers_as_before() -> Iterator[Handlers]:
    """Restores the handlers of SIGINT and SIGTERM at the end of the block, also if a library sets its own and leaves them.

    Yields:
        The handlers; none outside the main thread, where they cannot be set.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before: Handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if is_main}
    try:
        yield before
    finally:
        _restore(before)


def _restore(handlers: Handlers) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
