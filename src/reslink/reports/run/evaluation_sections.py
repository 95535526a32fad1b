"""The report sections about calibration, decision curve, likelihood ratios and subgroups, as plain values for the template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reslink.evaluation.selective import named_answers
from reslink.metrics.calibration_estimates import CALIBRATION_NAMES
from reslink.metrics.likelihood_ratios import LIKELIHOOD_RATIO_NAMES
from reslink.reports.run.evaluation_charts import forest_plot
from reslink.reports.svg import Chart

SUBGROUP_METRICS = ("accuracy", "sensitivity", "specificity", "auroc")
JsonObject = Mapping[str, Any]


def class_tables(evaluation: JsonObject | None) -> list[dict[str, Any]]:
    """Returns the calibration and likelihood ratio tables of each class, and its decision curve as a sentence."""
    evaluation = evaluation or {}
    calibration, curves = evaluation.get("calibration") or {}, evaluation.get("decision_curve") or {}
    ratios = evaluation.get("likelihood_ratios") or {}
    return [
        {
            "name": name,
            "calibration": [(title, values[key]) for key, title in CALIBRATION_NAMES.items() if key in values],
            "bins": values.get("bins"),
            "ratios": [
                (title, ratios[name][key]) for key, title in LIKELIHOOD_RATIO_NAMES.items() if key in ratios.get(name, {})
            ],
            "net_benefit": _net_benefit(curves[name]) if name in curves else None,
        }
        for name, values in calibration.items()
    ]


def reliability_bins(evaluation: JsonObject | None) -> list[Any]:
    """Returns the bins of the reliability diagram of the positive class of two; empty with more classes."""
    classes = list(((evaluation or {}).get("calibration") or {}).values())
    return list(classes[0]["curve"]) if len(classes) == 1 else []


def _net_benefit(curve: JsonObject) -> str:
    """Returns the range of thresholds at which the model is better than treating all or none."""
    better = [point["threshold"] for point in curve["points"] if point["gain_low"] is not None and point["gain_low"] > 0]
    prevalence = f"prevalence {curve['prevalence']:.0%}"
    if not better:
        return f"At no threshold is the net benefit clearly above treating all and treating none ({prevalence})."
    return (
        f"The net benefit is above treating all and treating none (95 % interval) at {len(better)} of "
        f"{len(curve['points'])} thresholds, from {better[0]:.2f} to {better[-1]:.2f} ({prevalence})."
    )


def subgroup_tables(evaluation: JsonObject | None) -> list[dict[str, Any]]:
    """Returns a table and the charts of each subgroup column."""
    tables = []
    for i, (column, values) in enumerate(((evaluation or {}).get("subgroups") or {}).items()):
        answers = [named_answers(subgroup.get("selective")) for subgroup in values.values()]
        rows = [
            {
                "name": name,
                "n": subgroup["n"],
                "n_groups": subgroup["n_groups"],
                "cells": [
                    *((subgroup["metrics"][key], subgroup["difference_from_others"].get(key)) for key in SUBGROUP_METRICS),
                    *((estimate, None) for estimate in answered.values()),
                ],
            }
            for (name, subgroup), answered in zip(values.items(), answers, strict=True)
        ]
        tables.append({"column": column, "rows": rows, "answers": list(answers[0]), "charts": _forest_plots(i, column, values)})
    return tables


def _forest_plots(number: int, column: str, values: JsonObject) -> list[Chart]:
    charts = []
    for key, title in (("accuracy", "Accuracy"), ("auroc", "AUROC")):
        rows = [(name, subgroup["metrics"][key]) for name, subgroup in values.items()]
        charts.append(forest_plot(rows, f"subgroup_{number}_{key}", f"{title} by {column}", title))
    return [chart for chart in charts if chart is not None]
