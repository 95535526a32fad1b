"""What goes where: data to stdout, everything that is said to the user to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichBar

RESEARCH = "Research use only. Not a medical device; not for diagnosis."


@dataclass(frozen=True)
class Console:
    """Where a verb says things.

    Attributes:
        quiet: Whether notes and progress are left out; warnings and errors are always said.
        verbose: Whether details are said too.
    """

    quiet: bool = False
    verbose: bool = False

    def note(self, text: str) -> None:
        """Says something to the user on stderr, unless quiet."""
        if not self.quiet:
            _line(sys.stderr, text)

    def detail(self, text: str) -> None:
        """Says something on stderr that only ``--verbose`` asks for."""
        if self.verbose:
            _line(sys.stderr, text)

    def warn(self, text: str) -> None:
        """Says something on stderr that the user must see, also when quiet."""
        _line(sys.stderr, text)

    def data(self, text: str) -> None:
        """Writes one line of the result to stdout, at once."""
        _line(sys.stdout, text)

    def json(self, value: Any, indent: int | None = None) -> None:
        """Writes one JSON value to stdout; NaN is refused, it is not JSON."""
        self.data(json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
        """Writes a table to stdout: drawn on a terminal, tab-separated where stdout is a file or a pipe.

        Args:
            columns: Headings; a heading that starts with ``>`` makes its column right-aligned.
            rows: Cells as text, one sequence a row.
            title: Shown above the table on a terminal.
        """
        if not sys.stdout.isatty():
            for row in ([name.lstrip(">") for name in columns], *rows):
                self.data("\t".join(row))
            return
        from rich.console import Console as Terminal
        from rich.table import Table
        from rich.text import Text

        drawn = Table(title=title, title_justify="left")
        for name in columns:
            drawn.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
        for row in rows:
            drawn.add_row(*(Text(cell) for cell in row))
        Terminal(file=sys.stdout).print(drawn)

    def research_use_only(self) -> None:
        """Says what every human-readable result must say, also when quiet."""
        _line(sys.stderr, RESEARCH)

    def progress(self) -> Bar | Lines:
        """Returns the progress display that fits: a bar on a terminal, lines elsewhere, nothing when quiet."""
        if sys.stderr.isatty() and not self.quiet:
            return Bar()
        return Lines(self)


def _line(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")
    stream.flush()


class Bar:
    """A Rich bar on stderr with the values of the last step and the time left."""

    def __init__(self) -> None:
        self._bar: RichBar | None = None
        self._task: Any = None

    def start(self, total_steps: int, label: str) -> None:
        """Begins a stretch of work; one that was still open ends."""
        from rich.console import Console as Terminal
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
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
            console=Terminal(stderr=True),
        )
        self._task = self._bar.add_task(label, total=total_steps, values="")
        self._bar.start()

    def step(self, n: int = 1, **values: Any) -> None:
        """Moves on by n steps."""
        if self._bar is not None:
            self._bar.update(self._task, advance=n, values=_values(values))

    def message(self, text: str) -> None:
        """Says a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            _line(sys.stderr, text)

    def end(self) -> None:
        """Ends the bar and leaves it standing."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Lines:
    """Progress where stderr is no terminal: a line when a stretch begins, then at most one every ten seconds."""

    seconds_between = 10.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._done = self._total = 0
        self._label = ""
        self._began = self._said = 0.0
        self._values: dict[str, Any] = {}

    def start(self, total_steps: int, label: str) -> None:
        """Begins a stretch of work."""
        self._done, self._total, self._label = 0, total_steps, label
        self._began = self._said = time.monotonic()
        self._values = {}
        self._console.note(f"{label}: {counted(total_steps, 'step')}")

    def step(self, n: int = 1, **values: Any) -> None:
        """Moves on by n steps; says so if the last line is old enough."""
        self._done += n
        self._values = values or self._values
        now = time.monotonic()
        if now - self._said < self.seconds_between or not self._done:
            return
        self._said = now
        left = (now - self._began) / self._done * max(self._total - self._done, 0)
        self._console.note(f"{self._label}: {self._done}/{self._total}, {left:.0f} s left {_values(values)}".rstrip())

    def message(self, text: str) -> None:
        """Says a line, such as the figures of an epoch."""
        self._console.note(text)

    def end(self) -> None:
        """Ends the stretch; says how long it took and what the values were last."""
        if self._label:
            seconds = time.monotonic() - self._began
            self._console.note(
                f"{self._label}: {counted(self._done, 'step')} in {seconds:.1f} s {_values(self._values)}".rstrip()
            )
            self._label = ""


def counted(n: int, what: str) -> str:
    """Returns a number with its noun, such as ``1 step`` or ``3 steps``."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _values(values: dict[str, Any]) -> str:
    return " ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items())
