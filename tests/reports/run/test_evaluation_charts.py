"""Charts of an evaluation, by their alternative texts."""

from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.textpath import TextPath

from reslink.reports.run.evaluation_charts import decision_curve, forest_plot, risk_coverage


def test_charts_have_alternative_texts():
    y_true = np.array([0, 1, 1, 0])
    y_prob = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    chart = risk_coverage(y_true, y_prob, y_prob.argmax(axis=1))
    assert chart.alt.startswith("Error rate by coverage: 0.000 at 50%; 0.250 at 80%")
    rows = [("first", {"estimate": 0.5, "ci_low": None, "ci_high": None}), ("none", {"estimate": None})]
    assert forest_plot(rows, "x", "Title", "axis").alt == "Title: first 0.500."
    assert forest_plot(rows[1:], "x", "Title", "axis") is None
    assert decision_curve({}) is None


def test_the_lines_of_a_decision_curve():
    points = [
        {"threshold": t, "net_benefit": 0.4 - t, "treat_all": 0.4 - t / 2, "ci_low": None, "ci_high": None}
        for t in (0.1, 0.2, 0.3)
    ]
    curve = {"prevalence": 0.4, "points": points}
    chart = decision_curve({"Tumor": curve})
    assert chart.alt == "Net benefit: Tumor 0.200 at 0.20."
    assert all(label in chart.inline() for label in ("treat none", "treat all"))
    both = decision_curve({"a": curve, "b": curve})
    assert both.alt == "Net benefit: a 0.200 at 0.20; b 0.200 at 0.20."
    assert "treat all" not in both.inline(), "its line depends on the class"
    many = decision_curve({f"label {i}": curve for i in range(8)})
    assert "label 7 0.200" in many.alt, "more labels than colors"


def test_the_area_under_the_risk_coverage_curve(rng):
    y_true, y_prob = rng.integers(0, 2, 30), rng.dirichlet((1, 1), 30)
    y_pred = y_prob.argmax(axis=1)
    wrong = (y_pred != y_true)[np.argsort(-y_prob.max(axis=1))]
    area = float(chart.alt.rsplit(" ", 1)[1].rstrip(".")) if (chart := risk_coverage(y_true, y_prob, y_pred)) else 0
    assert area == pytest.approx(np.mean(np.cumsum(wrong) / np.arange(1, 31)), abs=1e-4)
    assert risk_coverage(y_true[:0], y_prob[:0], y_pred[:0]) is None


@pytest.mark.parametrize("label", ["intraparenchymal (21 present)", "a label that is longer than any row may be"])
def test_no_row_label_is_cut_at_the_left_edge(label: str) -> None:
    rows = [(label, {"estimate": 0.5, "ci_low": None, "ci_high": None})]
    chart = forest_plot(rows, "x", "Title", "axis")
    right, text = re.findall(rf'x="([\d.]+)"[^>]*>({label[:12]}[^<]*)<', chart.svg)[0]
    assert text == label or text.endswith("…")
    assert TextPath((0, 0), text, size=10).get_extents().width < float(right)
