"""Comparison of evaluations."""

import json

import numpy as np
import pytest

from reslink.errors import InputError, UsageError
from reslink.evaluation.compare import ModelEvaluation, compare
from reslink.reports.compare import comparison_report

NAMES = ("Healthy", "Tumor")


def model(rng, name, noise, *, names=NAMES, n=120, seed=5, label=None, leakage="none found"):
    y_true = np.random.default_rng(seed).integers(0, len(names), n)
    logits = rng.normal(size=(n, len(names))) * noise
    logits[np.arange(n), y_true] += 1.5
    y_prob = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = {}
    for i in range(n):
        rows[f"{i}.png"] = {
            "label": label or names[y_true[i]],
            "prediction": names[int(y_prob[i].argmax())],
            "group": str(i // 2),
            **{f"p_{k}": repr(float(p)) for k, p in zip(names, y_prob[i], strict=True)},
        }
    evaluation = {"labels": list(names), "leakage": {"status": leakage, "message": "so"}, "bundle_sha256": name}
    return ModelEvaluation(name, evaluation, rows)


def test_a_clear_difference_is_found_and_corrected_for_all_tests(rng):
    found = compare([model(rng, "good", 0.8), model(rng, "bad", 3.0), model(rng, "worse", 4.0)])
    assert [(pair["a"], pair["b"]) for pair in found["comparisons"]] == [("good", "bad"), ("good", "worse"), ("bad", "worse")]
    tests = [test for pair in found["comparisons"] for test in pair["tests"]]
    assert [test["metric"] for test in tests[:4]] == ["auroc", "accuracy", "sensitivity", "specificity"]
    smallest = min(tests, key=lambda test: test["p_value"])
    assert smallest["p_holm"] == pytest.approx(smallest["p_value"] * len(tests))
    first = found["comparisons"][0]
    metrics = [found["models"][name]["metrics"]["auroc"]["estimate"] for name in ("good", "bad")]
    assert first["differences"]["auroc"]["estimate"] == pytest.approx(metrics[0] - metrics[1])
    assert first["tests"][0]["difference"] == pytest.approx(metrics[0] - metrics[1])
    assert first["differences"]["auroc"]["ci_low"] > 0
    json.dumps(found, allow_nan=False)


def test_the_same_model_twice_differs_in_nothing(rng):
    one = model(rng, "a", 2.0)
    found = compare([one, ModelEvaluation("b", one.evaluation, one.rows)])
    assert {test["p_value"] for test in found["comparisons"][0]["tests"]} == {1.0}
    assert found["comparisons"][0]["differences"]["accuracy"]["estimate"] == 0


def test_only_common_cases_count_and_the_others_are_named(rng):
    a, b = model(rng, "a", 1.0), model(rng, "b", 1.0)
    del a.rows["3.png"], b.rows["7.png"]
    found = compare([a, b])
    assert found["n"] == 118
    assert found["excluded"] == {"7.png": {"b": "not evaluated"}, "3.png": {"a": "not evaluated"}}


def test_classes_in_another_order_are_put_right(rng):
    names = ("x", "y", "z")
    a = model(rng, "a", 1.0, names=names)
    b = ModelEvaluation("b", {**a.evaluation, "labels": ["z", "x", "y"]}, a.rows)
    found = compare([a, b])
    assert found["comparisons"][0]["differences"]["auroc"]["estimate"] == 0
    assert [test["metric"] for test in found["comparisons"][0]["tests"]] == ["auroc", "accuracy"]


def test_what_cannot_be_compared_is_refused(rng):
    a = model(rng, "a", 1.0)
    with pytest.raises(UsageError, match=r"a has Healthy, Tumor, b has x, y.*Compare bundles of one task"):
        compare([a, model(rng, "b", 1.0, names=("x", "y"))])
    with pytest.raises(InputError, match="No case was evaluated by all models"):
        compare([a, ModelEvaluation("b", a.evaluation, {})])
    with pytest.raises(InputError, match="disagree about the true class of"):
        compare([a, model(rng, "b", 1.0, label="Tumor")])


def test_allowed_leakage_marks_every_metric(rng):
    found = compare([model(rng, "a", 1.0), model(rng, "b", 1.0, leakage="allowed")])
    assert all(gap["leakage"] for gap in found["comparisons"][0]["differences"].values())
    assert found["models"]["a"]["metrics"]["auroc"]["leakage"]


def test_a_broken_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot be compared.*Evaluate again"):
        ModelEvaluation.read("a", tmp_path)
    with pytest.raises(InputError, match=r"comparison.json cannot be used.*Compare again"):
        comparison_report(tmp_path)
