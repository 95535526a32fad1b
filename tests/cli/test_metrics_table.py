"""Printed metrics and run summaries."""

from __future__ import annotations

import json
from typing import Any

import pytest
import typer

from reslink.cli.console import Console
from reslink.cli.metrics_table import print_answers, print_metrics, print_run_summary, print_subgroups, warn_of_refused


def estimate(value: float | None, low: float | None, high: float | None, method: str) -> dict[str, Any]:
    return {"estimate": value, "ci_low": low, "ci_high": high, "method": method, "n": 4}


ANSWERS = {
    "coverage": estimate(0.7, 0.6, 0.8, "x"),
    "answered_accuracy": estimate(6 / 7, 0.6, 0.9, "x"),
    "silent_errors": estimate(0.1, 0.0, 0.2, "x"),
}


def test_metrics_show_intervals_or_the_reason_why_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"auroc": estimate(0.9, 0.8, 1.0, "bootstrap"), "ppv": estimate(None, None, None, "undefined: none")}
    print_metrics(Console(), metrics, ("ppv", "auroc", "f1"), "x")
    assert capsys.readouterr().out.splitlines()[1:] == [
        "PPV (precision)\t–\t–\t4\tundefined: none",
        "AUROC\t0.900\t0.800 to 1.000\t4\tbootstrap",
    ]


@pytest.mark.parametrize("abstains", [True, False])
def test_subgroups_show_coverage_and_silent_errors_if_the_model_abstains(
    abstains: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    value = {name: estimate(number, None, None, "") for name, number in (("accuracy", 0.8), ("auroc", 0.9))}
    subgroup = {"n": 4, "metrics": value, "selective": ANSWERS if abstains else {}}
    print_subgroups(Console(), {"site": {"A": subgroup}})
    assert capsys.readouterr().out.splitlines() == [
        "site\tn\taccuracy\tAUROC"
        + "\tcoverage (share answered)\taccuracy of the answered cases\tsilent errors (wrong and answered)" * abstains,
        "A\t4\t0.800\t0.900" + "\t0.700\t0.857\t0.100" * abstains,
    ]


def test_the_answers_over_all_images_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    abstention = {"n_covered": 3, "prediction_sets": None, "n_out_of_distribution": 1}
    print_answers(Console(), {"selective": abstention | ANSWERS})
    assert capsys.readouterr().out.splitlines() == [
        "metric\testimate\t95 % interval\tn\tmethod",
        "coverage (share answered)\t0.700\t0.600 to 0.800\t4\tx",
        "accuracy of the answered cases\t0.857\t0.600 to 0.900\t4\tx",
        "silent errors (wrong and answered)\t0.100\t0.000 to 0.200\t4\tx",
    ]
    print_answers(Console(), {"selective": abstention | ANSWERS | {"n_out_of_distribution": None}})
    assert capsys.readouterr().out == "", "the model cannot abstain"


def test_the_answers_of_several_labels_are_printed_by_label(capsys: pytest.CaptureFixture[str]) -> None:
    abstention = {"n_covered": 3, "prediction_sets": None, "n_out_of_distribution": 1}
    entries = {"edema": {"selective": abstention | ANSWERS}}
    print_answers(Console(), {"selective": abstention | {"coverage": ANSWERS["coverage"]}, "by_label": entries})
    assert capsys.readouterr().out.splitlines()[1:] == [
        "coverage (share answered)\t0.700\t0.600 to 0.800\t4\tx",
        "label\tcoverage (share answered)\taccuracy of the answered cases\tsilent errors (wrong and answered)",
        "edema\t0.700\t0.857\t0.100",
    ]


def test_a_summary_for_people_lists_findings_and_paths(capsys: pytest.CaptureFixture[str]) -> None:
    finding = {"code": "gap", "message": "A gap", "advice": "Mind it", "epoch": 1}
    summary = {
        "metrics": {},
        "n_test": 0,
        "findings": [finding],
        "bundle": "run/bundle",
        "report": "run/report.html",
        "n_refused": 1,
        "refused": {"a.dcm": "the file is CT"},
        "left_out": {},
        "leakage": None,
    }
    print_run_summary(Console(), summary, json=False)
    said = capsys.readouterr().err.splitlines()
    assert said.pop(0) == "Warning: 1 image refused and not counted: the file is CT."
    warned = "Warning: 1 finding of the diagnostics, explained in the report: gap (epoch 1)."
    assert said[:3] == [warned, "bundle: run/bundle", "report: run/report.html"]
    assert said[3].startswith("Research use only")
    print_run_summary(Console(quiet=True), summary, json=False)
    assert "Warning: A gap. Mind it. (gap, epoch 1)" in capsys.readouterr().err


def test_a_summary_with_unreadable_files_lists_them_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    finding = {"code": "files-left-out", "message": "1 of 9 files", "advice": "Mend it", "epoch": 0}
    summary = {
        "metrics": {},
        "n_test": 0,
        "findings": [finding],
        "left_out": {"a/b.png": "It is empty."},
        "leakage": None,
        "refused": {},
    }
    with pytest.raises(typer.Exit) as ended:
        print_run_summary(Console(), summary, json=True)
    out = capsys.readouterr()
    assert ended.value.exit_code == 1
    assert json.loads(out.out) == summary
    assert out.err.splitlines() == ["Warning: a/b.png is skipped: It is empty."]


def test_refused_images_are_counted_by_reason(capsys: pytest.CaptureFixture[str]) -> None:
    refused = {"a.dcm": "the file is CT", "b.dcm": "the sequence is T1", "c.dcm": "the file is CT"}
    warn_of_refused(Console(), {"refused": refused})
    assert capsys.readouterr().err.splitlines() == [
        "Warning: 2 images refused and not counted: the file is CT.",
        "Warning: 1 image refused and not counted: the sequence is T1.",
    ]
    warn_of_refused(Console(verbose=True), {"refused": refused})
    assert "b.dcm: the sequence is T1" in capsys.readouterr().err
