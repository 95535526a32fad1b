"""Decision curves against dcurves."""

import numpy as np
import pandas as pd
import pytest
from dcurves import dca

from reslink.errors import InputError
from reslink.metrics.decision_curve import THRESHOLDS, decision_curve


def alone(n):
    return [str(i) for i in range(n)]


@pytest.fixture
def case(rng):
    truth = rng.random(300) < 0.4
    return truth, np.clip(truth * 0.3 + rng.random(300) * 0.7, 0, 1)


def test_net_benefit_equals_dcurves(case):
    truth, probabilities = case
    table = dca(pd.DataFrame({"y": truth.astype(int), "p": probabilities}), "y", ["p"], thresholds=np.array(THRESHOLDS))
    result = decision_curve(truth, probabilities, alone(300), draws=20)
    expected = table[table["model"] == "p"].sort_values("threshold")["net_benefit"].to_numpy()
    everyone = table[table["model"] == "all"].sort_values("threshold")["net_benefit"].to_numpy()
    np.testing.assert_allclose([row["net_benefit"] for row in result], expected, atol=1e-12)
    np.testing.assert_allclose([row["treat_all"] for row in result], everyone, atol=1e-12)


def test_gain_is_over_the_better_of_all_and_none(case):
    for row in decision_curve(*case, alone(300), draws=100):
        assert row["gain"] == pytest.approx(row["net_benefit"] - max(row["treat_all"], 0))
        if row["ci_low"] is not None:
            assert row["ci_low"] <= row["net_benefit"] <= row["ci_high"]


def test_an_uninformative_model_has_no_significant_gain(rng):
    truth = rng.random(300) < 0.4
    result = decision_curve(truth, rng.random(300), alone(300), draws=300)
    assert all(row["gain_low"] is None or row["gain_low"] <= 0 for row in result)


def test_few_groups_and_invalid_thresholds(case):
    row = decision_curve(*case, [str(i % 4) for i in range(300)], thresholds=[0.5])[0]
    assert row["ci_low"] is None
    assert row["method"].startswith("no interval: only 4 groups")
    with pytest.raises(InputError, match="No decision curve"):
        decision_curve(*case, alone(300), thresholds=[1.0])


def test_a_single_patient_has_no_interval():
    """Without the only group, every weight of the jackknife is 0."""
    [row] = decision_curve([True, False], [0.7, 0.4], ["p0", "p0"], thresholds=[0.5])
    assert (row["net_benefit"], row["ci_low"]) == (0.5, None)
