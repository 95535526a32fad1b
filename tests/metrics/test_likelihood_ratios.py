"""Likelihood ratios against statsmodels and a hand-computed table."""

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import Table2x2

from reslink.metrics.likelihood_ratios import likelihood_ratios


def alone(n):
    return [str(i) for i in range(n)]


def test_ratios_of_a_hand_computed_table(rng):
    # 45 true and 20 false positives, 5 false and 80 true negatives; Simel 1991: var log LR+ = 1/45 − 1/50 + 1/20 − 1/100
    truth, predicted = np.repeat([1, 1, 0, 0], [45, 5, 20, 80]), np.repeat([1, 0, 1, 0], [45, 5, 20, 80])
    result = likelihood_ratios(truth, predicted, alone(150))
    assert result["lr_plus"].estimate == pytest.approx(0.9 / 0.2)
    assert result["lr_minus"].estimate == pytest.approx(0.1 / 0.8)
    table = Table2x2([[45, 20], [5, 80]])
    assert result["dor"].estimate == pytest.approx(table.oddsratio)
    spread = np.log(result["lr_plus"].ci_high / result["lr_plus"].ci_low) / 2 / 2.0096  # t with 49 degrees of freedom
    assert spread == pytest.approx(np.sqrt(1 / 45 - 1 / 50 + 1 / 20 - 1 / 100), rel=1e-3)
    spread = np.log(result["dor"].ci_high / result["dor"].ci_low) / 2 / 2.0096
    assert spread == pytest.approx(table.log_oddsratio_se, rel=1e-3)


def test_duplicates_in_a_group_do_not_narrow_a_ratio(rng):
    truth, predicted = rng.random(120) < 0.5, rng.random(120) < 0.4
    four = np.repeat(np.arange(120), 4)
    once = likelihood_ratios(truth, predicted, alone(120))["dor"]
    copied = likelihood_ratios(truth[four], predicted[four], [str(i) for i in four])["dor"]
    assert (copied.ci_low, copied.ci_high) == pytest.approx((once.ci_low, once.ci_high))


def test_empty_cells_and_few_groups_give_the_reason():
    truth = np.arange(60) % 2 == 0
    result = likelihood_ratios(truth, truth, alone(60))
    assert result["lr_plus"].method == "undefined: there are no false positives or no true positives"
    assert result["dor"].method == "undefined: a cell of the two-by-two table is empty"
    assert (
        likelihood_ratios(np.ones(5), np.ones(5), alone(5))["lr_minus"].method == "undefined: there are cases of one class only"
    )
    few = likelihood_ratios(truth, np.arange(60) % 3 == 0, [str(i % 8) for i in range(60)])
    assert few["dor"].method.startswith("no interval: only 4 groups")
