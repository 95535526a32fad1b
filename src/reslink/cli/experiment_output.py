"""The folder of an experiment, and its printed result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from reslink.cli.console import Console

if TYPE_CHECKING:
    from reslink.training.monitoring.progress import Progress


def print_experiment(
    console: Console, result: dict[str, Any], paths: Mapping[str, str | Path], json: bool, remark: str = "Skipped"
) -> None:
    """Prints the result of an experiment: one JSON object, or for people the conclusions and what was written.

    Args:
        console: Prints.
        result: The content of ``experiment.json`` or ``tune.json``.
        paths: What was written, by name.
        json: Whether to print JSON.
        remark: Word before each sentence of ``not_done``.

    Raises:
        typer.Exit: With code 1 if a run failed.
    """
    if json:
        console.json(result, indent=2)
    else:
        for sentence in result["answer"]:
            console.data(sentence)
    for failure in result["failed"]:
        console.warn(f"Warning: {failure['run']} failed: {failure['reason']}")
    if not json:
        for sentence in result["not_done"]:
            console.note(f"{remark}: {sentence}")
        for name, path in paths.items():
            console.note(f"{name}: {path}")
        console.research_use_only()
    if result["failed"]:
        raise typer.Exit(1)


@contextmanager
def locked(console: Console, folder: Path) -> Iterator[Progress]:
    """Locks the folder of an experiment and gives the progress display."""
    from reslink.files import lock_folder

    progress = console.progress()
    try:
        with lock_folder(folder):
            yield progress
    finally:
        progress.end()
