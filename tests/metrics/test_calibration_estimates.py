"""Calibration against statsmodels and hand-computed tables, and the effect of debiasing."""

import json

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.metrics import brier_score_loss
from statsmodels.stats.proportion import proportion_confint

from reslink.errors import InputError
from reslink.metrics.calibration import expected_calibration_error
from reslink.metrics.calibration_estimates import (
    CALIBRATION_NAMES,
    calibration_estimates,
    calibration_intercepts,
    calibration_slopes,
    equal_mass_bins,
)
from reslink.metrics.intervals import wilson_interval


def cohort(rng, n=400, slope=1.0, shift=0.0):
    x = rng.normal(size=n) * 1.5
    truth = rng.random(n) < 1 / (1 + np.exp(-(shift + slope * x)))
    return truth, 1 / (1 + np.exp(-x))


def alone(n):
    return [str(i) for i in range(n)]


def test_slope_and_intercept_equal_statsmodels(rng):
    truth, probabilities = cohort(rng, slope=0.6, shift=-0.5)
    weights = rng.multinomial(400, np.full(400, 1 / 400), size=8).astype(float)
    x = np.log(probabilities / (1 - probabilities))
    fitted_slopes, fitted_intercepts = (
        calibration_slopes(weights, truth, probabilities),
        calibration_intercepts(weights, truth, probabilities),
    )
    for row, slope, intercept in zip(weights, fitted_slopes, fitted_intercepts, strict=True):
        family = sm.families.Binomial()
        line = sm.GLM(truth.astype(float), sm.add_constant(x), family=family, freq_weights=row).fit()
        level = sm.GLM(truth.astype(float), np.ones(400), family=family, freq_weights=row, offset=x).fit()
        assert slope == pytest.approx(line.params[1], rel=1e-6)
        assert intercept == pytest.approx(level.params[0], rel=1e-6)


def test_a_sample_without_an_answer_is_nan():
    truth, probabilities = np.array([1, 0, 1, 0], bool), np.array([0.9, 0.8, 0.2, 0.1])
    weights = np.array([[1.0, 1, 1, 1], [1, 0, 1, 0], [3, 0, 0, 3]])
    np.testing.assert_array_equal(np.isnan(calibration_slopes(weights, truth, probabilities)), [False, True, True])
    np.testing.assert_array_equal(np.isnan(calibration_intercepts(weights, truth, probabilities)), [False, True, False])


def test_the_parts_of_the_brier_score_sum_to_it(rng):
    truth, probabilities = cohort(rng)
    result = {
        name: value["estimate"]
        for name, value in calibration_estimates(truth, probabilities, alone(400), draws=20).items()
        if name in CALIBRATION_NAMES
    }
    total = result["reliability"] - result["resolution"] + result["uncertainty"] + result["within_bin"]
    assert total == pytest.approx(brier_score_loss(truth, probabilities))
    assert result["uncertainty"] == pytest.approx(truth.mean() * (1 - truth.mean()))


def test_murphys_parts_worked_by_hand():
    truth = np.r_[np.repeat([1, 0], [2, 18]), np.repeat([1, 0], [12, 8])]
    probabilities = np.repeat([0.2, 0.7], 20)
    result = calibration_estimates(truth, probabilities, alone(40), draws=20)
    assert result["bins"] == 2
    assert result["reliability"]["estimate"] == pytest.approx((0.1**2 + 0.1**2) / 2)
    assert result["resolution"]["estimate"] == pytest.approx((0.25**2 + 0.25**2) / 2)
    assert result["uncertainty"]["estimate"] == pytest.approx(0.35 * 0.65)
    assert result["within_bin"]["estimate"] == pytest.approx(0, abs=1e-12)


def test_debiasing_takes_chance_error_away(rng):
    """Calibrated probabilities: the plain error of 300 cases is far from 0, the debiased one nearer."""
    plain, debiased = [], []
    for _ in range(25):
        truth, probabilities = cohort(rng, n=300)
        plain.append(expected_calibration_error(truth, probabilities))
        debiased.append(calibration_estimates(truth, probabilities, alone(300), draws=2)["ece_debiased"]["estimate"])
    assert np.mean(plain) > 0.04
    assert np.mean(debiased) < 0.65 * np.mean(plain)


