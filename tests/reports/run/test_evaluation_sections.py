"""Calibration, decision curve, risk–coverage and subgroups on the page."""

import json
from pathlib import Path

import pytest

from reslink.datasets.case import Case
from reslink.evaluation.class_statistics import class_statistics
from reslink.evaluation.subgroups import LabeledPredictions, subgroups
from reslink.labels import Labels
from reslink.metrics.differences import Predictions
from reslink.reports.run.evaluation_sections import class_tables, reliability_bins, subgroup_tables
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
    found |= class_statistics(cases.y_true, cases.y_prob, cases.y_pred, groups, labels)
    rows = [Case(Path("/x"), "Tumor", extra={"site": ("<b>A</b>", "$B")[i % 2]}) for i in range(len(groups))]
    found["subgroups"] = subgroups(
        rows, ["site"], LabeledPredictions(cases.y_true, Predictions(cases.y_prob, cases.y_pred), groups, labels)
    )
    (run / "evaluation.json").write_text(json.dumps(found))
    return run, found


def test_the_page_shows_them(evaluated):
    run, found = evaluated
    text = run_report(run).read_text()
    for name in ("decision_curve", "risk_coverage", "subgroup_0_accuracy"):
        assert (run / "figures" / f"{name}.svg").exists() or name.startswith("subgroup")
    slope = found["calibration"]["Tumor"]["slope"]["estimate"]
    assert f"{slope:.3f}".replace("-", "−") in text
    assert "Calibration slope" in text
    assert "By site" in text
    assert "<b>A</b>" not in text
    assert "&lt;b&gt;A&lt;/b&gt;" in text


def test_subgroups_of_a_model_that_abstains_have_coverage_and_silent_errors(evaluated):
    run, found = evaluated
    assert "Silent errors" not in run_report(run).read_text()
    share = {"estimate": 0.98765, "ci_low": 0.1, "ci_high": 0.7, "method": "x", "n": 4}
    for subgroup in found["subgroups"]["site"].values():
        subgroup["selective"] = {"coverage": share, "answered_accuracy": share, "silent_errors": share}
    (run / "evaluation.json").write_text(json.dumps(found))
    text = run_report(run).read_text()
    assert '<th scope="col" class="n">Coverage (share answered)</th><th scope="col" class="n">Accuracy of the' in text
    assert text.count(">0.988<span") == 6


def test_an_evaluation_without_them_has_no_such_sections(make_run):
    text = run_report(make_run()).read_text()
    assert 'id="subgroups"' not in text
    assert "Calibration slope" not in text


def test_the_decision_curve_as_a_sentence():
    point = {"threshold": 0.2, "net_benefit": 0.3, "gain_low": 0.1}
    evaluation = {"calibration": {"T": {"curve": [1]}}, "decision_curve": {"T": {"prevalence": 0.4, "points": [point]}}}
    assert "at 1 of 1 thresholds, from 0.20 to 0.20 (prevalence 40%)" in class_tables(evaluation)[0]["net_benefit"]
    point["gain_low"] = None
    assert class_tables(evaluation)[0]["net_benefit"].startswith("At no threshold")
    assert reliability_bins(evaluation) == [1]
    assert class_tables(None) == reliability_bins(None) == subgroup_tables(None) == []
