"""The metrics of many weighted samples at once, for a whole bootstrap; scikit-learn computes one sample at a time.

``tests/metrics/test_weighted.py`` compares each function with scikit-learn's ``sample_weight``.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.metrics.calibration import BINS, bin_index

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Returns numerator / denominator, NaN where the denominator is 0."""
    out: Floats = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def confusion_matrices(weights: Floats, y_true: Ints, y_pred: Ints, num_classes: int) -> Floats:
    """Returns (m, K, K) weighted confusion matrices, true class by predicted class.

    Args:
        weights: (m, n), one row per sample.
        y_true: (n,) class indices.
        y_pred: (n,) class indices.
        num_classes: K.
    """
    cells = np.eye(num_classes * num_classes)[y_true * num_classes + y_pred]
    return np.reshape(weights @ cells, (-1, num_classes, num_classes))


def roc_auc_score(weights: Floats, y_true: Bools, y_score: Floats) -> Floats:
    """Returns (m,) areas under the ROC curve, ties counted half; NaN where a class has no weight.

    Args:
        weights: (m, n).
        y_true: (n,) whether a case is positive.
        y_score: (n,) the higher, the more positive.
    """
    positive, negative = _weights_by_score(weights, y_true, y_score)
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + negative / 2)).sum(axis=1)
    return ratio(wins, positive.sum(axis=1) * negative.sum(axis=1))


def average_precision_score(weights: Floats, y_true: Bools, y_score: Floats) -> Floats:
    """Returns (m,) average precisions, Σ (Rᵢ − Rᵢ₋₁) Pᵢ over distinct scores; NaN where a class has no weight."""
    positive, negative = (values[:, ::-1] for values in _weights_by_score(weights, y_true, y_score))
    true_positives, predicted = np.cumsum(positive, axis=1), np.cumsum(positive + negative, axis=1)
    precision = np.divide(true_positives, predicted, out=np.zeros_like(true_positives), where=predicted > 0)
    value = ratio((positive * precision).sum(axis=1), positive.sum(axis=1))
    return np.where(negative.sum(axis=1) > 0, value, np.nan)


def _weights_by_score(weights: Floats, y_true: Bools, y_score: Floats) -> tuple[Floats, Floats]:
    """Returns (m, distinct scores) weights of positive and negative cases at each score, in ascending order."""
    order = np.argsort(y_score, kind="stable")
    starts = np.flatnonzero(np.diff(y_score[order], prepend=-np.inf))
    sorted_weights, positive = weights[:, order], y_true[order]
    return (
        np.add.reduceat(sorted_weights * positive, starts, axis=1),
        np.add.reduceat(sorted_weights * ~positive, starts, axis=1),
    )


def brier_score_loss(weights: Floats, y_true: Bools, y_prob: Floats) -> Floats:
    """Returns (m,) weighted mean squared differences of probability and outcome."""
    return ratio(weights @ (y_prob - y_true) ** 2, weights.sum(axis=1))


def expected_calibration_error(weights: Floats, y_true: Bools, y_prob: Floats) -> Floats:
    """Returns (m,) expected calibration errors over equal-width bins; see :mod:`reslink.metrics.calibration`."""
    gaps = weights @ (np.eye(BINS)[bin_index(y_prob)] * (y_true - y_prob)[:, None])
    return ratio(np.abs(gaps).sum(axis=1), weights.sum(axis=1))


def matthews_corrcoef(table: Floats) -> Floats:
    """Returns (m,) Matthews correlation coefficients of (m, K, K) confusion matrices (Gorodkin 2004).

    NaN with a single true class; 0, as in scikit-learn, with a single predicted class.
    """
    total, correct = table.sum(axis=(1, 2)), np.trace(table, axis1=1, axis2=2)
    true, predicted = table.sum(axis=2), table.sum(axis=1)
    spread_true = total**2 - (true**2).sum(axis=1)
    spread_predicted = total**2 - (predicted**2).sum(axis=1)
    value = ratio(correct * total - (true * predicted).sum(axis=1), np.sqrt(spread_true * spread_predicted))
    return np.where(spread_true > 0, np.nan_to_num(value), np.nan)


def one_vs_rest(table: Floats) -> Floats:
    """Returns (m, K, 2, 2) confusion matrices of each class (second) against the rest (first), from (m, K, K)."""
    tp = np.diagonal(table, axis1=1, axis2=2)
    fn, fp = table.sum(axis=2) - tp, table.sum(axis=1) - tp
    tn = table.sum(axis=(1, 2))[:, None] - tp - fn - fp
    return np.stack([np.stack([tn, fp], axis=-1), np.stack([fn, tp], axis=-1)], axis=-2)


def metrics_from_confusion(table: Floats) -> dict[str, Floats]:
    """Returns the metrics of (m, 2, 2) confusion matrices, each (m,), NaN where undefined."""
    (tn, fp), (fn, tp) = (table[:, 0].T, table[:, 1].T)
    sensitivity, specificity = ratio(tp, tp + fn), ratio(tn, tn + fp)
    return {
        "accuracy": ratio(tp + tn, table.sum(axis=(1, 2))),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": ratio(tp, tp + fp),
        "npv": ratio(tn, tn + fn),
        "f1": ratio(2 * tp, 2 * tp + fn + fp),
        "mcc": matthews_corrcoef(table),
    }


def metrics_from_probabilities(weights: Floats, y_true: Bools, y_prob: Floats) -> dict[str, Floats]:
    """Returns the metrics of the probabilities of one class against the rest, each (m,), NaN where undefined."""
    return {
        "auroc": roc_auc_score(weights, y_true, y_prob),
        "auprc": average_precision_score(weights, y_true, y_prob),
        "brier": brier_score_loss(weights, y_true, y_prob),
        "ece": expected_calibration_error(weights, y_true, y_prob),
    }
