"""Writes the page that compares runs: their learning curves, and a table of their metrics with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from reslink.files import write_atomic
from reslink.printable_names import escape_name, printable
from reslink.reports.jinja import load_template
from reslink.reports.run.run_folder import read_epochs, read_lines
from reslink.reports.runs.curves import MAX_CURVES, QUANTITIES, curve_chart, style_curves
from reslink.reports.runs.table import Row, describe_run, fold_experiments, overlaps

MIN_EPOCHS: Final = 2
"""A run with fewer epochs has no curve."""


def write_page(path: Path, folder: Path, rows: Sequence[Row], failed: Mapping[str, str], *, all_runs: bool = False) -> Path:
    """Writes the page. It is self-contained: no script and no network request.

    Args:
        path: The file to write.
        folder: The folder that the runs are below.
        rows: The runs in the order of the table. The first ``MAX_CURVES`` of the shown ones with ``MIN_EPOCHS`` epochs get a
            curve.
        failed: The error of each folder that could not be read, by name.
        all_runs: Whether every run of an experiment is shown, or one line for each experiment.

    Returns:
        The path of the page.

    Raises:
        InputError: If the epochs of a run can no longer be read.
        StorageError: If the page cannot be written.
    """
    shown, folded = (rows, []) if all_runs else fold_experiments(rows)
    trained = [row for row in shown if row["epochs"] >= MIN_EPOCHS]
    curves = style_curves([_epochs(folder, row) for row in trained[:MAX_CURVES]])
    charts = [curve_chart(curves, key) for key in QUANTITIES]
    labels = {row["run"]: _label(row["run"], folder) for row in rows}
    page = load_template("runs.html.j2").render(
        name=escape_name(folder.resolve().name),
        states=Counter(row["state"] for row in rows),
        n_runs=len(rows),
        rows=[
            row | {"run": labels[row["run"]], "details": escape_name(describe_run(row)), "noun": row.get("case", "image")}
            for row in shown
        ],
        folded=folded,
        n_folded=len(rows) - len(shown),
        cases="cases" if any("case" in row for row in shown) else "images",
        keys={labels[row["run"]]: curve for row, curve in zip(trained, curves, strict=False)},
        charts=[chart for chart in charts if chart is not None],
        n_without_curve=len(trained) - len(curves),
        n_one_epoch=sum(row["epochs"] == 1 for row in shown),
        overlaps=[(_label(run, folder), message) for run, message in overlaps(rows)],
        failed={_label(name, folder): printable(reason) for name, reason in failed.items()},
    )
    return write_atomic(path, page)


def _label(name: str, folder: Path) -> str:
    return escape_name(folder.resolve().name if name == "." else name)


def _epochs(folder: Path, row: Row) -> tuple[str, list[dict[str, Any]], int | None]:
    run = folder / row["run"]
    return _legend(row, folder), read_epochs(run, read_lines(run)), row["best_epoch"]


def _legend(row: Row, folder: Path) -> str:
    """Returns the name of a run in the legend: in an experiment its condition, because the name of its folder is a hash."""
    if not row["conditions"]:
        return _label(row["run"], folder)
    experiment = f"{row['experiment']}: " if row["experiment"] else ""
    return escape_name(f"{experiment}{'; '.join(row['conditions'])}, seed {row['seed']}")
