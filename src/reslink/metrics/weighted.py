"""The metrics of many weighted samples at once: what scikit-learn gives for one, for a whole bootstrap.

``tests/metrics/test_weighted.py`` holds each function against scikit-learn's ``sample_weight``.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.metrics.calibration import BINS, bin_index

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]


def ratio(above: Floats, below: Floats) -> Floats:
    """Returns above / below, NaN where below is 0."""
    out: Floats = np.full(np.broadcast(above, below).shape, np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out


def tables(weights: Floats, y_true: Ints, y_pred: Ints, num_classes: int) -> Floats:
    """Returns (m, K, K) weighted confusion matrices, true class by predicted class.

    Args:
        weights: (m, n), one row a sample.
        y_true: (n,) class indices.
        y_pred: (n,) class indices.
        num_classes: K.
    """
    cells = np.eye(num_classes * num_classes)[y_true * num_classes + y_pred]
    return np.reshape(weights @ cells, (-1, num_classes, num_classes))


def auroc(weights: Floats, positive: Bools, scores: Floats) -> Floats:
    """Returns (m,) areas under the ROC curve, ties counted half; NaN where a class has no weight.

    Args:
        weights: (m, n).
        positive: (n,) whether a case is of the positive class.
        scores: (n,) the higher, the more positive.
    """
    true, false = _by_score(weights, positive, scores)
    below = np.cumsum(false, axis=1) - false
    wins = (true * (below + false / 2)).sum(axis=1)
    return ratio(wins, true.sum(axis=1) * false.sum(axis=1))


def average_precision(weights: Floats, positive: Bools, scores: Floats) -> Floats:
    """Returns (m,) average precisions, Σ (Rᵢ − Rᵢ₋₁) Pᵢ over distinct scores; NaN where a class has no weight."""
    true, false = (part[:, ::-1] for part in _by_score(weights, positive, scores))
    hits, calls = np.cumsum(true, axis=1), np.cumsum(true + false, axis=1)
    precision = np.divide(hits, calls, out=np.zeros_like(hits), where=calls > 0)
    value = ratio((true * precision).sum(axis=1), true.sum(axis=1))
    return np.where(false.sum(axis=1) > 0, value, np.nan)


def _by_score(weights: Floats, positive: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """Returns (m, distinct scores) weights of positives and negatives at each score, ascending."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    ranked, hits = weights[:, order], positive[order]
    return np.add.reduceat(ranked * hits, starts, axis=1), np.add.reduceat(ranked * ~hits, starts, axis=1)


def brier(weights: Floats, positive: Bools, scores: Floats) -> Floats:
    """Returns (m,) weighted mean squared differences of probability and outcome."""
    return ratio(weights @ (scores - positive) ** 2, weights.sum(axis=1))


def calibration_error(weights: Floats, positive: Bools, scores: Floats) -> Floats:
    """Returns (m,) expected calibration errors over equal bins; see ``calibration.expected_calibration_error``."""
    gaps = weights @ (np.eye(BINS)[bin_index(scores)] * (positive - scores)[:, None])
    return ratio(np.abs(gaps).sum(axis=1), weights.sum(axis=1))


def matthews(table: Floats) -> Floats:
    """Returns (m,) Matthews correlation coefficients of (m, K, K) tables (Gorodkin 2004).

    NaN where there is one true class only; 0, as in scikit-learn, where only one class is predicted.
    """
    total, right = table.sum(axis=(1, 2)), np.trace(table, axis1=1, axis2=2)
    true, predicted = table.sum(axis=2), table.sum(axis=1)
    spread_true = total**2 - (true**2).sum(axis=1)
    spread_predicted = total**2 - (predicted**2).sum(axis=1)
    value = ratio(right * total - (true * predicted).sum(axis=1), np.sqrt(spread_true * spread_predicted))
    return np.where(spread_true > 0, np.nan_to_num(value), np.nan)


def one_against_rest(table: Floats) -> Floats:
    """Returns (m, K, 2, 2) tables of each class (second) against the others (first) from (m, K, K) tables."""
    hit = np.diagonal(table, axis1=1, axis2=2)
    miss, alarm = table.sum(axis=2) - hit, table.sum(axis=1) - hit
    rest = table.sum(axis=(1, 2))[:, None] - hit - miss - alarm
    return np.stack([np.stack([rest, alarm], axis=-1), np.stack([miss, hit], axis=-1)], axis=-2)


def from_table(table: Floats) -> dict[str, Floats]:
    """Returns the metrics of (m, 2, 2) tables of one class against the rest, each (m,), NaN where undefined."""
    (rest, alarm), (miss, hit) = (table[:, 0].T, table[:, 1].T)
    sensitivity, specificity = ratio(hit, hit + miss), ratio(rest, rest + alarm)
    return {
        "accuracy": ratio(hit + rest, table.sum(axis=(1, 2))),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": ratio(hit, hit + alarm),
        "npv": ratio(rest, rest + miss),
        "f1": ratio(2 * hit, 2 * hit + miss + alarm),
        "mcc": matthews(table),
    }


def from_scores(weights: Floats, positive: Bools, scores: Floats) -> dict[str, Floats]:
    """Returns the metrics of the probabilities of one class against the rest, each (m,), NaN where undefined."""
    return {
        "auroc": auroc(weights, positive, scores),
        "auprc": average_precision(weights, positive, scores),
        "brier": brier(weights, positive, scores),
        "ece": calibration_error(weights, positive, scores),
    }
