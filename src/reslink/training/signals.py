"""Ctrl-C and SIGTERM: the step that runs is finished, the state saved, and the user told how to go on."""

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
    """Training was stopped from outside; its state is saved (exit code 130)."""

    exit_code = 130


class StopFlag:
    """Whether someone asked the run to stop."""

    def __init__(self) -> None:
        self.asked = False


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Turns the first SIGINT or SIGTERM inside the block into a flag; a second one acts as it would have before.

    Outside the main thread, where Python has no signal handlers, the flag is never set.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(_number: int, _frame: FrameType | None) -> None:
        flag.asked = True
        _restore(before)

    for number in before:
        signal.signal(number, ask)
    try:
        yield flag
    finally:
        _restore(before)


def _restore(handlers: Handlers) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
