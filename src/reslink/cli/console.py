"""Output of commands: data to stdout, messages to stderr.

Names of files and texts of others cannot write lines of their own making or control a terminal: every character that is not
printable is written as an escape, see :mod:`reslink.printable_names`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from reslink.api.progress import ProgressBar, format_values
from reslink.printable_names import json_text, printable
from reslink.reports.formatting import format_count, plural

RESEARCH_USE = "Research use only. Not a medical device; not for diagnosis."


@dataclass(frozen=True)
class Console:
    """The output of a command.

    Attributes:
        quiet: Whether notes and progress are hidden; warnings and errors are always printed.
        verbose: Whether details are printed.
    """

    quiet: bool = False
    verbose: bool = False

    def note(self, text: str) -> None:
        """Prints a message to stderr, unless quiet."""
        if not self.quiet:
            self.warn(text)

    def detail(self, text: str) -> None:
        """Prints a message to stderr if verbose."""
        if self.verbose:
            self.warn(text)

    def warn(self, *lines: str) -> None:
        """Prints a warning or error to stderr, also when quiet."""
        _write_line(sys.stderr, "\n".join(map(printable, lines)))

    def data(self, *lines: str) -> None:
        """Prints lines of the result to stdout and flushes them."""
        _write_line(sys.stdout, "\n".join(map(printable, lines)))

    def row(self, *cells: str) -> None:
        """Prints one line of the result to stdout, with a tab between its cells."""
        _write_line(sys.stdout, "\t".join(map(printable, cells)))

    def json(self, value: Any, indent: int | None = None) -> None:
        """Prints one JSON value to stdout, as UTF-8 for any terminal; see :func:`reslink.printable_names.json_text`."""
        _write_line(sys.stdout, json_text(value, indent, only_ascii=not self.writes_utf8))

    @property
    def writes_utf8(self) -> bool:
        """Whether stdout takes UTF-8."""
        return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf8")

    def text(self, lines: str) -> None:
        """Writes lines of the result to stdout that are printable already, each with its newline."""
        sys.stdout.write(lines)
        sys.stdout.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
        """Prints a table to stdout: with borders on a terminal, tab-separated in a file or pipe.

        Args:
            columns: Headings; a column whose heading starts with ``>`` is right-aligned.
            rows: Cells as text, one sequence per row.
            title: Printed above the table on a terminal.
        """
        if not sys.stdout.isatty():
            for row in ([name.lstrip(">") for name in columns], *rows):
                self.row(*row)
            return
        from rich.console import Console as Terminal
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(printable(title or "")) or None, title_justify="left")
        for name in columns:
            heading = Text(printable(name.lstrip(">")))
            table.add_column(heading, justify="right" if name.startswith(">") else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        Terminal(file=sys.stdout).print(table)

    def research_use_only(self) -> None:
        """Prints the research-use notice, also when quiet; every result for people ends with it."""
        _write_line(sys.stderr, RESEARCH_USE)

    def progress(self) -> ProgressBar | ProgressLines:
        """Returns a progress bar on a terminal, otherwise an object that prints lines; when quiet, nothing is printed."""
        if sys.stderr.isatty() and not self.quiet:
            return ProgressBar()
        return ProgressLines(self)


def _write_line(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")
    stream.flush()


class ProgressLines:
    """Progress without a terminal: a line when a task starts, then at most one line every ten seconds."""

    seconds_between = 10.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._done = self._total = 0
        self._label, self._noun = "", "step"
        self._started = self._last_line = 0.0
        self._values: dict[str, Any] = {}

    def start(self, total_steps: int, label: str, noun: str = "step") -> None:
        """Starts a task."""
        self._done, self._total, self._label, self._noun = 0, total_steps, label, noun
        self._started = self._last_line = time.monotonic()
        self._values = {}
        self._console.note(f"{label}: {format_count(total_steps, noun)}")

    def step(self, n: int = 1, **values: Any) -> None:
        """Advances by n steps, and prints a line if the last line is old enough."""
        self._done += n
        self._values = values or self._values
        now = time.monotonic()
        if now - self._last_line < self.seconds_between or not self._done:
            return
        self._last_line = now
        left = (now - self._started) / self._done * max(self._total - self._done, 0)
        done = f"{self._done}/{self._total} {plural(self._noun)}"
        self._console.note(f"{self._label}: {done}, {left:.0f} s left {format_values(values)}".rstrip())

    def message(self, text: str) -> None:
        """Prints a line, such as the metrics of an epoch."""
        self._console.note(text)

    def end(self) -> None:
        """Ends the task, and prints its duration and the last values; nothing if no step was done."""
        if self._label and self._done:
            seconds = time.monotonic() - self._started
            done = format_count(self._done, self._noun)
            self._console.note(f"{self._label}: {done} in {seconds:.1f} s {format_values(self._values)}".rstrip())
        self._label = ""
