"""The page about a comparison, made from ``comparison.json`` alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reslink import __version__
from reslink.errors import InputError
from reslink.files import write_atomic
from reslink.metrics.classification import NAMES
from reslink.reports.jinja import template
from reslink.reports.run.evaluation_charts import forest
from reslink.reports.run.page import RESEARCH_USE_ONLY
from reslink.reports.svg import COLOURS, Chart

SHOWN = ("auroc", "accuracy", "sensitivity", "specificity", "ppv", "npv", "f1", "mcc", "brier", "ece")
_DRAWN = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv", "f1", "auroc", "auprc")


def comparison_report(folder: str | Path) -> Path:
    """Writes ``report.html`` into the folder of a comparison, and its charts as SVG into ``figures/``.

    Args:
        folder: Where ``comparison.json`` stands.

    Returns:
        The page; it holds all that it shows.

    Raises:
        InputError: If there is no ``comparison.json`` that can be read.
        StorageError: If the page cannot be written.
    """
    place = Path(folder)
    try:
        found = json.loads((place / "comparison.json").read_text(encoding="utf-8"))
        pairs = [_pair(i, pair, found) for i, pair in enumerate(found["comparisons"])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{place / 'comparison.json'} cannot be used for the report ({type(error).__name__}: {error})",
            "reslink compare writes it",
            "Compare again",
        ) from error
    for chart in (pair["chart"] for pair in pairs if pair["chart"]):
        write_atomic(place / "figures" / f"{chart.name}.svg", chart.standalone())
    page = template("compare.html.j2", p=p_value).render(
        name=place.resolve().name,
        found=found,
        pairs=pairs,
        shown=[key for key in SHOWN if all(key in model["metrics"] for model in found["models"].values())],
        metric_names=NAMES,
        tests=sum(test["p_value"] is not None for pair in found["comparisons"] for test in pair["tests"]),
        notice=RESEARCH_USE_ONLY,
        version=__version__,
        colours={name: light for name, (_, light) in COLOURS.items()},
    )
    return write_atomic(place / "report.html", page)


def _pair(number: int, pair: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the page says of one pair."""
    tests = {test["figure"]: test for test in pair["tests"]}
    models = found["models"]
    rows = [
        {
            "name": NAMES[key],
            "a": models[pair["a"]]["metrics"][key],
            "b": models[pair["b"]]["metrics"][key],
            "gap": gap,
            "test": tests.get(key),
        }
        for key, gap in pair["differences"].items()
    ]
    drawn = [(NAMES[key].split(" (")[0], pair["differences"][key]) for key in _DRAWN if key in pair["differences"]]
    return {"a": pair["a"], "b": pair["b"], "rows": rows, "chart": _chart(number, pair, drawn)}


def _chart(number: int, pair: Mapping[str, Any], rows: list[tuple[str, Any]]) -> Chart | None:
    return forest(rows, f"difference_{number}", f"{pair['a']} less {pair['b']}", "difference", at=0.0)


def p_value(value: float | None) -> str:
    """Returns a p-value with three decimals, a dash where there is none."""
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
