"""The progress protocol: how long jobs report what they are doing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Receives the progress of a long job; the command line draws a bar, a service writes a log."""

    def start(self, total_steps: int, label: str, noun: str = "step") -> None:
        """Begins a phase of the job.

        Args:
            total_steps: Steps of this phase, 0 if unknown.
            label: Name of the phase, such as ``Epoch 1 of 5``.
            noun: What a step is, such as ``image``, in the singular.
        """

    def step(self, n: int = 1, **values: float) -> None:
        """Reports finished steps.

        Args:
            n: Number of steps.
            **values: Values to show, such as ``loss``.
        """

    def message(self, text: str) -> None:
        """Reports a text for the user, such as a warning."""

    def end(self) -> None:
        """Ends the phase that was started last."""


@contextmanager
def phase(progress: Progress, total_steps: int, label: str, noun: str = "step") -> Iterator[None]:
    """Begins a phase of a job, and ends it with the block, also after an error; see :meth:`Progress.start`."""
    progress.start(total_steps, label, noun)
    try:
        yield
    finally:
        progress.end()


def progress_callback(progress: Progress) -> Callable[[int, int], None]:
    """Returns a callback ``(done, total)`` that forwards the newly finished steps to a ``Progress``."""
    reported = 0

    def on_progress(done: int, _total: int) -> None:
        nonlocal reported
        progress.step(done - reported)
        reported = done

    return on_progress


class SilentProgress:
    """A progress that shows nothing."""

    def start(self, total_steps: int, label: str, noun: str = "step") -> None:
        """Shows nothing."""

    def step(self, n: int = 1, **values: float) -> None:
        """Shows nothing."""

    def message(self, text: str) -> None:
        """Shows nothing."""

    def end(self) -> None:
        """Shows nothing."""
