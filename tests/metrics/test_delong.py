"""DeLong's covariance against its definition, a simulation, and the binary case."""

import math

import numpy as np
import pytest

from reslink.errors import InputError
from reslink.metrics.delong import delong, delong_macro


def alone(n):
    return [str(i) for i in range(n)]


@pytest.fixture(params=["smooth", "tied"])
def case(request, rng):
    truth = rng.random(180) < 0.4
    hard = rng.normal(size=180)
    scores = np.stack([truth * 1.2 + hard + rng.normal(size=180), truth * 0.7 + hard + rng.normal(size=180)])
    return truth, np.round(scores, 1 if request.param == "tied" else 9)


def test_the_covariance_equals_the_sums_of_delong_over_all_pairs(case):
    truth, scores = case
    result = delong(truth, scores)
    wins = [np.sign(s[truth][:, None] - s[~truth][None, :]) / 2 + 0.5 for s in scores]
    m, n = wins[0].shape
    above, below = np.stack([w.mean(axis=1) for w in wins]), np.stack([w.mean(axis=0) for w in wins])
    np.testing.assert_allclose(result.values, [w.mean() for w in wins])
    np.testing.assert_allclose(result.covariance, np.cov(above) / m + np.cov(below) / n)


def test_the_variance_over_groups_is_that_of_repeated_simulations(rng):
    """Patients with several images of both classes: the standard error against the spread over 400 studies."""
    areas, errors = [], []
    for _ in range(400):
        groups = np.repeat(np.arange(50), 6)
        truth = rng.random(300) < 0.5
        scores = truth + rng.normal(size=50)[groups] + rng.normal(size=300)
        result = delong(truth, scores, groups.astype(str))
        areas.append(result.values[0])
        errors.append(result.covariance[0, 0])
    assert np.sqrt(np.mean(errors)) == pytest.approx(np.std(areas), rel=0.12)


def test_delong_macro_of_two_classes_equals_the_binary_test(case):
    truth, scores = case
    both = np.stack([-scores, scores], axis=2)
    areas = delong_macro(truth.astype(int), both, alone(180))
    np.testing.assert_allclose(areas.values, delong(truth, scores).values)
    np.testing.assert_allclose(areas.covariance, delong(truth, scores).covariance, rtol=0.02)


def test_missing_classes_and_non_finite_scores_raise():
    with pytest.raises(InputError, match="has no variance"):
        delong([1, 1, 1], [0.1, 0.2, 0.3])
    with pytest.raises(InputError, match="or are not finite"):
        delong([1, 0], [0.1, math.nan])
