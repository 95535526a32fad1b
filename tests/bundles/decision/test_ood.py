"""The out-of-distribution detector: distances compared with SciPy, and rows inside and outside its limits."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from reslink.bundles.decision.arrays import DecisionArrays
from reslink.bundles.decision.decision import Decision
from reslink.bundles.decision.ood import REASONS, Gaussian, OODDetector
from reslink.errors import BundleError, InputError, UsageError


@pytest.fixture
def rows(rng):
    return rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6)) + 5


@pytest.fixture
def decision(rows, rng):
    """A decision whose detector was fitted on normal rows, with limits of 2."""
    seen = rng.normal(size=(400, 33))
    arrays = Gaussian.fit(rows).arrays("features") | Gaussian.fit(seen).arrays("statistics")
    detector = OODDetector(limits={"statistics": 2.0, "features": 2.0}, retained=0.975, n_images=400, n_groups=400)
    return Decision(ood=detector, arrays=DecisionArrays(arrays))


def test_distances_are_those_of_scipy(rows):
    found = Gaussian.fit(rows)
    covariance = np.diag(found.scale) @ np.linalg.inv(found.precision) @ np.diag(found.scale)
    inverse = np.linalg.inv(covariance)
    expected = [mahalanobis(row, rows.mean(axis=0), inverse) / np.sqrt(6) for row in rows[:20]]
    np.testing.assert_allclose(found.distance(rows[:20]), expected)
    np.testing.assert_allclose(covariance, np.cov(rows.T, bias=True), rtol=0.1, atol=0.1 * np.abs(covariance).max())


def test_rows_like_those_fitted_have_a_distance_of_about_one(rows):
    assert np.sqrt(np.mean(Gaussian.fit(rows).distance(rows) ** 2)) == pytest.approx(1, abs=0.1)


def test_units_do_not_matter(rows):
    scaled = rows * np.array([1, 1e6, 1e-6, 1, 1, 1])
    np.testing.assert_allclose(Gaussian.fit(scaled).distance(scaled), Gaussian.fit(rows).distance(rows), rtol=1e-6)


def test_a_constant_column_gives_no_infinity(rows):
    flat = np.hstack([rows, np.ones((400, 1))])
    found = Gaussian.fit(flat).distance(flat)
    assert np.isfinite(found).all()
    assert Gaussian.fit(flat).distance(flat[:1] + np.eye(7)[6])[0] > 1000, "a change in a constant column is a large distance"


def test_more_columns_than_rows(rng):
    found = Gaussian.fit(rng.normal(size=(20, 50))).distance(rng.normal(size=(5, 50)))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("shape", [(3, 5), (6,)])
def test_rows_of_another_width_are_refused(rows, shape):
    with pytest.raises(InputError, match=r"of shape \(n, 6\)"):
        Gaussian.fit(rows).distance(np.zeros(shape))
    with pytest.raises(InputError, match="cannot be compared"):
        Gaussian.fit(rows).distance(np.full((1, 6), np.nan))


def test_rows_outside_the_limits_abstain_with_a_reason(decision, rows, rng):
    logits, near = np.zeros((3, 2)), rng.normal(size=(3, 33)) * 0.5
    features = np.stack([rows[0], rows[1], rows[2] + 100])
    near[1] += 50
    found = decision.decide(logits, features, near)
    np.testing.assert_array_equal(found.abstain, [False, True, True])
    assert found.reasons == [[], [REASONS["statistics"]], [REASONS["features"]]]
    np.testing.assert_array_equal(found.ood_score > 1, [False, True, True])
    np.testing.assert_array_equal(found.predicted, [1, 1, 1], "an abstained case has a label as well")


def test_a_detector_needs_more_than_logits(decision):
    with pytest.raises(UsageError, match="Only logits were given"):
        decision.decide(np.zeros((1, 2)))


def test_a_detector_without_arrays_is_refused(decision):
    with pytest.raises(BundleError, match="no arrays"):
        decision.model_copy(update={"arrays": None}).decide(np.zeros((1, 2)), np.zeros((1, 6)), np.zeros((1, 33)))
    with pytest.raises(BundleError, match="statistics_mean"):
        decision.model_copy(update={"arrays": DecisionArrays({})}).ood.relative_distances(
            {}, np.zeros((1, 6)), np.zeros((1, 33))
        )


@pytest.mark.parametrize("limits", [{}, {"names": 1.0}, {"statistics": 1.0, "features": 0.0}])
def test_invalid_limits_are_refused(decision, limits):
    detector = decision.ood.model_copy(update={"limits": limits})
    with pytest.raises(BundleError, match="limits"):
        detector.relative_distances(decision.arrays.by_name, np.zeros((1, 6)), np.zeros((1, 33)))


def test_a_detector_of_statistics_alone_needs_no_features(decision):
    detector = decision.ood.model_copy(update={"limits": {"statistics": 2.0}})
    arrays = {name: array for name, array in decision.arrays.by_name.items() if name.startswith("statistics")}
    statistics = np.ones((3, 33))
    [(name, distance)] = detector.relative_distances(arrays, np.zeros((3, 6)), statistics).items()
    assert name == "statistics"
    np.testing.assert_allclose(distance, Gaussian.from_arrays("statistics", arrays).distance(statistics) / 2)


def test_arrays_of_different_widths_are_refused(decision):
    arrays = dict(decision.arrays.by_name) | {"features_scale": np.ones(5)}
    with pytest.raises(BundleError, match="features do not fit"):
        decision.ood.relative_distances(arrays, np.zeros((1, 6)), np.zeros((1, 33)))
