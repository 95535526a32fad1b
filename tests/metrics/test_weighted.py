"""Each weighted metric against scikit-learn's sample_weight, ties included."""

import numpy as np
import pytest
from sklearn import metrics as sk

from reslink.metrics import weighted
from reslink.metrics.calibration import expected_calibration_error

WHOLE = 25


@pytest.fixture(params=["smooth", "tied"])
def case(request, rng):
    scores = rng.random(120)
    if request.param == "tied":
        scores = np.round(scores * 8) / 8
    positive = rng.random(120) < 0.3 + 0.4 * scores
    weights = rng.multinomial(120, np.full(120, 1 / 120), size=WHOLE).astype(float)
    return weights, positive, scores


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (weighted.roc_auc_score, sk.roc_auc_score),
        (weighted.average_precision_score, sk.average_precision_score),
        (weighted.brier_score_loss, sk.brier_score_loss),
    ],
)
def test_scores_equal_scikit_learn(case, ours, theirs):
    weights, positive, scores = case
    expected = [theirs(positive, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(ours(weights, positive, scores), expected, rtol=1e-10)


def test_calibration_error_equals_that_of_the_repeated_cases(case):
    weights, positive, scores = case
    times = weights.astype(int)
    expected = [expected_calibration_error(np.repeat(positive, row), np.repeat(scores, row)) for row in times]
    np.testing.assert_allclose(weighted.expected_calibration_error(weights, positive, scores), expected, rtol=1e-10)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_tables_and_matthews_equal_scikit_learn(rng, num_classes):
    y_true, y_pred = rng.integers(0, num_classes, (2, 90))
    weights = rng.multinomial(90, np.full(90, 1 / 90), size=WHOLE).astype(float)
    table = weighted.confusion_matrices(weights, y_true, y_pred, num_classes)
    expected = [sk.confusion_matrix(y_true, y_pred, labels=range(num_classes), sample_weight=row) for row in weights]
    np.testing.assert_allclose(table, expected)
    scores = [sk.matthews_corrcoef(y_true, y_pred, sample_weight=row) for row in weights]
    np.testing.assert_allclose(weighted.matthews_corrcoef(table), scores, atol=1e-12)
    rest = weighted.one_vs_rest(table)
    np.testing.assert_allclose(rest.sum(axis=(2, 3)), 90)


def test_metrics_of_a_table_equal_scikit_learn(rng):
    y_true, y_pred = rng.integers(0, 2, (2, 90))
    weights = rng.multinomial(90, np.full(90, 1 / 90), size=WHOLE).astype(float)
    metrics = weighted.metrics_from_confusion(weighted.confusion_matrices(weights, y_true, y_pred, 2))
    for i, row in enumerate(weights):
        assert metrics["accuracy"][i] == pytest.approx(sk.accuracy_score(y_true, y_pred, sample_weight=row))
        assert metrics["sensitivity"][i] == pytest.approx(sk.recall_score(y_true, y_pred, sample_weight=row))
        assert metrics["specificity"][i] == pytest.approx(sk.recall_score(y_true, y_pred, pos_label=0, sample_weight=row))
        assert metrics["ppv"][i] == pytest.approx(sk.precision_score(y_true, y_pred, sample_weight=row))
        assert metrics["npv"][i] == pytest.approx(sk.precision_score(y_true, y_pred, pos_label=0, sample_weight=row))
        assert metrics["f1"][i] == pytest.approx(sk.f1_score(y_true, y_pred, sample_weight=row))
        assert metrics["balanced_accuracy"][i] == pytest.approx(sk.balanced_accuracy_score(y_true, y_pred, sample_weight=row))


def test_a_draw_without_a_class_is_nan_without_a_warning():
    positive, scores = np.array([True, True, False]), np.array([0.9, 0.4, 0.1])
    weights = np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 3.0], [1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(np.isnan(weighted.roc_auc_score(weights, positive, scores)), [True, True, False])
    np.testing.assert_array_equal(np.isnan(weighted.average_precision_score(weights, positive, scores)), [True, True, False])
    table = weighted.confusion_matrices(weights, positive.astype(int), np.array([1, 1, 1]), 2)
    np.testing.assert_array_equal(weighted.matthews_corrcoef(table), [np.nan, np.nan, 0.0])