def test_debiasing_leaves_a_true_error_standing(rng):
    truth, probabilities = cohort(rng, n=3000, slope=0.4)
    sure = expected_calibration_error(truth, probabilities)
    assert calibration_estimates(truth, probabilities, alone(3000), draws=2)["ece_debiased"]["estimate"] == pytest.approx(
        sure, abs=0.015
    )


def test_copies_in_a_group_are_no_new_evidence(rng):
    """Each case four times: as one group the chance error is taken away as before, as cases it would be taken for real."""
    truth, probabilities = cohort(rng, n=200)
    four = np.repeat(np.arange(200), 4)
    grouped = calibration_estimates(truth[four], probabilities[four], [str(i) for i in four], draws=2)["ece_debiased"][
        "estimate"
    ]
    split = calibration_estimates(truth[four], probabilities[four], alone(800), draws=2)["ece_debiased"]["estimate"]
    assert grouped < 0.8 * split


def test_too_sure_a_model_has_a_slope_below_one(rng):
    truth, probabilities = cohort(rng, slope=0.5)
    result = calibration_estimates(truth, probabilities, alone(400))
    assert result["slope"]["ci_high"] < 1
    assert result["slope"]["ci_low"] < 0.5 < result["slope"]["ci_high"]
    assert result["slope"]["method"] == "BCa bootstrap over 400 groups, 1000 draws"
    json.dumps(result, allow_nan=False)


def test_the_diagram_has_wilsons_intervals_where_cases_are_independent(rng):
    truth, probabilities = cohort(rng)
    rows = calibration_estimates(truth, probabilities, alone(400), draws=20)["curve"]
    assert sum(row["n"] for row in rows) == 400
    for row in rows:
        low, high = proportion_confint(round(row["observed"] * row["n"]), row["n"], method="wilson")
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((low, high))
    assert wilson_interval(7, 20).method == "Wilson score over cases"
    assert wilson_interval(0, 0).estimate is None


def test_what_has_no_slope_says_why(rng):
    truth = np.arange(60) % 2 == 0
    apart = calibration_estimates(truth, np.where(truth, 0.9, 0.2), alone(60), draws=20)
    assert apart["slope"]["estimate"] is None
    assert "separates the classes without an error" in apart["slope"]["method"]
    assert apart["intercept"]["estimate"] is not None
    one = calibration_estimates(np.ones(60), rng.random(60), alone(60), draws=20)
    assert one["slope"]["method"] == "undefined: there are cases of one class only"
    few = calibration_estimates(truth, rng.random(60), [str(i % 8) for i in range(60)], draws=20)
    assert few["ece_debiased"]["method"].startswith("no interval: only 8 groups")
    for result in (apart, one, few):
        json.dumps(result, allow_nan=False)


def test_probabilities_of_zero_and_one_are_borne(rng):
    truth = rng.random(200) < 0.5
    probabilities = np.where(rng.random(200) < 0.9, truth, ~truth).astype(float)
    result = calibration_estimates(truth, probabilities, alone(200), draws=100)
    assert 0 < result["slope"]["estimate"] < 1
    json.dumps(result, allow_nan=False)


def test_equal_scores_share_a_bin():
    np.testing.assert_array_equal(equal_mass_bins(np.array([0.1, 0.1, 0.1, 0.1, 0.9, 0.95]), 3), [0, 0, 0, 0, 1, 1])
    assert equal_mass_bins(np.full(10, 0.5), 5).max() == 0


@pytest.mark.parametrize("probabilities", [[0.1, 1.2], [0.1, np.nan], [0.1]])
def test_bad_probabilities_are_refused(probabilities):
    with pytest.raises(InputError, match="cannot be used"):
        calibration_estimates([0, 1], probabilities, ["a", "b"])


def test_a_single_patient_has_estimates_without_intervals():
    """Without the only group, every weight of the jackknife is 0."""
    estimates = calibration_estimates([True, False], [0.7, 0.4], ["p0", "p0"], draws=10)
    assert estimates["uncertainty"]["estimate"] == 0.25
    assert estimates["uncertainty"]["ci_low"] is None
