"""A progress bar for long functions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

from reslink.printable_names import printable
from reslink.reports.formatting import plural
from reslink.training.monitoring.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

ShowProgress: TypeAlias = bool | Progress
"""True for a progress bar on stderr, False for none, or an object with the methods of ``Progress``."""


def resolve_progress(progress: ShowProgress) -> Progress:
    """Returns the object that receives the progress: a bar for True, a silent one for False."""
    if isinstance(progress, bool):
        return ProgressBar() if progress else SilentProgress()
    return progress


class ProgressBar:
    """A Rich progress bar on stderr that shows the latest values and the remaining time."""

    def __init__(self) -> None:
        self._bar: RichProgress | None = None
        self._task: Any = None

    def start(self, total_steps: int, label: str, noun: str = "step") -> None:
        """Starts a bar; a bar that is still shown ends."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.end()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[nouns]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(printable(label), total=total_steps, values="", nouns=plural(noun))
        self._bar.start()

    def step(self, n: int = 1, **values: Any) -> None:
        """Advances the bar by n steps."""
        if self._bar is not None:
            self._bar.update(self._task, advance=n, values=format_values(values))

    def message(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(printable(text), markup=False, highlight=False)
        else:
            sys.stderr.write(printable(text) + "\n")
            sys.stderr.flush()

    def end(self) -> None:
        """Ends the bar; it stays on the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def format_values(values: dict[str, Any]) -> str:
    """Returns names and values as text, such as ``loss 0.1234 epoch 2``."""
    return " ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items())
