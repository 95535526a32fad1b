"""The page that a reviewer wants: flow, partition, two-by-two table, figures, outside data, failures, a checklist."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reslink import __version__
from reslink.files import write_atomic
from reslink.metrics.classification import NAMES
from reslink.reports import charts
from reslink.reports.checklist.answers import FACTS
from reslink.reports.checklist.checklist import Checklist
from reslink.reports.checklist.evidence import Evidence
from reslink.reports.experiment.page import p_value
from reslink.reports.jinja import template
from reslink.reports.run import evaluation_charts, evaluation_sections, sections
from reslink.reports.run.flow_diagram import flow_of
from reslink.reports.run.page import RESEARCH_USE_ONLY
from reslink.reports.svg import COLOURS, Chart

OUTSIDE = ("accuracy", "sensitivity", "specificity", "auroc")


def review_page(folder: Path, evidence: Evidence, checklist: Checklist | None = None) -> Path:
    """Writes ``review.html`` into the folder of a run, or ``review-NAME.html`` with a checklist.

    Args:
        folder: Where it goes.
        evidence: The run and what belongs to it.
        checklist: A checklist that was filled from it.

    Returns:
        The page.

    Raises:
        StorageError: If it cannot be written.
    """
    page = template("review.html.j2", p=p_value).render(
        notice=RESEARCH_USE_ONLY,
        version=__version__,
        metric_names=NAMES,
        colours={name: light for name, (_, light) in COLOURS.items()},
        checklist=checklist,
        **_about(evidence),
    )
    name = "review.html" if checklist is None else f"review-{checklist.name}.html"
    return write_atomic(folder / name, page)


def _about(evidence: Evidence) -> dict[str, Any]:
    run, evaluation = evidence.run, evidence.evaluation
    gallery = [one for one in sections.gallery(run) if one["case"] and not one["case"]["right"]]
    return {
        "name": run.name,
        "facts": sections.facts(run),
        "flow": flow_of(run),
        "split": sections.split_table(run.splits),
        "leaks": sections.leaks(evaluation),
        "disjoint": FACTS["disjoint"](evidence).text,
        "audit": evidence.audit,
        "confusion": sections.confusion(evaluation),
        "threshold": FACTS["threshold"](evidence).text,
        "evaluation": evaluation,
        "charts": _charts(evidence),
        "by_class": evaluation_sections.by_class(evaluation),
        "subgroups": evaluation_sections.subgroup_tables(evaluation),
        "outside": _outside(evidence),
        "studies": {name: evidence.studies[name] for name in ("robustness", "transfer") if name in evidence.studies},
        "abstained": FACTS["abstained"](evidence).text,
        "excluded": evaluation.get("excluded") or [],
        "failed": evaluation.get("failed") or {},
        "gallery": gallery,
        "bundle": sections.bundle_rows(run.bundle),
    }


def _charts(evidence: Evidence) -> list[Chart]:
    cases = evidence.run.predictions
    if cases is None:
        return []
    drawn = [
        charts.roc(cases.y_true, cases.y_prob, cases.names, (evidence.evaluation.get("decision") or {}).get("threshold")),
        charts.calibration(cases.y_true, cases.y_prob, cases.names, evaluation_sections.diagram(evidence.evaluation)),
        evaluation_charts.decision_curve(evidence.evaluation.get("decision_curve") or {}),
    ]
    return [chart for chart in drawn if chart is not None]


def _outside(evidence: Evidence) -> list[dict[str, Any]]:
    """A row for each outside data set that was judged: by reslink evaluate, or in a transfer study."""
    rows = [
        {"data": name, "n": found.get("n"), "cells": [found.get("metrics", {}).get(key) for key in OUTSIDE]}
        for name, found in evidence.outside.items()
    ]
    by_data: dict[str, dict[str, Mapping[str, Any]]] = {}
    for table in (evidence.studies.get("transfer") or {}).get("tables", ()):
        for row in table["rows"] if table["name"] == "drop" else ():
            by_data.setdefault(row["data"], {})[row["figure"]] = row["outside"]
    for name, found in by_data.items():
        rows.append({"data": name, "n": found["accuracy"]["n"], "cells": [found.get(key) for key in OUTSIDE]})
    return rows
