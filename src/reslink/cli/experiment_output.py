"""Printed result of an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from reslink.cli.console import Console


def print_experiment(console: Console, result: dict[str, Any], folder: Path, json: bool) -> None:
    """Prints the result of an experiment: one JSON object, or for people the conclusions and the path of the report.

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
            console.note(f"Skipped: {sentence}")
        console.note(f"report: {folder / 'report.html'}")
        console.research_use_only()
    if result["failed"]:
        raise typer.Exit(1)
