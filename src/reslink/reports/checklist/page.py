"""Writes the report for reviewers: flow diagram, splits, metrics, external validation, failures, checklist."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reslink.files import write_atomic
from reslink.reports import charts
from reslink.reports.checklist.answers import ANSWERS
from reslink.reports.checklist.checklist import Checklist
from reslink.reports.checklist.evidence import Evidence
from reslink.reports.checklist.origin import EXTERNAL
from reslink.reports.jinja import load_template
from reslink.reports.run import evaluation_charts, evaluation_sections, label_sections, sections
from reslink.reports.run.flow_diagram import case_flow
from reslink.reports.svg import Chart

EXTERNAL_METRICS = ("accuracy", "sensitivity", "specificity", "auroc")


def write_review(folder: Path, evidence: Evidence, checklist: Checklist | None = None) -> Path:
    """Writes ``review.html``, or ``review-NAME.html`` with a checklist.

    Args:
        folder: The output folder.
        evidence: The run, with its audit, experiments and external evaluations.
        checklist: A checklist filled from the same evidence.

    Returns:
        The path of the page.

    Raises:
        StorageError: If the page cannot be written.
    """
    page = load_template("review.html.j2").render(checklist=checklist, **_sections(evidence))
    name = "review.html" if checklist is None else f"review-{checklist.name}.html"
    return write_atomic(folder / name, page)


def _sections(evidence: Evidence) -> dict[str, Any]:
    run, evaluation, experiments = evidence.run, evidence.evaluation, evidence.experiments
    other_data = _other_data(evidence)
    return {
        "name": run.name,
        "facts": sections.facts(run),
        "flow": case_flow(run),
        "split": sections.split_table(run.splits),
        "group_name": sections.group_name(evaluation),
        "leakage_notice": sections.leakage_notice(evaluation),
        "disjoint": ANSWERS["disjoint"](evidence).text,
        "audit": evidence.audit,
        "label_table": label_sections.label_table(evaluation),
        "confusion": sections.confusion_matrix(evaluation),
        "threshold": ANSWERS["threshold"](evidence).text,
        "evaluation": evaluation,
        "charts": _charts(evidence),
        "class_tables": evaluation_sections.class_tables(evaluation),
        "subgroups": evaluation_sections.subgroup_tables(evaluation),
        "other_data": other_data,
        "external": any(row["origin"] == EXTERNAL for row in other_data),
        "experiments": [experiments[name] for name in ("robustness", "external") if name in experiments],
        "abstention": ANSWERS["abstention"](evidence).text,
        "excluded": evaluation.get("excluded") or [],
        "failed": evaluation.get("failed") or {},
        "gallery": [picture for picture in sections.gallery(run) if picture["case"] and not picture["case"]["correct"]],
        "bundle": sections.bundle_settings(run.bundle),
    }


def _charts(evidence: Evidence) -> list[Chart]:
    cases, evaluation = evidence.run.predictions, evidence.evaluation
    if cases is None:
        return []
    drawn = [charts.roc(cases.y_true, cases.y_prob, cases.names, (evaluation.get("decision") or {}).get("threshold"))]
    if cases.y_true.ndim == 1:
        bins = evaluation_sections.reliability_bins(evaluation)
        drawn.append(charts.calibration(cases.y_true, cases.y_prob, cases.names, bins))
    drawn += [
        label_sections.auroc_by_label(evaluation),
        evaluation_charts.decision_curve(evaluation.get("decision_curve") or {}),
    ]
    return [chart for chart in drawn if chart is not None]


def _other_data(evidence: Evidence) -> list[dict[str, Any]]:
    """Returns a row per other evaluation and per data set of an external evaluation, with the origin of its images."""
    rows = [
        {
            "data": name,
            "n": other.evaluation.get("n"),
            "cells": [other.evaluation.get("metrics", {}).get(key) for key in EXTERNAL_METRICS],
            "origin": other.origin.kind,
            "reason": other.origin.reason,
        }
        for name, other in evidence.evaluations.items()
    ]
    by_data: dict[str, dict[str, Mapping[str, Any]]] = {}
    for table in (evidence.experiments.get("external") or {}).get("tables", ()):
        for row in table["rows"] if table["name"] == "drop" else ():
            by_data.setdefault(row["data"], {})[row["metric"]] = row["external"]
    for name, metrics in by_data.items():
        cells = [metrics.get(key) for key in EXTERNAL_METRICS]
        origin = evidence.external_origins[name]
        rows.append(
            {
                "data": name,
                "n": metrics["accuracy"]["n"],
                "cells": cells,
                "origin": origin.kind,
                "reason": origin.reason,
            }
        )
    return rows
