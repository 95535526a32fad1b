"""Calibration against bins counted by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn import calibration as sk_calibration
from sklearn import metrics as sk_metrics

from reslink.metrics.calibration import bin_index, brier_score_loss, calibration_curve, expected_calibration_error


def test_error_counted_by_hand():
    y_true = [1, 1, 0, 0, 1]
    y_prob = [0.91, 0.95, 0.92, 0.10, 0.12]  # bins of 1/15: {0.91, 0.92}, {0.95}, {0.10, 0.12}
    expected = (abs(1 - 1.83) + abs(1 - 0.95) + abs(1 - 0.22)) / 5
    assert expected_calibration_error(y_true, y_prob) == pytest.approx(expected)


def test_calibrated_is_near_zero_and_overconfident_is_not(rng):
    y_prob = rng.random(20_000)
    y_true = (rng.random(20_000) < y_prob).astype(int)
    assert expected_calibration_error(y_true, y_prob) < 0.02
    assert expected_calibration_error(y_true, np.where(y_prob > 0.5, 0.99, 0.01)) > 0.2


def test_two_columns_mean_the_last_and_more_mean_each_against_the_rest(rng):
    y_prob = rng.dirichlet([1, 1, 1], 300)
    y_true = rng.integers(0, 3, 300)
    each = [expected_calibration_error(y_true == k, y_prob[:, k]) for k in range(3)]
    assert expected_calibration_error(y_true, y_prob) == pytest.approx(np.mean(each))
    pair = y_prob[:, :2] / y_prob[:, :2].sum(axis=1, keepdims=True)
    assert expected_calibration_error(y_true > 0, pair) == expected_calibration_error(y_true > 0, pair[:, 1])


def test_brier_equals_scikit_learn(rng):
    y_prob = rng.dirichlet([1, 1, 1], 300)
    y_true = rng.integers(0, 3, 300)
    assert brier_score_loss(y_true, y_prob) == pytest.approx(sk_metrics.brier_score_loss(y_true, y_prob) / 3)
    assert brier_score_loss(y_true > 0, 1 - y_prob[:, 0]) == pytest.approx(
        sk_metrics.brier_score_loss(y_true > 0, 1 - y_prob[:, 0])
    )


def test_curve_equals_scikit_learn(rng):
    y_prob = rng.random(500)
    y_true = (rng.random(500) < y_prob**2).astype(int)
    curve = calibration_curve(y_true, y_prob, bins=10)
    observed, predicted = sk_calibration.calibration_curve(y_true, y_prob, n_bins=10)
    np.testing.assert_allclose(curve.observed, observed)
    np.testing.assert_allclose(curve.predicted, predicted)
    assert curve.count.sum() == 500


def test_the_ends_belong_to_the_outer_bins():
    np.testing.assert_array_equal(bin_index(np.array([0.0, 1e-9, 0.2, 0.2001, 1.0]), 5), [0, 0, 0, 1, 4])
