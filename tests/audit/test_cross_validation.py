"""Out-of-fold probabilities and the balanced accuracy with its interval."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.tree import DecisionTreeClassifier

from reslink.audit.cross_validation import balanced_accuracy, min_groups_per_class, out_of_fold_probabilities


def names(values: np.ndarray) -> np.ndarray:
    return values.astype(str)


class TestOutOfFold:
    def test_a_group_is_never_predicted_by_a_model_fitted_on_it(self, rng: np.random.Generator) -> None:
        """The feature is the number of the group: only a model fitted on the group can predict its class."""
        groups = np.repeat(np.arange(40), 5)
        targets = rng.integers(0, 2, 40)[groups]
        features = np.eye(40)[groups]
        y_prob = out_of_fold_probabilities(
            features, targets, names(groups), 2, lambda: DecisionTreeClassifier(random_state=0), 0
        )
        assert balanced_accuracy_score(targets, y_prob.argmax(axis=1)) < 0.65
        leaky = out_of_fold_probabilities(
            features, targets, names(np.arange(200)), 2, lambda: DecisionTreeClassifier(random_state=0), 0
        )
        assert balanced_accuracy_score(targets, leaky.argmax(axis=1)) > 0.95

    def test_rows_sum_to_one(self, rng: np.random.Generator) -> None:
        targets = np.tile([0, 1, 2], 20)
        y_prob = out_of_fold_probabilities(
            rng.normal(size=(60, 2)), targets, names(np.arange(60)), 3, DecisionTreeClassifier, 0
        )
        assert y_prob.sum(axis=1) == pytest.approx(1)

    def test_folds_are_those_of_scikit_learn_for_these_groups_and_this_seed(self, rng: np.random.Generator) -> None:
        """Folds are reused by models that are fitted one after the other, but not for other groups, targets or seeds."""
        targets, features = rng.integers(0, 2, 300), rng.normal(size=(300, 3))
        several = [names(rng.integers(0, 60, 300)), names(np.arange(300))]
        for labels, groups, seed in [(y, g, seed) for y in (targets, 1 - targets) for g in several for seed in (0, 1)] * 2:
            expected = np.zeros((300, 2))
            for train, test in StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(features, labels, groups):
                model = DecisionTreeClassifier(max_depth=3, random_state=0).fit(features[train], labels[train])
                expected[test] = model.predict_proba(features[test])
            y_prob = out_of_fold_probabilities(
                features, labels, groups, 2, lambda: DecisionTreeClassifier(max_depth=3, random_state=0), seed
            )
            np.testing.assert_array_equal(y_prob, expected)

    def test_min_groups_per_class_counts_groups_not_cases(self) -> None:
        assert min_groups_per_class(np.array([0, 0, 0, 1, 1]), np.array(["a", "a", "b", "c", "c"]), 2) == 1


class TestBalancedAccuracy:
    def test_equals_scikit_learn(self, rng: np.random.Generator) -> None:
        targets = np.array([0] * 90 + [1] * 30)
        predictions = np.where(rng.random(120) < 0.8, targets, 1 - targets)
        accuracy, p_value = balanced_accuracy(targets, predictions, names(np.arange(120)), 2, 0.55, 0)
        assert accuracy.estimate == pytest.approx(balanced_accuracy_score(targets, predictions))
        assert accuracy.ci_low is not None
        assert accuracy.ci_low < accuracy.estimate < accuracy.ci_high
        assert p_value is not None
        assert p_value < 0.05

    def test_copies_in_a_group_widen_the_interval(self, rng: np.random.Generator) -> None:
        targets = np.repeat(np.tile([0, 1], 20), 5)
        predictions = np.where(np.repeat(rng.random(40) < 0.7, 5), targets, 1 - targets)
        alone, _ = balanced_accuracy(targets, predictions, names(np.arange(200)), 2, 0.5, 0)
        grouped, _ = balanced_accuracy(targets, predictions, names(np.repeat(np.arange(40), 5)), 2, 0.5, 0)
        assert grouped.ci_high - grouped.ci_low > 1.5 * (alone.ci_high - alone.ci_low)

    def test_a_perfect_probe_has_an_exact_interval(self) -> None:
        targets = np.repeat([0, 1], 20)
        accuracy, p_value = balanced_accuracy(targets, targets, names(np.arange(40)), 2, 0.55, 0)
        assert (accuracy.estimate, accuracy.ci_high) == (1, 1)
        assert accuracy.ci_low == pytest.approx(0.025 ** (1 / 20))
        assert p_value == pytest.approx(0.55**20)

    def test_few_groups_have_no_interval(self) -> None:
        targets = np.array([0, 1] * 4)
        accuracy, p_value = balanced_accuracy(targets, targets, names(np.arange(8)), 2, 0.5, 0)
        assert (accuracy.ci_low, p_value) == (None, None)
        assert "fewer than 10 groups" in accuracy.method

    def test_classes_wholly_right_and_wholly_wrong_have_an_exact_bound(self) -> None:
        """A has its own width, B and C share one: all draws are equal although the prediction is not constant."""
        targets = np.repeat([0, 1, 2], [30, 34, 26])
        accuracy, p_value = balanced_accuracy(targets, np.minimum(targets, 1), names(np.arange(90)), 3, 1 / 3 + 0.05, 0)
        assert accuracy.estimate == pytest.approx(2 / 3)
        assert accuracy.ci_low == pytest.approx(2 / 3 * 0.025 ** (1 / 30))
        assert accuracy.ci_high == pytest.approx(1 - 1 / 3 * 0.025 ** (1 / 26))
        assert p_value == pytest.approx(((1 / 3 + 0.05) / (2 / 3)) ** 30)
        assert "exact limits" in accuracy.method

    def test_interval_and_p_value_agree_if_all_draws_are_equal(self) -> None:
        for count in (4, 6, 8, 12, 40):
            targets = np.repeat([0, 1, 2], count)
            accuracy, p_value = balanced_accuracy(targets, np.minimum(targets, 1), names(np.arange(3 * count)), 3, 0.45, 0)
            assert (accuracy.ci_low > 0.45) == (p_value < 0.025)

    def test_half_of_each_group_right_is_no_alarm(self) -> None:
        targets = np.repeat([0, 1], 40)
        accuracy, p_value = balanced_accuracy(targets, np.tile([0, 1], 40), names(np.repeat(np.arange(40), 2)), 2, 0.55, 0)
        assert (accuracy.estimate, p_value) == (0.5, 1.0)
        assert accuracy.ci_low < 0.5 < accuracy.ci_high

    def test_all_wrong_is_no_alarm(self) -> None:
        targets = np.repeat([0, 1], 20)
        accuracy, p_value = balanced_accuracy(targets, 1 - targets, names(np.arange(40)), 2, 0.55, 0)
        assert (accuracy.estimate, accuracy.ci_low, p_value) == (0, 0, 1.0)

    def test_a_constant_prediction_is_no_alarm(self) -> None:
        targets = np.tile([0, 1], 20)
        accuracy, p_value = balanced_accuracy(targets, np.zeros(40, np.int64), names(np.arange(40)), 2, 0.55, 0)
        assert (accuracy.estimate, accuracy.ci_low, p_value) == (0.5, 0.5, 1.0)
