"""Prediction sets against MAPIE and the definition, and their coverage."""

import numpy as np
import pytest
from mapie import classification as mapie
from scipy.stats import betabinom

from reslink.errors import InputError
from reslink.metrics.conformal import (
    conformal_quantile,
    conformal_quantiles,
    is_covered,
    min_calibration_cases,
    prediction_sets,
)


def cases(rng, n, classes=3):
    """Probabilities and labels drawn from them, so that the probabilities are true but the argmax often wrong."""
    chances = rng.dirichlet(np.full(classes, 0.6), n)
    return chances, (chances.cumsum(axis=1)[:, :-1] < rng.random((n, 1))).sum(axis=1)


class Known:
    """A scikit-learn classifier whose input is its own probabilities, for MAPIE."""

    def __init__(self, classes):
        self.classes_ = np.arange(classes)

    def fit(self, _x, _y):
        return self

    def predict_proba(self, x):
        return x

    def predict(self, x):
        return x.argmax(axis=1)

    def get_params(self, deep=True):  # noqa: ARG002
        return {"classes": len(self.classes_)}

    def __sklearn_is_fitted__(self):
        return True

    def __sklearn_tags__(self):
        from sklearn.base import BaseEstimator, ClassifierMixin

        return type("Tagged", (ClassifierMixin, BaseEstimator), {})().__sklearn_tags__()


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("n", [50, 199])
def test_sets_are_those_of_mapie(rng, coverage, classes, n):
    fit_on, truth = cases(rng, n, classes)
    new, _ = cases(rng, 300, classes)
    oracle = mapie.SplitConformalClassifier(Known(classes), confidence_level=coverage, conformity_score="lac", prefit=True)
    _, expected = oracle.conformalize(fit_on, truth).predict_set(new)
    result = prediction_sets(new, conformal_quantiles(fit_on, truth, coverage, per_class=False))
    np.testing.assert_array_equal(result, expected[:, :, 0])
    assert 0 < result.mean() < 1


@pytest.mark.filterwarnings("ignore:WARNING. your conformalization dataset has less labels:UserWarning")
def test_sets_per_class_are_those_of_mapie_on_each_class_alone(rng):
    fit_on, truth = cases(rng, 400)
    new, _ = cases(rng, 200)
    result = prediction_sets(new, conformal_quantiles(fit_on, truth, 0.9, per_class=True))
    for k in range(3):
        alone = mapie.SplitConformalClassifier(Known(3), confidence_level=0.9, conformity_score="lac", prefit=True)
        _, expected = alone.conformalize(fit_on[truth == k], truth[truth == k]).predict_set(new)
        np.testing.assert_array_equal(result[:, k], expected[:, k, 0])


def test_the_quantile_is_the_stated_order_statistic():
    scores = np.arange(1, 100) / 100  # 99 scores
    assert conformal_quantile(scores, 0.95) == 0.95
    assert conformal_quantile(scores, 0.951) == 0.96
    assert conformal_quantile(scores[:19], 0.95) == 0.19
    assert conformal_quantile(scores[:18], 0.95) == np.inf
    assert conformal_quantile([], 0.5) == np.inf


@pytest.mark.parametrize(("coverage", "needed"), [(0.95, 19), (0.9, 9), (0.5, 1), (0.99, 99)])
def test_the_fewest_cases_are_just_enough(coverage, needed):
    assert min_calibration_cases(coverage) == needed
    assert np.isfinite(conformal_quantile(np.zeros(needed), coverage))
    assert np.isinf(conformal_quantile(np.zeros(needed - 1), coverage))


def test_the_coverage_is_that_of_the_theory(rng):
    """Over draws of 100 calibration and 100 test cases the number covered is beta-binomial (Angelopoulos and Bates, 3.2)."""
    n, coverage = 100, 0.95
    hits = []
    for _ in range(2000):
        chances, truth = cases(rng, 2 * n)
        sets = prediction_sets(chances[n:], conformal_quantiles(chances[:n], truth[:n], coverage, per_class=False))
        hits.append(is_covered(sets, truth[n:]).sum())
    rank = int(np.ceil((n + 1) * coverage))
    theory = betabinom(n, rank, n + 1 - rank)
    assert np.mean(hits) == pytest.approx(theory.mean(), abs=4 * theory.std() / np.sqrt(2000))
    assert np.std(hits) == pytest.approx(theory.std(), rel=0.1)


def test_each_class_is_covered_where_one_is_hard(rng):
    truth = rng.integers(0, 2, 20000)
    correct = np.where(truth == 1, rng.beta(2, 2, 20000), rng.beta(9, 1, 20000))
    chances = np.where(truth[:, None] == np.arange(2), correct[:, None], 1 - correct[:, None])
    for per_class, low in ((True, 0.94), (False, 0.0)):
        limits = conformal_quantiles(chances[:10000], truth[:10000], 0.95, per_class=per_class)
        covered = is_covered(prediction_sets(chances[10000:], limits), truth[10000:])
        rates = [covered[truth[10000:] == k].mean() for k in (0, 1)]
        assert np.mean(rates) == pytest.approx(0.95, abs=0.01)
        assert min(rates) > low
        assert per_class or min(rates) < 0.93


def test_a_set_may_be_empty_or_full():
    sets = prediction_sets([[0.5, 0.5], [0.1, 0.9]], [0.2, 0.2])
    np.testing.assert_array_equal(sets, [[False, False], [False, True]])
    assert prediction_sets([[0.5, 0.5]], [np.inf, np.inf]).all()


@pytest.mark.parametrize("coverage", [0, 1, -0.1, 1.5])
def test_an_invalid_coverage_raises(coverage):
    with pytest.raises(InputError, match=r"coverage must be between 0 and 1"):
        conformal_quantile([0.1], coverage)


def test_scores_that_are_not_finite():
    with pytest.raises(InputError, match="not finite"):
        conformal_quantile([0.1, np.nan], 0.5)
