"""The report of a comparison."""

import json

import pytest

from reslink.errors import InputError
from reslink.metrics.classification import METRIC_NAMES
from reslink.reports.compare import comparison_report

ESTIMATE = {"estimate": 0.8, "ci_low": 0.7, "ci_high": 0.9, "method": "bootstrap", "n": 40}


def comparison():
    metrics = dict.fromkeys(METRIC_NAMES, ESTIMATE)
    model = {"metrics": metrics, "leakage": {"status": "allowed", "message": "3 cases overlap"}, "failed": {}}
    difference = ESTIMATE | {"estimate": -0.125, "ci_low": -0.2, "ci_high": -0.05}
    test = {"metric": "auroc", "name": "DeLong", "p_value": 0.0002, "p_holm": 0.0004, "method": "DeLong's test"}
    pair = {"a": "<b>first</b>", "b": "second", "differences": {"auroc": difference, "accuracy": difference}, "tests": [test]}
    return {
        "n": 40,
        "n_groups": 20,
        "labels": ["Healthy", "Tumor"],
        "positive": "Tumor",
        "models": {"<b>first</b>": model, "second": model},
        "comparisons": [pair],
        "excluded": {"1.png": {"second": "blank"}},
    }


def test_the_page_is_complete_and_escaped(tmp_path):
    (tmp_path / "comparison.json").write_text(json.dumps(comparison()))
    page = comparison_report(tmp_path).read_text()
    for text in ("−0.125", "&lt; 0.001", "3 cases overlap", "1 case could not be evaluated by every model and is excluded"):
        assert text in page
    assert "Sensitivity (recall)" in page
    assert "<b>first</b>" not in page
    assert (tmp_path / "figures" / "difference_0.svg").exists()


def test_an_invalid_file_is_named(tmp_path):
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(InputError, match=r"comparison.json cannot be used.*Compare again"):
        comparison_report(tmp_path)
