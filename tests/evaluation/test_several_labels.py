"""Evaluation, calibration and predictions.csv of several labels at once."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from reslink.bundles.decision.decision import Decision
from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.evaluation.cross_fit import cross_fit_metrics
from reslink.evaluation.evaluate import evaluate_cases
from reslink.evaluation.fitting import CalibrationData, DecisionOptions, fit_decision, fit_temperature
from reslink.evaluation.predictions_csv import CasePredictions, write_predictions
from reslink.evaluation.several_labels import LabeledStates, evaluate_labels
from reslink.labels import Labels, states_text
from reslink.metrics.operating_point import OperatingPoint

LABELS = Labels(("bleed", "swelling"), exclusive=False)
GROUPS = [f"g{i // 2}" for i in range(160)]


@pytest.fixture
def states(rng):
    drawn = (rng.random((160, 2)) < (0.5, 0.3)).astype(np.int64)
    drawn[rng.random((160, 2)) < 0.1] = -1
    return drawn


@pytest.fixture
def logits(rng, states):
    return 3.0 * (states == 1) - 1.5 + rng.normal(0, 2, states.shape)


def test_each_label_is_measured_on_its_known_cases(states, logits):
    decision = Decision.default(2, exclusive=False)
    probabilities = decision.probabilities(logits)
    results = decision.decide(logits)
    cases = LabeledStates(states, probabilities, GROUPS, LABELS, decision, results)
    evaluation = evaluate_labels(cases, evaluate_cases)
    rows = np.flatnonzero(states[:, 1] >= 0)
    of_label = np.column_stack([1 - probabilities[rows, 1], probabilities[rows, 1]])
    expected = evaluate_cases(
        states[rows, 1], of_label, [GROUPS[i] for i in rows], Labels(("not swelling", "swelling")), Decision()
    )
    assert evaluation["per_class"]["swelling"] == expected["metrics"]
    assert evaluation["calibration"]["swelling"] == expected["calibration"]["swelling"]
    entry = evaluation["by_label"]["swelling"]
    assert (entry["n"], entry["n_unknown"]) == (len(rows), 160 - len(rows))
    assert entry["n_present"] == int((states[:, 1] == 1).sum())
    assert entry["confusion_matrix"] == expected["confusion_matrix"]
    assert evaluation["exclusive"] is False
    assert evaluation["confusion_matrix"] is None


def test_a_label_that_is_unknown_everywhere_has_no_metrics(states, logits):
    states[:, 0] = -1
    decision = Decision.default(2, exclusive=False)
    evaluation = evaluate_labels(
        LabeledStates(states, decision.probabilities(logits), GROUPS, LABELS, decision), evaluate_cases
    )
    assert evaluation["by_label"]["bleed"]["n"] == 0
    assert evaluation["per_class"]["bleed"]["auroc"]["estimate"] is None
    assert "without bleed" in evaluation["metrics"]["auroc"]["method"]


@pytest.fixture
def calibration(rng, states, logits):
    return CalibrationData(logits, rng.normal(size=(160, 4)), rng.normal(size=(160, 33)), states, GROUPS)


def test_each_label_gets_its_own_temperature_threshold_and_sets(calibration):
    options = DecisionOptions(operating_point=OperatingPoint.parse("sensitivity=0.9"), coverage=0.9, ood=True)
    decision, notes = fit_decision(calibration, options, LABELS)
    assert notes == []
    assert decision.ood is not None
    for k, own in enumerate(decision.by_label):
        rows = np.flatnonzero(calibration.y_true[:, k] >= 0)
        y_true, column = calibration.y_true[rows, k], calibration.logits[rows, k : k + 1]
        assert own.temperature == pytest.approx(fit_temperature(column, y_true))
        predicted = own.decide(column).predicted
        assert predicted[y_true == 1].mean() >= 0.9
        assert own.conformal.n_images == len(rows)
    assert decision.by_label[0].threshold != decision.by_label[1].threshold
    measured = cross_fit_metrics(calibration, options, Decision.default(2, exclusive=False), decision, LABELS)
    assert measured["by_label"]["bleed"]["sensitivity"]["estimate"] > 0.6
    assert 0.8 < measured["retained"]["estimate"] <= 1


def test_a_label_that_cannot_be_calibrated_is_reported(calibration):
    calibration.y_true[:, 1] = 0
    decision, notes = fit_decision(calibration, DecisionOptions(), LABELS)
    assert decision.by_label[1] == Decision()
    assert any(
        "Label 'swelling': It is not calibrated, threshold 0.5. The calibration data has no case" in note for note in notes
    )
    calibration.y_true[:] = 0
    with pytest.raises(UsageError, match="has no case of 'bleed'"):
        fit_decision(calibration, DecisionOptions(), LABELS)


def test_predictions_csv_has_columns_for_each_label(tmp_path, states, logits):
    decision = Decision.default(2, exclusive=False)
    cases = tuple(
        Case(f"/x/{i}", states_text(LABELS.names, row), name=str(i), states=tuple(row)) for i, row in enumerate(states.tolist())
    )
    results = decision.decide(logits).with_refusals(["MR"] + [None] * 159)
    predictions = CasePredictions(
        np.arange(160), Manifest(cases, LABELS, "/x"), GROUPS, logits, results.probabilities, {}, decision_results=results
    )
    path = write_predictions(tmp_path / "predictions.csv", predictions, LABELS, decision)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert rows[0]["prediction"] == rows[0]["p_bleed"] == rows[0]["predicted_bleed"] == ""
    for i, row in enumerate(rows[1:], start=1):
        assert (row["logit"], row["prob"]) == ("", "")
        for k, name in enumerate(LABELS.names):
            assert row[f"true_{name}"] == ("" if states[i, k] < 0 else str(states[i, k]))
            assert float(row[f"p_{name}"]) == pytest.approx(1 / (1 + np.exp(-logits[i, k])))
            assert row[f"predicted_{name}"] == str(int(logits[i, k] >= 0))
    table = pq.read_table(write_predictions(tmp_path / "predictions.parquet", predictions, LABELS, decision))
    assert [str(table.schema.field(f"{name}_bleed").type) for name in ("true", "logit", "predicted", "abstain")] == [
        *("int64", "double", "int64", "bool")
    ]
    for typed, row in zip(table.to_pylist(), rows, strict=True):
        for name in ("true_bleed", "predicted_swelling", "logit_swelling", "abstain_bleed"):
            assert ("" if typed[name] is None else str(typed[name]).lower()) == row[name]


def test_of_label_needs_the_known_cases_only(calibration):
    one = calibration.of_label(1)
    assert one.logits.shape == ((calibration.y_true[:, 1] >= 0).sum(), 1)
    assert set(one.y_true.tolist()) == {0, 1}
    assert replace(one).n_groups <= calibration.n_groups
