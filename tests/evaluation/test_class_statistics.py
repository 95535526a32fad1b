"""Statistics by class: calibration, decision curve, likelihood ratios."""

import json

import numpy as np
import pytest

from reslink.bundles.decision.decision import Decision
from reslink.evaluation.evaluate import evaluate_cases
from reslink.labels import Labels

LABELS = Labels(("Healthy", "Tumor"))


def cohort(rng, n=120, names=LABELS.names):
    y_true = rng.integers(0, len(names), n)
    logits = rng.normal(size=(n, len(names)))
    logits[np.arange(n), y_true] += 1.5
    return y_true, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_two_classes_give_statistics_of_the_positive_class(rng):
    y_true, y_prob = cohort(rng)
    found = evaluate_cases(y_true, y_prob, [str(i // 2) for i in range(120)], LABELS, Decision())
    for statistic in ("calibration", "decision_curve", "likelihood_ratios"):
        assert list(found[statistic]) == ["Tumor"]
    assert found["decision_curve"]["Tumor"]["prevalence"] == pytest.approx(y_true.mean())
    ratio = found["likelihood_ratios"]["Tumor"]["lr_plus"]["estimate"]
    metrics = found["metrics"]
    assert ratio == pytest.approx(metrics["sensitivity"]["estimate"] / (1 - metrics["specificity"]["estimate"]))
    json.dumps(found, allow_nan=False)


def test_more_classes_give_statistics_of_each_class(rng):
    labels = Labels(("a", "b", "c"))
    y_true, y_prob = cohort(rng, names=labels.names)
    found = evaluate_cases(y_true, y_prob, [str(i) for i in range(120)], labels, Decision(threshold=None))
    assert list(found["calibration"]) == ["a", "b", "c"]
    json.dumps(found, allow_nan=False)


def test_one_class_alone_gives_reasons_and_no_nan(rng):
    y_prob = cohort(rng)[1]
    found = evaluate_cases(np.ones(120, int), y_prob, [str(i) for i in range(120)], LABELS, Decision())
    assert found["calibration"]["Tumor"]["slope"]["method"] == "undefined: there are cases of one class only"
    json.dumps(found, allow_nan=False)
