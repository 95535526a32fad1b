"""How a long job tells what it is doing, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Listens to a long job; the command line shows a bar, a test a list, a service a log."""

    def start(self, total_steps: int, label: str) -> None:
        """A part of the job begins.

        Args:
            total_steps: Steps of this part, 0 where unknown.
            label: What it is, such as ``Epoch 1 of 5``.
        """

    def step(self, n: int = 1, **values: float) -> None:
        """Some steps are done.

        Args:
            n: How many.
            **values: Figures worth showing, such as ``loss``.
        """

    def message(self, text: str) -> None:
        """Something that a person should read, such as a warning."""

    def end(self) -> None:
        """The part that was started last is over."""


def so_far(progress: Progress) -> Callable[[int, int], None]:
    """Returns a listener to what is done so far, of how many, that tells a ``Progress`` of the steps between."""
    told = 0

    def hear(done: int, _total: int) -> None:
        nonlocal told
        progress.step(done - told)
        told = done

    return hear


class Silent:
    """A listener that shows nothing."""

    def start(self, total_steps: int, label: str) -> None:
        """Shows nothing."""

    def step(self, n: int = 1, **values: float) -> None:
        """Shows nothing."""

    def message(self, text: str) -> None:
        """Shows nothing."""

    def end(self) -> None:
        """Shows nothing."""
