"""Writes the HTML report of an experiment from ``experiment.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reslink.errors import InputError
from reslink.files import write_atomic
from reslink.reports.experiment.charts import draw_charts
from reslink.reports.formatting import format_p_value
from reslink.reports.jinja import load_template
from reslink.settings_text import read_json


def experiment_report(folder: str | Path) -> Path:
    """Writes ``report.html`` into the folder of an experiment, and its charts as SVG into ``figures/``.

    Args:
        folder: The folder with ``experiment.json``.

    Returns:
        The path of the page.

    Raises:
        InputError: If ``experiment.json`` is missing or invalid.
        StorageError: If the page cannot be written.
    """
    folder = Path(folder)
    experiment = _read(folder / "experiment.json")
    return write_page(experiment, "experiment.json", folder / "report.html", folder / "figures")


def write_page(experiment: Mapping[str, Any], source: str, path: Path, figures: Path) -> Path:
    """Writes the page of an experiment, and its charts as SVG.

    Args:
        experiment: The content of ``experiment.json``.
        source: Name of the file with this content.
        path: The page.
        figures: Folder of the charts.

    Returns:
        The path of the page.

    Raises:
        StorageError: If a file cannot be written.
    """
    charts = draw_charts(experiment)
    for chart in charts:
        write_atomic(figures / f"{chart.name}.svg", chart.standalone())
    page = load_template("experiment.html.j2").render(
        experiment=experiment,
        charts=charts,
        p_value_note=p_value_note,
        missing_intervals=missing_intervals,
        source=source,
    )
    return write_atomic(path, page)


def p_value_note(test: Mapping[str, Any]) -> str:
    """Returns the p-value of a test, corrected if it was; empty without a p-value."""
    corrected, uncorrected = test.get("p_holm"), test.get("p_value")
    value = uncorrected if corrected is None else corrected
    if value is None:
        return ""
    return f"p {'' if value < 0.001 else '= '}{format_p_value(value)}"


def missing_intervals(table: Mapping[str, Any]) -> list[str]:
    """Returns the explanations of the missing intervals of a table, each once.

    A cell shows ``method`` up to the semicolon, such as the number of groups. The rest is the same in many cells.
    """
    keys = [column["key"] for column in table["columns"] if column["kind"] in {"estimate", "test"}]
    cells = [row[key] for row in table["rows"] for key in keys if row.get(key) and row[key]["ci_low"] is None]
    return list(dict.fromkeys(rest for cell in cells if (rest := cell["method"].partition("; ")[2])))


def _read(path: Path) -> dict[str, Any]:
    try:
        experiment: dict[str, Any] = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read: {error}", "reslink experiment writes experiment.json", "Run the experiment again"
        ) from error
    return experiment
