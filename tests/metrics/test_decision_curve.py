"""Net benefit against dcurves, and likelihood ratios against statsmodels."""

import numpy as np
import pandas as pd
import pytest
from dcurves import dca
from statsmodels.stats.contingency_tables import Table2x2

from reslink.errors import InputError
from reslink.metrics.decision_curve import THRESHOLDS, decision_curve
from reslink.metrics.likelihood_ratios import likelihood_ratios


def alone(n):
    return [str(i) for i in range(n)]


@pytest.fixture
def case(rng):
    truth = rng.random(300) < 0.4
    return truth, np.clip(truth * 0.3 + rng.random(300) * 0.7, 0, 1)


def test_net_benefit_equals_dcurves(case):
    truth, chance = case
    table = dca(pd.DataFrame({"y": truth.astype(int), "p": chance}), "y", ["p"], thresholds=np.array(THRESHOLDS))
    found = decision_curve(truth, chance, alone(300), draws=20)
    expected = table[table["model"] == "p"].sort_values("threshold")["net_benefit"].to_numpy()
    everyone = table[table["model"] == "all"].sort_values("threshold")["net_benefit"].to_numpy()
    np.testing.assert_allclose([row["net_benefit"] for row in found], expected, atol=1e-12)
    np.testing.assert_allclose([row["treat_all"] for row in found], everyone, atol=1e-12)


def test_gain_is_over_the_better_of_all_and_none(case):
    for row in decision_curve(*case, alone(300), draws=100):
        assert row["gain"] == pytest.approx(row["net_benefit"] - max(row["treat_all"], 0))
        if row["ci_low"] is not None:
            assert row["ci_low"] <= row["net_benefit"] <= row["ci_high"]


def test_a_model_that_knows_nothing_has_no_sure_gain(rng):
    truth = rng.random(300) < 0.4
    found = decision_curve(truth, rng.random(300), alone(300), draws=300)
    assert all(row["gain_low"] is None or row["gain_low"] <= 0 for row in found)


def test_few_groups_and_bad_thresholds(case):
    row = decision_curve(*case, [str(i % 4) for i in range(300)], thresholds=[0.5])[0]
    assert row["ci_low"] is None
    assert row["method"].startswith("no interval: it rests on 4 groups")
    with pytest.raises(InputError, match="give no decision curve"):
        decision_curve(*case, alone(300), thresholds=[1.0])


def test_ratios_equal_a_table_worked_by_hand(rng):
    # 45 hits, 5 misses, 20 alarms, 80 rightly left alone; Simel 1991: var log LR+ = 1/45 − 1/50 + 1/20 − 1/100
    truth, called = np.repeat([1, 1, 0, 0], [45, 5, 20, 80]), np.repeat([1, 0, 1, 0], [45, 5, 20, 80])
    found = likelihood_ratios(truth, called, alone(150))
    assert found["lr_plus"].estimate == pytest.approx(0.9 / 0.2)
    assert found["lr_minus"].estimate == pytest.approx(0.1 / 0.8)
    table = Table2x2([[45, 20], [5, 80]])
    assert found["dor"].estimate == pytest.approx(table.oddsratio)
    spread = np.log(found["lr_plus"].ci_high / found["lr_plus"].ci_low) / 2 / 2.0096  # t with 49 degrees of freedom
    assert spread == pytest.approx(np.sqrt(1 / 45 - 1 / 50 + 1 / 20 - 1 / 100), rel=1e-3)
    spread = np.log(found["dor"].ci_high / found["dor"].ci_low) / 2 / 2.0096
    assert spread == pytest.approx(table.log_oddsratio_se, rel=1e-3)


def test_copies_in_a_group_do_not_narrow_a_ratio(rng):
    truth, called = rng.random(120) < 0.5, rng.random(120) < 0.4
    four = np.repeat(np.arange(120), 4)
    once = likelihood_ratios(truth, called, alone(120))["dor"]
    copied = likelihood_ratios(truth[four], called[four], [str(i) for i in four])["dor"]
    assert (copied.ci_low, copied.ci_high) == pytest.approx((once.ci_low, once.ci_high))


def test_empty_cells_and_few_groups_say_so():
    truth = np.arange(60) % 2 == 0
    found = likelihood_ratios(truth, truth, alone(60))
    assert found["lr_plus"].method == "undefined: there is no false or no true positive answer"
    assert found["dor"].method == "undefined: a cell of the two-by-two table is empty"
    assert likelihood_ratios(np.ones(5), np.ones(5), alone(5))["lr_minus"].method == "undefined: all cases are of one side"
    few = likelihood_ratios(truth, np.arange(60) % 3 == 0, [str(i % 8) for i in range(60)])
    assert few["dor"].method.startswith("no interval: it rests on 4 groups")
