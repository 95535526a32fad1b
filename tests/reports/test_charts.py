"""Charts of a run: correct numbers, safe inside a page."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from reslink.reports.charts import calibration, learning_curves, precision_recall, roc

NAMES = ("Healthy", "Tumor")


@pytest.fixture
def cases(rng):
    y_true = np.array([0, 1] * 30)
    positive = np.clip(0.3 * y_true + rng.random(60) * 0.7, 0, 1)
    return y_true, np.stack([1 - positive, positive], axis=1)


def test_alternative_texts_state_the_numbers(cases):
    from sklearn.metrics import average_precision_score, roc_auc_score

    y_true, y_prob = cases
    assert f"AUROC {roc_auc_score(y_true, y_prob[:, 1]):.3f} for Tumor" in roc(y_true, y_prob, NAMES, 0.5).alt
    assert ">threshold 0.342<" in roc(y_true, y_prob, NAMES, 0.342402).svg
    alt = precision_recall(y_true, y_prob, NAMES).alt
    assert f"AUPRC {average_precision_score(y_true, y_prob[:, 1]):.3f} for Tumor at a prevalence of 50%" in alt


def test_calibration_counts_every_case(cases):
    import re

    y_true, y_prob = cases
    assert sum(int(n) for n in re.findall(r"(\d+) cases", calibration(y_true, y_prob, NAMES).alt)) == 60


def test_one_class_alone_gives_no_curve(cases):
    _, y_prob = cases
    ones = np.ones(60, dtype=np.int64)
    assert roc(ones, y_prob, NAMES) is None
    assert precision_recall(ones, y_prob, NAMES) is None
    assert calibration(ones, y_prob, NAMES) is not None
    assert calibration(ones[:0], y_prob[:0], NAMES) is None


def test_non_finite_values_are_skipped():
    rows = [
        {"epoch": 1, "loss": 0.5},
        {"epoch": 2, "loss": float("nan")},
        {"epoch": 3, "loss": None},
        {"epoch": 4, "loss": 0.25},
    ]
    chart = learning_curves(rows, {"loss": "training"}, "loss", "Loss", "loss")
    assert chart.alt == "Loss: training from 0.500 to 0.250 in 2 epochs."
    assert learning_curves(rows, {"other": "x"}, "loss", "Loss", "loss") is None
    assert learning_curves([], {}, "loss", "Loss", "loss") is None


@pytest.mark.parametrize("name", ["<b>", "_hidden", "$x_{1}$", "a & b", 'q"uote', "ü" * 80])
def test_class_names_are_printed_literally(cases, name):
    chart = roc(*cases, ("other", name))
    root = ElementTree.fromstring(chart.inline())
    text = " ".join("".join(element.itertext()) for element in root.iter() if element.tag == "text")
    assert name[:40] in text
