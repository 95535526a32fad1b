"""``reslink runs``: lists the runs below a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reslink.cli.console import Console
from reslink.cli.options import Json

if TYPE_CHECKING:
    from reslink.reports.runs.table import FoldedRuns

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
    all_runs: Annotated[
        bool, typer.Option("--all", help="Print every run of cv, tune and experiment, and not one line for each of these.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing page.")] = False,
    json: Json = False,
) -> None:
    """List the runs below a folder: data, network, origin, seed, epochs, state, and metrics with 95 % intervals.

    The runs of cv, tune and experiment are counted in one line for each folder; --all prints them. --json always lists every
    run. The state is finished, running, interrupted (--resume continues it), diverged or not finished. Exit code 1 if a run
    cannot be read.
    """
    from reslink.api.runs import runs as list_runs
    from reslink.reports.runs.table import overlaps

    result = list_runs(folder, sort=sort, page=page, all_runs=all_runs, overwrite=overwrite)
    for run, message in overlaps(result["runs"]):
        console.warn(f"Warning: {run}: {message}.")
    if json:
        console.json(result, indent=2)
    else:
        _print_table(console, result["runs"], all_runs)
    _print_failed(console, result["failed"])
    if page is not None:
        console.note(f"page: {page}")
    if not json:
        console.research_use_only()
    if result["failed"]:
        raise typer.Exit(1)


def _print_table(console: Console, runs: list[dict[str, Any]], all_runs: bool) -> None:
    from reslink.reports.formatting import format_count
    from reslink.reports.runs.table import fold_experiments

    rows, folded = (runs, []) if all_runs else fold_experiments(runs)
    of_series = any("case" in row for row in rows)
    cases = "cases" if of_series else "images"
    head = (
        *("run", "details", "state", "data", f">{cases}", "network", ">seed", ">epochs", ">best epoch"),
        *(">val. loss", ">val. accuracy", ">val. AUROC", f">test {cases}", "accuracy (95 % interval)", "AUROC (95 % interval)"),
    )
    lines = [_cells(row, of_series) for row in rows] + [_folded_cells(experiment, len(head)) for experiment in folded]
    console.table(head, lines)
    if folded:
        n = sum(len(experiment.rows) for experiment in folded)
        counted = f"{format_count(n, 'run')} of {format_count(len(folded), 'experiment')}"
        console.note(f"{counted} are counted, not listed. Use --all to list them.")


def _cells(row: Mapping[str, Any], of_series: bool) -> tuple[str, ...]:
    from reslink.reports.formatting import format_count, format_number
    from reslink.reports.runs.table import describe_run

    def count(number: int) -> str:
        return format_count(number, row.get("case", "image")) if of_series else str(number)

    return (
        row["run"],
        describe_run(row) or "–",
        row["state"],
        (row["data"] or "–")[:8],
        count(row["images"]),
        row["network"],
        str(row["seed"]),
        f"{row['epochs']}/{row['planned_epochs']}",
        str(row["best_epoch"] or "–"),
        format_number(row["val_loss"]),
        *(f"{format_number(row[name])}{' (mean)' if row['labels'] else ''}" for name in ("val_accuracy", "val_auroc")),
        "–" if row["n_test"] is None else count(row["n_test"]),
        *(_metric(row[name], "mean, " if row["labels"] else "") for name in ("accuracy", "auroc")),
    )


def _metric(metric: Mapping[str, Any] | None, kind: str) -> str:
    from reslink.reports.formatting import format_interval, format_number

    return "–" if metric is None else f"{format_number(metric['estimate'])} ({kind}{format_interval(metric)})"


def _folded_cells(experiment: FoldedRuns, length: int) -> tuple[str, ...]:
    """Returns the line of the runs of an experiment; they have no common metrics."""
    data, network = experiment.common("data"), experiment.common("network")
    cells = (experiment.experiment, f"{len(experiment.rows)} runs", experiment.states, (data or "–")[:8], "–", network or "–")
    return (*cells, *["–"] * (length - len(cells)))


def _print_failed(console: Console, failed: Mapping[str, str]) -> None:
    from reslink.reports.formatting import format_count

    for name, reason in failed.items():
        console.warn(f"{name} is skipped: {reason}")
    if failed:
        console.warn(f"{format_count(len(failed), 'folder')} could not be read.")
