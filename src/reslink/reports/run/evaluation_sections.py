"""What the page says of calibration, decision curve, likelihood ratios and subgroups, as plain values for the template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reslink.metrics.calibration_estimates import NAMES as CALIBRATION
from reslink.metrics.likelihood_ratios import NAMES as RATIOS
from reslink.reports.run.evaluation_charts import forest
from reslink.reports.svg import Chart

SUBGROUP_FIGURES = ("accuracy", "sensitivity", "specificity", "auroc")
Found = Mapping[str, Any]


def by_class(evaluation: Found | None) -> list[dict[str, Any]]:
    """Returns, by class, the tables of calibration and likelihood ratios, and what the decision curve says in words."""
    found = evaluation or {}
    calibration, curves = found.get("calibration") or {}, found.get("decision_curve") or {}
    ratios = found.get("likelihood_ratios") or {}
    return [
        {
            "name": name,
            "calibration": [(title, part[key]) for key, title in CALIBRATION.items() if key in part],
            "bins": part.get("bins"),
            "ratios": [(title, ratios[name][key]) for key, title in RATIOS.items() if key in ratios.get(name, {})],
            "worth": _worth(curves[name]) if name in curves else None,
        }
        for name, part in calibration.items()
    ]


def diagram(evaluation: Found | None) -> list[Any]:
    """Returns the rows of the reliability diagram of the positive class of two; none where there are more classes."""
    parts = list(((evaluation or {}).get("calibration") or {}).values())
    return list(parts[0]["curve"]) if len(parts) == 1 else []


def _worth(curve: Found) -> str:
    """Returns between which thresholds the model is surely better than treating all or none."""
    better = [point["threshold"] for point in curve["points"] if point["gain_low"] is not None and point["gain_low"] > 0]
    share = f"in these data, where {curve['prevalence']:.0%} of the cases are of the class"
    if not better:
        return f"At no threshold does the interval show a net benefit above treating all and treating none {share}."
    return (
        f"The net benefit is above that of treating all and of treating none, by its 95 % interval, at {len(better)} of "
        f"{len(curve['points'])} thresholds, from {better[0]:.2f} to {better[-1]:.2f}, {share}."
    )


def subgroup_tables(evaluation: Found | None) -> list[dict[str, Any]]:
    """Returns a table and a chart for each column by which the cases were divided."""
    tables = []
    for i, (column, values) in enumerate(((evaluation or {}).get("subgroups") or {}).items()):
        rows = [
            {
                "name": name,
                "n": part["n"],
                "n_groups": part["n_groups"],
                "cells": [(part["metrics"][key], part["versus_rest"].get(key)) for key in SUBGROUP_FIGURES],
            }
            for name, part in values.items()
        ]
        tables.append({"column": column, "rows": rows, "charts": _forests(i, column, values)})
    return tables


def _forests(number: int, column: str, values: Found) -> list[Chart]:
    drawn = []
    for key, title in (("accuracy", "Accuracy"), ("auroc", "AUROC")):
        rows = [(name, part["metrics"][key]) for name, part in values.items()]
        drawn.append(forest(rows, f"subgroup_{number}_{key}", f"{title} by {column}", title))
    return [chart for chart in drawn if chart is not None]
