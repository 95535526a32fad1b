"""The report section of several labels at once, as plain values for the template, and its chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from reslink.evaluation.selective import can_abstain, named_answers
from reslink.metrics.classification import METRIC_NAMES
from reslink.reports.run.evaluation_charts import forest_plot
from reslink.reports.svg import Chart

LABEL_METRICS: Final = ("auroc", "auprc", "sensitivity", "specificity", "ppv", "brier", "ece")


def label_table(evaluation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the table of the labels; None with one class per image.

    Returns:
        ``metrics`` and ``answers`` (the titles of the columns of two tables; no answers if the model cannot abstain) and
        ``rows``: for each label its name, the entry of ``by_label`` in ``evaluation.json``, its threshold, and its estimates in
        the order of the columns, as ``cells`` and ``answers``.
    """
    by_label = (evaluation or {}).get("by_label")
    if not evaluation or not by_label:
        return None
    decisions = evaluation["decision"]["by_label"]
    rows = [
        {
            "name": name,
            "counts": entry,
            "threshold": decision["threshold"],
            "cells": [evaluation["per_class"][name][key] for key in LABEL_METRICS],
            "answers": list(named_answers(entry["selective"]).values()),
        }
        for (name, entry), decision in zip(by_label.items(), decisions, strict=True)
    ]
    entries = list(by_label.values())
    answers = list(named_answers(entries[0]["selective"])) if any(map(can_abstain, entries)) else []
    return {"metrics": [METRIC_NAMES[key] for key in LABEL_METRICS], "answers": answers, "rows": rows}


def auroc_by_label(evaluation: Mapping[str, Any] | None) -> Chart | None:
    """Draws the AUROC of each label with its interval; None with one class per image."""
    if not (evaluation or {}).get("by_label"):
        return None
    assert evaluation is not None  # noqa: S101  (checked above)
    rows = [
        (f"{name} ({evaluation['by_label'][name]['n_present']} present)", metrics["auroc"])
        for name, metrics in evaluation["per_class"].items()
    ]
    return forest_plot(
        [*rows, ("mean of the labels", evaluation["metrics"]["auroc"])], "auroc_by_label", "AUROC by label", "AUROC", 0.5
    )
