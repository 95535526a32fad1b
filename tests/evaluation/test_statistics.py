"""Statistics of an evaluation by class, and subgroups."""

import json
from pathlib import Path

import numpy as np
import pytest

from reslink.bundles.decision.decision import Decision
from reslink.datasets.manifest import Case, Manifest
from reslink.errors import UsageError
from reslink.evaluation.evaluate import evaluate_cases
from reslink.evaluation.subgroups import Judged, check_columns, divide, subgroups
from reslink.labels import Labels
from reslink.metrics.classification import point_metrics
from reslink.metrics.differences import Answers

LABELS = Labels(("Healthy", "Tumor"))


def cohort(rng, n=120, names=LABELS.names):
    y_true = rng.integers(0, len(names), n)
    logits = rng.normal(size=(n, len(names)))
    logits[np.arange(n), y_true] += 1.5
    return y_true, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def cases(values, column="scanner"):
    return [Case(Path(f"/{i}.png"), "Tumor", name=f"{i}.png", extra={column: value}) for i, value in enumerate(values)]


def test_two_classes_are_told_for_the_positive_one(rng):
    y_true, y_prob = cohort(rng)
    found = evaluate_cases(y_true, y_prob, [str(i // 2) for i in range(120)], LABELS, Decision())
    for part in ("calibration", "decision_curve", "likelihood_ratios"):
        assert list(found[part]) == ["Tumor"]
    assert found["decision_curve"]["Tumor"]["prevalence"] == pytest.approx(y_true.mean())
    ratio = found["likelihood_ratios"]["Tumor"]["lr_plus"]["estimate"]
    metrics = found["metrics"]
    assert ratio == pytest.approx(metrics["sensitivity"]["estimate"] / (1 - metrics["specificity"]["estimate"]))
    json.dumps(found, allow_nan=False)


def test_more_classes_are_told_each_against_the_rest(rng):
    labels = Labels(("a", "b", "c"))
    y_true, y_prob = cohort(rng, names=labels.names)
    found = evaluate_cases(y_true, y_prob, [str(i) for i in range(120)], labels, Decision(threshold=None))
    assert list(found["calibration"]) == ["a", "b", "c"]
    json.dumps(found, allow_nan=False)


def test_one_class_alone_gives_reasons_and_no_nan(rng):
    y_prob = cohort(rng)[1]
    found = evaluate_cases(np.ones(120, int), y_prob, [str(i) for i in range(120)], LABELS, Decision())
    assert found["calibration"]["Tumor"]["slope"]["method"] == "undefined: all cases are of one side"
    json.dumps(found, allow_nan=False)


def test_subgroups_are_those_of_the_column(rng):
    y_true, y_prob = cohort(rng)
    answers, values = Answers(y_prob, y_prob.argmax(axis=1)), ["A", "B", ""] * 40
    judged = Judged(y_true, answers, [str(i) for i in range(120)], LABELS)
    found = subgroups(cases(values), ["scanner"], judged)["scanner"]
    assert list(found) == ["A", "B", "not stated"]
    held = np.array(values) == "B"
    expected = point_metrics(y_true[held], y_prob[held], answers.y_pred[held])
    rest = point_metrics(y_true[~held], y_prob[~held], answers.y_pred[~held])
    assert found["B"]["n"] == found["B"]["n_groups"] == 40
    for name in ("accuracy", "auroc"):
        assert found["B"]["metrics"][name]["estimate"] == pytest.approx(expected[name])
        assert found["B"]["versus_rest"][name]["estimate"] == pytest.approx(expected[name] - rest[name])
    json.dumps(found, allow_nan=False)


def test_a_subgroup_that_the_network_fails_on_is_seen(rng):
    y_true, y_prob = cohort(rng, n=300)
    broken = np.arange(300) % 3 == 0
    y_prob[broken] = 0.5 + rng.uniform(-0.4, 0.4, (100, 1)) * [1, -1]
    judged = Judged(y_true, Answers(y_prob, y_prob.argmax(axis=1)), [str(i) for i in range(300)], LABELS)
    found = subgroups(cases(np.where(broken, "old", "new").tolist()), ["scanner"], judged)["scanner"]
    assert found["old"]["versus_rest"]["auroc"]["ci_high"] < 0 < found["new"]["versus_rest"]["auroc"]["ci_low"]


def test_one_value_has_nothing_to_be_compared_with(rng):
    y_true, y_prob = cohort(rng)
    judged = Judged(y_true, Answers(y_prob, y_prob.argmax(axis=1)), [str(i) for i in range(120)], LABELS)
    found = subgroups(cases(["A"] * 120), ["scanner"], judged)["scanner"]["A"]
    assert found["versus_rest"]["accuracy"]["method"] == "undefined: there is no other case to compare with"


def test_many_numbers_are_cut_at_their_quartiles():
    ages = [f"{age:03d}Y" for age in range(40)] + [""]
    found = divide(cases(ages, "age"), "age")
    assert list(dict.fromkeys(found)) == [
        "0 to under 9.75",
        "9.75 to under 19.5",
        "19.5 to under 29.25",
        "29.25 to 39",
        "not stated",
    ]
    assert [found.count(name) for name in dict.fromkeys(found)] == [10, 10, 10, 10, 1]


def test_a_column_that_is_none_is_refused_before_any_work():
    manifest = Manifest(tuple(cases(["A", "B"])), LABELS, Path("/"))
    with pytest.raises(UsageError, match=r"no column 'scaner'.*Did you mean 'scanner'"):
        check_columns(manifest, ["scaner"])
    with pytest.raises(UsageError, match=r"patient_id, path and label are none"):
        check_columns(manifest, ["patient_id"])
    names = Manifest(tuple(cases([f"name {i}" for i in range(30)])), LABELS, Path("/"))
    with pytest.raises(UsageError, match=r"has 30 different values that are not all numbers.*at most 20"):
        check_columns(names, ["scanner"])
