"""Differences of figures: paired, over groups, and against the rest."""

import numpy as np
import pytest
from scipy.stats import norm

from reslink.metrics.classification import NAMES, point_metrics
from reslink.metrics.comparison import mean_difference
from reslink.metrics.differences import Answers, differences, part_differences
from reslink.metrics.intervals import wilson, without_interval
from reslink.metrics.paired_proportions import independent_difference, paired_difference


def answers(rng, y_true, noise, num_classes=2):
    logits = rng.normal(size=(len(y_true), num_classes)) * noise
    logits[np.arange(len(y_true)), y_true] += 1.5
    y_prob = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Answers(y_prob, y_prob.argmax(axis=1))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_every_metric_is_the_difference_of_the_two(rng, num_classes):
    y_true = rng.integers(0, num_classes, 240)
    a, b = answers(rng, y_true, 1, num_classes), answers(rng, y_true, 2, num_classes)
    found = differences(y_true, a, b, [str(i // 2) for i in range(240)], "abc"[:num_classes], draws=200)
    first, second = (point_metrics(y_true, one.y_prob, one.y_pred) for one in (a, b))
    assert list(found) == list(NAMES)
    for name, gap in found.items():
        assert gap.estimate == pytest.approx(first[name] - second[name])
        assert gap.ci_low <= gap.estimate <= gap.ci_high
    assert found["accuracy"].ci_low > 0


def test_what_is_hard_for_both_falls_out(rng):
    """The same answers but for a few cases: the paired interval is far narrower than either one alone."""
    y_true = rng.integers(0, 2, 300)
    a = answers(rng, y_true, 2)
    changed = a.y_prob.copy()
    changed[:6] = changed[:6, ::-1]
    b = Answers(changed, changed.argmax(axis=1))
    gap = differences(y_true, a, b, [str(i) for i in range(300)], "ab", draws=300)["accuracy"]
    assert gap.ci_high - gap.ci_low < 0.05


def test_a_difference_of_zeros_and_ones_is_no_proportion(rng):
    better = np.zeros(100)
    better[:3] = 1
    found = mean_difference(better, np.zeros(100), [str(i) for i in range(100)])
    assert found.estimate == pytest.approx(0.03)
    assert found.method == "Agresti-Min interval of paired proportions over 100 groups"
    assert found.ci_low < 0.03 < found.ci_high
    assert mean_difference([], [], []).estimate is None
    same = mean_difference(better, better, [str(i) for i in range(100)])
    assert same.ci_low < 0 < same.ci_high, "100 cases that agree do not show that all do"
    assert "bootstrap" in mean_difference(rng.random(100), better, [str(i) for i in range(100)]).method
    assert mean_difference([1] * 20, [0] * 20, ["a", "b"] * 10).method.startswith("no interval: it rests on 2 groups")


def test_a_part_is_held_against_the_rest(rng):
    y_true, inside = rng.integers(0, 2, 400), np.arange(400) < 100
    good, bad = answers(rng, y_true, 0.7), answers(rng, y_true, 4)
    mixed = np.where(inside[:, None], bad.y_prob, good.y_prob)
    said = Answers(mixed, mixed.argmax(axis=1))
    groups = [str(i // 2) for i in range(400)]
    found = part_differences(y_true, said, inside, groups, "ab", ("accuracy", "auroc"), draws=300)
    right = said.y_pred == y_true
    assert found["accuracy"].estimate == pytest.approx(right[inside].mean() - right[~inside].mean())
    assert found["accuracy"].ci_high < 0
    whole = part_differences(y_true, said, np.ones(400, bool), groups, "ab", ("accuracy",))
    assert whole["accuracy"].method == "undefined: there is no other case to compare with"


def test_a_missing_class_and_few_groups_say_so(rng):
    y_true = np.ones(40, int)
    a = answers(rng, y_true, 2)
    found = differences(y_true, a, a, [str(i) for i in range(40)], ["x", "y"], draws=20)
    assert found["auroc"].method == "undefined: all cases are of 'y'"
    found = differences(np.arange(40) % 2, a, a, [str(i % 4) for i in range(40)], ["x", "y"], draws=20)
    assert found["auroc"].method.startswith("no interval: it rests on 2 groups")


def test_agresti_and_min_worked_by_hand(rng):
    """12 cases that only the first gets right, 4 that only the second does, of 100: Wald's interval of (12.5 − 4.5) / 102."""
    gaps = np.repeat([1.0, -1.0, 0.0], [12, 4, 84])
    found = mean_difference(np.clip(gaps, 0, 1), np.clip(-gaps, 0, 1), [str(i) for i in range(100)])
    centre = 8 / 102
    spread = np.sqrt((17 / 102 - centre**2) / 102 * 100 / 99)
    assert (found.estimate, found.ci_low, found.ci_high) == pytest.approx(
        (0.08, centre - 1.98422 * spread, centre + 1.98422 * spread), abs=1e-5
    )


def test_copies_do_not_narrow_a_paired_difference():
    gaps, index = np.repeat([1.0, -1.0, 0.0], [6, 2, 52]), np.arange(60)
    once, copied = paired_difference(gaps, index), paired_difference(np.repeat(gaps, 5), np.repeat(index, 5))
    assert (copied.ci_low, copied.ci_high) == pytest.approx((once.ci_low, once.ci_high))


@pytest.mark.parametrize("most", [1, 4])
def test_paired_differences_hold_the_truth_with_few_disagreements(rng, most):
    truth, held = norm.cdf(0.9) - norm.cdf(0.9 / np.sqrt(1.49)), []
    for _ in range(800):
        index = np.repeat(np.arange(40), rng.integers(1, most + 1, 40))
        noise = [np.sqrt(0.6) * rng.normal(size=40)[index] + np.sqrt(0.4) * rng.normal(size=len(index)) for _ in "ab"]
        score = 0.9 + noise[0]
        found = paired_difference((score > 0).astype(float) - (score + 0.7 * noise[1] > 0), index)
        held.append(found.ci_low <= truth <= found.ci_high)
    assert 0.925 < np.mean(held) < 0.985


def test_newcombes_interval_of_two_parts():
    """Newcombe 1998, Statistics in Medicine 17:873, table II: 56/70 and 48/80, method 10: 0.0524 to 0.3339."""
    found = independent_difference(wilson(56, 70), wilson(48, 80))
    assert (round(found.estimate, 4), round(found.ci_low, 4), round(found.ci_high, 4)) == (0.2, 0.0524, 0.3339)
    assert independent_difference(wilson(0, 0), wilson(1, 2)).estimate is None
    alone = independent_difference(wilson(3, 4), without_interval(0.5, "few", 4))
    assert (alone.estimate, alone.ci_low, alone.method) == (0.25, None, "no interval: few")
