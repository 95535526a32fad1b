"""Writes the HTML report of a comparison from ``comparison.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reslink.errors import InputError
from reslink.files import write_atomic
from reslink.metrics.classification import METRIC_NAMES
from reslink.reports.jinja import load_template
from reslink.reports.run.evaluation_charts import forest_plot
from reslink.settings_text import read_json

TABLE_METRICS = ("auroc", "accuracy", "sensitivity", "specificity", "ppv", "npv", "f1", "mcc", "brier", "ece")
_CHART_METRICS = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv", "f1", "auroc", "auprc")


def comparison_report(folder: str | Path) -> Path:
    """Writes ``report.html`` into the folder of a comparison, and its charts as SVG into ``figures/``.

    Args:
        folder: The folder with ``comparison.json``.

    Returns:
        The path of the self-contained page.

    Raises:
        InputError: If ``comparison.json`` is missing or invalid.
        StorageError: If the page cannot be written.
    """
    folder = Path(folder)
    path = folder / "comparison.json"
    try:
        comparison = read_json(path)
        pairs = [_pair(i, pair, comparison["models"]) for i, pair in enumerate(comparison["comparisons"])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be used for the report ({type(error).__name__}: {error})",
            "reslink compare writes comparison.json",
            "Compare again",
        ) from error
    for chart in (pair["chart"] for pair in pairs if pair["chart"]):
        write_atomic(folder / "figures" / f"{chart.name}.svg", chart.standalone())
    models = comparison["models"].values()
    page = load_template("compare.html.j2").render(
        name=folder.resolve().name,
        comparison=comparison,
        pairs=pairs,
        table_metrics=[key for key in TABLE_METRICS if all(key in model["metrics"] for model in models)],
        n_tests=sum(test["p_value"] is not None for pair in comparison["comparisons"] for test in pair["tests"]),
    )
    return write_atomic(folder / "report.html", page)


def _pair(number: int, pair: Mapping[str, Any], models: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the table rows and the chart of one pair."""
    tests = {test["metric"]: test for test in pair["tests"]}
    rows = [
        {
            "name": METRIC_NAMES[key],
            "a": models[pair["a"]]["metrics"][key],
            "b": models[pair["b"]]["metrics"][key],
            "difference": difference,
            "test": tests.get(key),
        }
        for key, difference in pair["differences"].items()
    ]
    differences = pair["differences"]
    chart_rows = [(METRIC_NAMES[key].split(" (")[0], differences[key]) for key in _CHART_METRICS if key in differences]
    title = f"{pair['a']} minus {pair['b']}"
    chart = forest_plot(chart_rows, f"difference_{number}", title, "difference", reference=0.0)
    return {"a": pair["a"], "b": pair["b"], "rows": rows, "chart": chart}
