"""Writes the page that compares runs: their learning curves, and a table of their metrics with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reslink.files import write_atomic
from reslink.printable_names import escape_name, printable
from reslink.reports.jinja import load_template
from reslink.reports.run.run_folder import read_epochs, read_lines
from reslink.reports.runs.curves import MAX_CURVES, QUANTITIES, curve_chart, style_curves
from reslink.reports.runs.table import Row, overlaps


def write_page(path: Path, folder: Path, rows: Sequence[Row], failed: Mapping[str, str]) -> Path:
    """Writes the page. It is self-contained: no script and no network request.

    Args:
        path: The file to write.
        folder: The folder that the runs are below.
        rows: The runs in the order of the table. The first ``MAX_CURVES`` with a finished epoch get a curve.
        failed: The error of each folder that could not be read, by name.

    Returns:
        The path of the page.

    Raises:
        InputError: If the epochs of a run can no longer be read.
        StorageError: If the page cannot be written.
    """
    trained = [row for row in rows if row["epochs"]]
    curves = style_curves([_epochs(folder, row) for row in trained[:MAX_CURVES]])
    charts = [curve_chart(curves, key) for key in QUANTITIES]
    page = load_template("runs.html.j2").render(
        name=escape_name(folder.resolve().name),
        states=Counter(row["state"] for row in rows),
        rows=[row | {"run": _label(row["run"], folder), "noun": row.get("case", "image")} for row in rows],
        cases="cases" if any("case" in row for row in rows) else "images",
        keys={curve.label: curve for curve in curves},
        charts=[chart for chart in charts if chart is not None],
        n_without_curve=len(trained) - len(curves),
        overlaps=[(_label(run, folder), message) for run, message in overlaps(rows)],
        failed={_label(name, folder): printable(reason) for name, reason in failed.items()},
    )
    return write_atomic(path, page)


def _label(name: str, folder: Path) -> str:
    return escape_name(folder.resolve().name if name == "." else name)


def _epochs(folder: Path, row: Row) -> tuple[str, list[dict[str, Any]], int | None]:
    run = folder / row["run"]
    return _label(row["run"], folder), read_epochs(run, read_lines(run)), row["best_epoch"]
