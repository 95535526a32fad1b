"""Metrics of subgroups."""

import json
from pathlib import Path

import numpy as np
import pytest

from reslink.datasets.case import Case
from reslink.evaluation.selective import ANSWER_NAMES
from reslink.evaluation.subgroups import LabeledPredictions, subgroups
from reslink.labels import Labels
from reslink.metrics.classification import point_metrics
from reslink.metrics.differences import Predictions

LABELS = Labels(("Healthy", "Tumor"))


def cohort(rng, n=120, names=LABELS.names):
    y_true = rng.integers(0, len(names), n)
    logits = rng.normal(size=(n, len(names)))
    logits[np.arange(n), y_true] += 1.5
    return y_true, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def cases(values, column="scanner"):
    return [Case(Path(f"/{i}.png"), "Tumor", name=f"{i}.png", extra={column: value}) for i, value in enumerate(values)]


def test_metrics_of_each_value_of_a_column(rng):
    y_true, y_prob = cohort(rng)
    predictions, values = Predictions(y_prob, y_prob.argmax(axis=1)), ["A", "B", ""] * 40
    labeled = LabeledPredictions(y_true, predictions, [str(i) for i in range(120)], LABELS)
    found = subgroups(cases(values), ["scanner"], labeled)["scanner"]
    assert list(found) == ["A", "B", "not stated"]
    inside = np.array(values) == "B"
    expected = point_metrics(y_true[inside], y_prob[inside], predictions.y_pred[inside])
    others = point_metrics(y_true[~inside], y_prob[~inside], predictions.y_pred[~inside])
    assert found["B"]["n"] == found["B"]["n_groups"] == 40
    for name in ("accuracy", "auroc"):
        assert found["B"]["metrics"][name]["estimate"] == pytest.approx(expected[name])
        assert found["B"]["difference_from_others"][name]["estimate"] == pytest.approx(expected[name] - others[name])
    json.dumps(found, allow_nan=False)


def test_a_subgroup_with_more_errors_is_visible(rng):
    y_true, y_prob = cohort(rng, n=300)
    broken = np.arange(300) % 3 == 0
    y_prob[broken] = 0.5 + rng.uniform(-0.4, 0.4, (100, 1)) * [1, -1]
    labeled = LabeledPredictions(y_true, Predictions(y_prob, y_prob.argmax(axis=1)), [str(i) for i in range(300)], LABELS)
    found = subgroups(cases(np.where(broken, "old", "new").tolist()), ["scanner"], labeled)["scanner"]
    assert (
        found["old"]["difference_from_others"]["auroc"]["ci_high"]
        < 0
        < found["new"]["difference_from_others"]["auroc"]["ci_low"]
    )


def test_coverage_and_silent_errors_of_a_subgroup(rng):
    """Site A abstains from every second case; site B answers all, and answers every fourth case wrongly."""
    y_true, y_pred = np.tile([0, 1], 60), np.tile([0, 1], 60)
    is_b, order = np.arange(120) >= 60, np.arange(120)
    y_pred[is_b & (order % 4 == 0)] = 1
    abstain = ~is_b & (order % 2 == 0)
    labeled = LabeledPredictions(y_true, Predictions(np.eye(2)[y_pred], y_pred), [str(i) for i in order], LABELS, 0, abstain)
    found = subgroups(cases(np.where(is_b, "B", "A").tolist()), ["scanner"], labeled)["scanner"]
    values = {name: [own["selective"][key]["estimate"] for key in ANSWER_NAMES] for name, own in found.items()}
    assert values == {"A": [0.5, 1.0, 0.0], "B": [1.0, 0.75, 0.25]}
    assert found["B"]["selective"]["silent_errors"]["ci_low"] < 0.25


def test_a_bundle_that_cannot_abstain_has_no_coverage(rng):
    y_true, y_prob = cohort(rng)
    labeled = LabeledPredictions(y_true, Predictions(y_prob, y_prob.argmax(axis=1)), [str(i) for i in range(120)], LABELS)
    assert subgroups(cases(["A", "B"] * 60), ["scanner"], labeled)["scanner"]["A"]["selective"] == {}


def test_a_single_value_has_no_difference(rng):
    y_true, y_prob = cohort(rng)
    labeled = LabeledPredictions(y_true, Predictions(y_prob, y_prob.argmax(axis=1)), [str(i) for i in range(120)], LABELS)
    found = subgroups(cases(["A"] * 120), ["scanner"], labeled)["scanner"]["A"]
    assert found["difference_from_others"]["accuracy"]["method"] == "undefined: there is no other case to compare with"
