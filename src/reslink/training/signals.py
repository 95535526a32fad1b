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
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        flag.requested = True
        _restore(before)

    for number in before:
        signal.signal(number, request_stop)
    try:
        yield flag
    finally:
        _restore(before)


@contextlib.contextmanager
def handlers_as_before() -> Iterator[None]:
    """Restores the handlers of SIGINT and SIGTERM at the end of the block, for a library that sets its own and leaves them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _restore(before)


def _restore(handlers: Handlers) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
