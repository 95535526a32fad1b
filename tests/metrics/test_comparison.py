"""Tests of two classifiers against MLstatkit and statsmodels, and against what they promise."""

import itertools
import math

import numpy as np
import pytest
from MLstatkit import Delong_test
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from reslink.errors import InputError
from reslink.metrics.comparison import delong_test, holm, mcnemar
from reslink.metrics.delong import delong, macro_areas


def alone(n):
    return [str(i) for i in range(n)]


@pytest.fixture(params=["smooth", "tied"])
def case(request, rng):
    truth = rng.random(180) < 0.4
    hard = rng.normal(size=180)
    scores = np.stack([truth * 1.2 + hard + rng.normal(size=180), truth * 0.7 + hard + rng.normal(size=180)])
    return truth, np.round(scores, 1 if request.param == "tied" else 9)


def test_delong_equals_mlstatkit(case):
    truth, (a, b) = case
    p_value = Delong_test(truth.astype(int), a, b)[1]
    found = delong_test(truth, a, b)
    assert found.p_value == pytest.approx(p_value, rel=1e-9)
    assert delong_test(truth, a, b, alone(180)).p_value == pytest.approx(p_value, rel=1e-9)
    assert found.difference == pytest.approx(roc_auc_score(truth, a) - roc_auc_score(truth, b))
    assert found.method == "DeLong"


def test_the_covariance_equals_the_sums_of_delong_over_all_pairs(case):
    truth, scores = case
    found = delong(truth, scores)
    wins = [np.sign(s[truth][:, None] - s[~truth][None, :]) / 2 + 0.5 for s in scores]
    m, n = wins[0].shape
    above, below = np.stack([w.mean(axis=1) for w in wins]), np.stack([w.mean(axis=0) for w in wins])
    np.testing.assert_allclose(found.areas, [w.mean() for w in wins])
    np.testing.assert_allclose(found.covariance, np.cov(above) / m + np.cov(below) / n)


def test_copies_in_one_group_change_neither_p_value(case):
    truth, (a, b) = case
    groups, twice = np.repeat(alone(180), 2), np.repeat(np.arange(180), 2)
    once, copied = delong_test(truth, a, b), delong_test(truth[twice], a[twice], b[twice], groups)
    assert copied.p_value == pytest.approx(once.p_value, rel=1e-9)
    assert delong_test(truth[twice], a[twice], b[twice]).p_value < once.p_value / 2, "copies taken for cases would promise more"
    right = (a > 0.5) == truth, (b > 0.5) == truth
    copied = mcnemar(right[0][twice], right[1][twice], groups)
    assert copied.p_value == pytest.approx(mcnemar(*right).p_value)


def test_the_variance_over_groups_is_that_of_repeated_studies(rng):
    """Patients with several images of both classes: the standard error against the spread over 400 studies."""
    areas, errors = [], []
    for _ in range(400):
        groups = np.repeat(np.arange(50), 6)
        truth = rng.random(300) < 0.5
        scores = truth + rng.normal(size=50)[groups] + rng.normal(size=300)
        found = delong(truth, scores, groups.astype(str))
        areas.append(found.areas[0])
        errors.append(found.covariance[0, 0])
    assert np.sqrt(np.mean(errors)) == pytest.approx(np.std(areas), rel=0.12)


def test_delong_holds_its_level_with_groups(rng):
    p_values = []
    for _ in range(400):
        groups = np.repeat(np.arange(60), 4)
        truth, shared = (np.arange(60) % 2 == 0)[groups], rng.normal(size=60)[groups]
        a, b = (truth + shared + rng.normal(size=60)[groups] + rng.normal(size=240) for _ in range(2))
        p_values.append(delong_test(truth, a, b, groups.astype(str)).p_value)
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.085


def test_two_classes_told_as_macro_are_the_binary_test(case):
    truth, scores = case
    both = np.stack([-scores, scores], axis=2)
    areas = macro_areas(truth.astype(int), both, alone(180))
    np.testing.assert_allclose(areas.areas, delong(truth, scores).areas)
    np.testing.assert_allclose(areas.covariance, delong(truth, scores).covariance, rtol=0.02)


def test_more_classes_compare_the_mean_area(rng):
    y_true = rng.integers(0, 3, 150)
    a, b = (rng.dirichlet([1, 1, 1], 150) + k * np.eye(3)[y_true] for k in (0.6, 0.2))
    a, b = (s / s.sum(axis=1, keepdims=True) for s in (a, b))
    found = delong_test(y_true, a, b, alone(150))
    gap = np.subtract(*(roc_auc_score(y_true, s, multi_class="ovr") for s in (a, b)))
    assert found.difference == pytest.approx(gap)
    assert found.p_value < 0.001
    assert found.method.startswith("DeLong's components, mean AUROC")


def test_mcnemar_equals_statsmodels(rng):
    for _ in range(20):
        a, b = rng.random(60) < 0.8, rng.random(60) < rng.uniform(0.5, 0.9)
        table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
        expected = statsmodels_mcnemar(table, exact=True).pvalue
        assert mcnemar(a, b).p_value == pytest.approx(expected)
        assert mcnemar(a, b, alone(60)).p_value == pytest.approx(expected)


def test_groups_that_change_sides_are_counted_one_by_one(rng):
    groups = np.repeat(np.arange(9), [1, 2, 3, 4, 1, 2, 3, 1, 2])
    a, b = rng.random(19) < 0.9, rng.random(19) < 0.4
    swings = np.bincount(groups, weights=a.astype(int) - b)
    sums = [abs(np.dot(signs, swings)) for signs in itertools.product((1, -1), repeat=9)]
    found = mcnemar(a, b, groups.astype(str))
    assert found.p_value == pytest.approx(np.mean(np.array(sums) >= abs(swings.sum()) - 1e-9))
    assert "9 groups" in found.method


def test_holm_equals_statsmodels(rng):
    p_values = [*rng.random(9).tolist(), 0.001, 0.001]
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1])
    assert holm([0.01, None, 0.04]) == [0.02, None, 0.04]
    assert holm([]) == []


def test_equal_classifiers_and_missing_classes_say_so(rng):
    truth, scores = np.arange(40) % 2 == 0, rng.random(40)
    assert delong_test(truth, scores, scores).p_value == 1.0
    assert mcnemar(truth, truth).p_value == 1.0
    assert delong_test(np.ones(40), scores, scores).method == "no test: it needs cases of every class"
    few = delong_test(truth, scores, rng.random(40), [str(i % 6) for i in range(40)])
    assert few.p_value is None
    assert few.method.startswith("no test: a class or its counterpart rests on 3 groups")
    sure = delong_test(truth, truth.astype(float), 1.0 - truth)
    assert (sure.difference, sure.p_value) == (1.0, None)
    assert sure.method == "no test: the difference has no variance on these cases"


def test_what_does_not_fit_is_refused(rng):
    with pytest.raises(InputError, match="cannot be compared"):
        mcnemar([True], [True, False])
    with pytest.raises(InputError, match="give no variance of an AUROC"):
        delong([1, 1, 1], [0.1, 0.2, 0.3])
    with pytest.raises(InputError, match="or are not finite"):
        delong([1, 0], [0.1, math.nan])
