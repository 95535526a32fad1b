"""Tests of two classifiers against MLstatkit and statsmodels, and their level in simulations."""

import itertools

import numpy as np
import pytest
from MLstatkit import Delong_test
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from reslink.errors import InputError
from reslink.metrics.comparison import delong_test, holm, mcnemar


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
    result = delong_test(truth, a, b)
    assert result.p_value == pytest.approx(p_value, rel=1e-9)
    assert delong_test(truth, a, b, alone(180)).p_value == pytest.approx(p_value, rel=1e-9)
    assert result.difference == pytest.approx(roc_auc_score(truth, a) - roc_auc_score(truth, b))
    assert result.method == "DeLong"


def test_duplicates_in_one_group_do_not_change_p_values(case):
    truth, (a, b) = case
    groups, twice = np.repeat(alone(180), 2), np.repeat(np.arange(180), 2)
    once, copied = delong_test(truth, a, b), delong_test(truth[twice], a[twice], b[twice], groups)
    assert copied.p_value == pytest.approx(once.p_value, rel=1e-9)
    assert delong_test(truth[twice], a[twice], b[twice]).p_value < once.p_value / 2, "copies taken for cases would promise more"
    correct = (a > 0.5) == truth, (b > 0.5) == truth
    copied = mcnemar(correct[0][twice], correct[1][twice], groups)
    assert copied.p_value == pytest.approx(mcnemar(*correct).p_value)


def test_delong_has_its_nominal_level_with_groups(rng):
    p_values = []
    for _ in range(400):
        groups = np.repeat(np.arange(60), 4)
        truth, shared = (np.arange(60) % 2 == 0)[groups], rng.normal(size=60)[groups]
        a, b = (truth + shared + rng.normal(size=60)[groups] + rng.normal(size=240) for _ in range(2))
        p_values.append(delong_test(truth, a, b, groups.astype(str)).p_value)
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.085


def test_more_classes_compare_the_mean_auroc(rng):
    y_true = rng.integers(0, 3, 150)
    a, b = (rng.dirichlet([1, 1, 1], 150) + k * np.eye(3)[y_true] for k in (0.6, 0.2))
    a, b = (s / s.sum(axis=1, keepdims=True) for s in (a, b))
    result = delong_test(y_true, a, b, alone(150))
    difference = np.subtract(*(roc_auc_score(y_true, s, multi_class="ovr") for s in (a, b)))
    assert result.difference == pytest.approx(difference)
    assert result.p_value < 0.001
    assert result.method.startswith("DeLong's components, mean AUROC")


def test_mcnemar_equals_statsmodels(rng):
    for _ in range(20):
        a, b = rng.random(60) < 0.8, rng.random(60) < rng.uniform(0.5, 0.9)
        table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
        expected = statsmodels_mcnemar(table, exact=True).pvalue
        assert mcnemar(a, b).p_value == pytest.approx(expected)
        assert mcnemar(a, b, alone(60)).p_value == pytest.approx(expected)


def test_group_permutations_equal_an_enumeration(rng):
    groups = np.repeat(np.arange(9), [1, 2, 3, 4, 1, 2, 3, 1, 2])
    a, b = rng.random(19) < 0.9, rng.random(19) < 0.4
    group_sums = np.bincount(groups, weights=a.astype(int) - b)
    sums = [abs(np.dot(signs, group_sums)) for signs in itertools.product((1, -1), repeat=9)]
    result = mcnemar(a, b, groups.astype(str))
    assert result.p_value == pytest.approx(np.mean(np.array(sums) >= abs(group_sums.sum()) - 1e-9))
    assert "9 groups" in result.method


def test_holm_equals_statsmodels(rng):
    p_values = [*rng.random(9).tolist(), 0.001, 0.001]
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1])
    assert holm([0.01, None, 0.04]) == [0.02, None, 0.04]
    assert holm([]) == []


def test_equal_classifiers_and_missing_classes_give_the_reason(rng):
    truth, scores = np.arange(40) % 2 == 0, rng.random(40)
    assert delong_test(truth, scores, scores).p_value == 1.0
    assert mcnemar(truth, truth).p_value == 1.0
    assert delong_test(np.ones(40), scores, scores).method == "no test: it needs cases of every class"
    few = delong_test(truth, scores, rng.random(40), [str(i % 6) for i in range(40)])
    assert few.p_value is None
    assert few.method.startswith("no test: a class or its complement has only 3 groups")
    sure = delong_test(truth, truth.astype(float), 1.0 - truth)
    assert (sure.difference, sure.p_value) == (1.0, None)
    assert sure.method == "no test: the difference has no variance on these cases"


def test_inconsistent_arrays_raise(rng):
    with pytest.raises(InputError, match="cannot be compared"):
        mcnemar([True], [True, False])
