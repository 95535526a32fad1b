"""Differences of independent figures: against a published example and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from reslink.metrics.paired_proportions import difference_of_records


def proportion(successes, n, method="wilson"):
    interval = binomtest(successes, n).proportion_ci(method=method)
    return {"estimate": successes / n, "ci_low": interval.low, "ci_high": interval.high, "method": "Wilson", "n": n}


def test_it_is_newcombes_interval_for_two_proportions():
    """Newcombe 1998, Statistics in Medicine 17:873, table II, method 10: 56/70 - 48/80 is 0.2 (0.0524 to 0.3339)."""
    found = difference_of_records(proportion(56, 70), proportion(48, 80))
    assert found.estimate == pytest.approx(0.2)
    assert (found.ci_low, found.ci_high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert found.n == 150


def test_the_interval_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        found = difference_of_records(
            proportion(int(random.binomial(120, 0.9)), 120), proportion(int(random.binomial(90, 0.7)), 90)
        )
        inside += found.ci_low <= 0.2 <= found.ci_high
    assert 0.93 <= inside / 1000 <= 0.97


def test_a_figure_without_an_interval_or_a_value_says_why():
    known = proportion(8, 10)
    bare = {"estimate": 0.5, "ci_low": None, "ci_high": None, "method": "no interval: few groups", "n": 4}
    missing = {"estimate": None, "ci_low": None, "ci_high": None, "method": "undefined: no case of 'Tumor'", "n": 0}
    assert difference_of_records(known, bare).estimate == pytest.approx(0.3)
    assert difference_of_records(known, bare).method == "no interval: few groups"
    assert difference_of_records(known, missing).estimate is None
    assert "no case of 'Tumor'" in difference_of_records(missing, known).method
    assert "not known" in difference_of_records(None, known).method
