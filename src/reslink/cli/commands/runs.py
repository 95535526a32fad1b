"""``reslink runs``: lists the runs below a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from reslink.cli.console import Console
from reslink.cli.options import Json

EXAMPLES = (
    "reslink runs runs/",
    "reslink runs runs/ --sort auroc --page runs.html",
    "reslink runs experiments/ct --json > runs.json",
)


def runs(
    console: Console,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that is searched for runs.", show_default=False)],
    sort: Annotated[
        str,
        typer.Option(
            "--sort", metavar="COLUMN", help="Column to sort by, a key of --json; the best accuracy and AUROC come first."
        ),
    ] = "run",
    page: Annotated[
        Path | None,
        typer.Option("--page", metavar="FILE", help="HTML file to write, with the learning curves.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing page.")] = False,
    json: Json = False,
) -> None:
    """List the runs below a folder: data, network, seed, epochs, state, and metrics with 95 % intervals.

    Runs of experiments are listed too. The state is finished, running, interrupted (--resume continues it), diverged or not
    finished. Exit code 1 if a run cannot be read.
    """
    from reslink.api.runs import runs as list_runs
    from reslink.reports.runs.table import overlaps

    result = list_runs(folder, sort=sort, page=page, overwrite=overwrite)
    for run, message in overlaps(result["runs"]):
        console.warn(f"Warning: {run}: {message}.")
    if json:
        console.json(result, indent=2)
    else:
        _print_table(console, result["runs"])
    _print_failed(console, result["failed"])
    if page is not None:
        console.note(f"page: {page}")
    if not json:
        console.research_use_only()
    if result["failed"]:
        raise typer.Exit(1)


def _print_table(console: Console, rows: list[dict[str, Any]]) -> None:
    of_series = any("case" in row for row in rows)
    cases = "cases" if of_series else "images"
    head = (
        *("run", "state", "data", f">{cases}", "network", ">seed", ">epochs", ">best epoch"),
        *(">val. loss", ">val. accuracy", ">val. AUROC", f">test {cases}", "accuracy (95 % interval)", "AUROC (95 % interval)"),
    )
    console.table(head, [_cells(row, of_series) for row in rows])


def _cells(row: Mapping[str, Any], of_series: bool) -> tuple[str, ...]:
    from reslink.reports.formatting import format_count, format_number

    def count(number: int) -> str:
        return format_count(number, row.get("case", "image")) if of_series else str(number)

    return (
        row["run"],
        row["state"],
        (row["data"] or "–")[:8],
        count(row["images"]),
        row["network"],
        str(row["seed"]),
        f"{row['epochs']}/{row['planned_epochs']}",
        str(row["best_epoch"] or "–"),
        *(format_number(row[name]) for name in ("val_loss", "val_accuracy", "val_auroc")),
        "–" if row["n_test"] is None else count(row["n_test"]),
        _metric(row["accuracy"]),
        _metric(row["auroc"]),
    )


def _metric(metric: Mapping[str, Any] | None) -> str:
    from reslink.reports.formatting import format_interval, format_number

    return "–" if metric is None else f"{format_number(metric['estimate'])} ({format_interval(metric)})"


def _print_failed(console: Console, failed: Mapping[str, str]) -> None:
    from reslink.reports.formatting import format_count

    for name, reason in failed.items():
        console.warn(f"{name} is skipped: {reason}")
    if failed:
        console.warn(f"{format_count(len(failed), 'folder')} could not be read.")
