"""Calibration, decision curve, risk–coverage and subgroups on the page."""

import json
from pathlib import Path

import numpy as np
import pytest

from reslink.datasets.manifest import Case
from reslink.evaluation.statistics import statistics
from reslink.evaluation.subgroups import Judged, subgroups
from reslink.labels import Labels
from reslink.metrics.differences import Answers
from reslink.reports.run.evaluation_charts import decision_curve, forest, selective_risk
from reslink.reports.run.evaluation_sections import by_class, diagram, subgroup_tables
from reslink.reports.run.page import run_report
from reslink.reports.run.run_folder import read_run


@pytest.fixture
def evaluated(make_run):
    """A run whose evaluation.json has the statistics and a subgroup with a hostile name."""
    run = make_run()
    files = read_run(run)
    cases, labels = files.predictions, Labels(("Healthy", "Tumor"))
    groups = [str(i // 2) for i in range(len(cases.y_true))]
    found = json.loads((run / "evaluation.json").read_text())
    found |= statistics(cases.y_true, cases.y_prob, cases.y_pred, groups, labels)
    rows = [Case(Path("/x"), "Tumor", extra={"site": ("<b>A</b>", "$B")[i % 2]}) for i in range(len(groups))]
    found["subgroups"] = subgroups(rows, ["site"], Judged(cases.y_true, Answers(cases.y_prob, cases.y_pred), groups, labels))
    (run / "evaluation.json").write_text(json.dumps(found))
    return run, found


def test_the_page_shows_them(evaluated):
    run, found = evaluated
    text = run_report(run).read_text()
    for name in ("decision_curve", "risk_coverage", "subgroup_0_accuracy"):
        assert (run / "figures" / f"{name}.svg").exists() or name.startswith("subgroup")
    slope = found["calibration"]["Tumor"]["slope"]["estimate"]
    assert f"{slope:.3f}".replace("-", "−") in text
    assert "calibration slope" in text
    assert "By site" in text
    assert "<b>A</b>" not in text
    assert "&lt;b&gt;A&lt;/b&gt;" in text


def test_an_evaluation_without_them_is_shown_as_before(make_run):
    text = run_report(make_run()).read_text()
    assert 'id="subgroups"' not in text
    assert "calibration slope" not in text


def test_what_the_decision_curve_says_in_words():
    point = {"threshold": 0.2, "net_benefit": 0.3, "gain_low": 0.1}
    part = {"calibration": {"T": {"curve": [1]}}, "decision_curve": {"T": {"prevalence": 0.4, "points": [point]}}}
    assert "at 1 of 1 thresholds, from 0.20 to 0.20, in these data, where 40%" in by_class(part)[0]["worth"]
    point["gain_low"] = None
    assert by_class(part)[0]["worth"].startswith("At no threshold")
    assert diagram(part) == [1]
    assert by_class(None) == diagram(None) == subgroup_tables(None) == []


def test_charts_say_in_words_what_they_show():
    y_true = np.array([0, 1, 1, 0])
    y_prob = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])
    chart = selective_risk(y_true, y_prob, y_prob.argmax(axis=1))
    assert chart.alt.startswith("Errors among the cases answered: 0.000 at 50%; 0.250 at 80%")
    rows = [("first", {"estimate": 0.5, "ci_low": None, "ci_high": None}), ("none", {"estimate": None})]
    assert forest(rows, "x", "Title", "axis").alt == "Title: first 0.500."
    assert forest(rows[1:], "x", "Title", "axis") is None
    assert decision_curve({}) is None
