"""Cross-validation over groups, and its balanced accuracy with an interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.base import ClassifierMixin
from sklearn.model_selection import StratifiedGroupKFold

from reslink.metrics.intervals import (
    MIN_GROUPS,
    Estimate,
    GroupBootstrap,
    bootstrap_interval,
    exact_binomial_interval,
    too_few_groups,
    without_interval,
)
from reslink.metrics.weighted import confusion_matrices

FOLDS: Final = 5
BOOTSTRAP_DRAWS: Final = 1000
TAIL_PROBABILITY: Final = 0.025
"""Probability of each tail of a 95 % interval."""

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class OutOfFold:
    """Models fitted by cross-validation.

    Attributes:
        y_prob: (n, K) probabilities for cases of groups that the model was not fitted on; rows sum to 1.
        folds: (n,) the fold of each case, whose model was not fitted on its group.
        models: The model of each fold.
    """

    y_prob: Floats
    folds: Ints
    models: list[Any]

    def score(self, features: Any, folds: Ints) -> Floats:
        """Returns the probabilities of other cases, (m, K), each by the model of its fold."""
        y_prob = np.zeros((len(folds), self.y_prob.shape[1]))
        for fold in np.unique(folds):
            rows, model = np.flatnonzero(folds == fold), self.models[fold]
            y_prob[np.ix_(rows, model.classes_)] = model.predict_proba(features[rows])
        return y_prob


def out_of_fold_probabilities(
    features: Any,
    targets: Ints,
    groups: NDArray[np.str_],
    num_classes: int,
    make_model: Callable[[], ClassifierMixin],
    seed: int,
    folds: int = FOLDS,
) -> Floats:
    """Returns the probabilities of a model for cases of groups that it was not fitted on; see :func:`fit_out_of_fold`."""
    return fit_out_of_fold(features, targets, groups, num_classes, make_model, seed, folds).y_prob


def fit_out_of_fold(
    features: Any,
    targets: Ints,
    groups: NDArray[np.str_],
    num_classes: int,
    make_model: Callable[[], ClassifierMixin],
    seed: int,
    folds: int = FOLDS,
) -> OutOfFold:
    """Fits a model for each fold of the groups.

    Args:
        features: (n, F) array or sparse matrix.
        targets: (n,) class indices; each class has at least two groups.
        groups: (n,) group names.
        num_classes: K.
        make_model: Returns an unfitted classifier.
        seed: Seed of the folds.
        folds: Number of folds; fewer if a class has fewer groups.
    """
    fold_of, models = np.zeros(len(targets), np.int64), []
    probabilities = np.zeros((len(targets), num_classes))
    n_splits = min(folds, min_groups_per_class(targets, groups, num_classes))
    group_numbers = np.asarray(np.unique(groups, return_inverse=True)[1], np.int64)
    splits = _folds(np.asarray(targets, np.int64).tobytes(), group_numbers.tobytes(), n_splits, seed)
    for fold, (train, test) in enumerate(splits):
        model: Any = make_model()
        model.fit(features[train], targets[train])
        probabilities[np.ix_(test, model.classes_)] = model.predict_proba(features[test])
        fold_of[test] = fold
        models.append(model)
    return OutOfFold(probabilities, fold_of, models)


@lru_cache(maxsize=1)
def _folds(targets: bytes, groups: bytes, n_splits: int, seed: int) -> list[tuple[Ints, Ints]]:
    """Returns the training and the test rows of each fold. The models of an audit are fitted on the same folds in turn.

    Args:
        targets: (n,) int64 class indices, as bytes.
        groups: (n,) int64 group numbers, as bytes.
        n_splits: Number of folds.
        seed: Seed of the folds.
    """
    y, names = np.frombuffer(targets, np.int64), np.frombuffer(groups, np.int64)
    return list(StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed).split(y, y, names))


def min_groups_per_class(targets: Ints, groups: NDArray[np.str_], num_classes: int) -> int:
    """Returns the number of groups of the class with the fewest groups."""
    return min(len(np.unique(groups[targets == k])) for k in range(num_classes))


def balanced_accuracy(
    targets: Ints, predictions: Ints, groups: NDArray[np.str_], num_classes: int, limit: float, seed: int
) -> tuple[Estimate, float | None]:
    """Returns the balanced accuracy with its interval over groups, and the one-sided p-value against a limit.

    The p-value assumes a normal distribution with the standard error of the bootstrap. If all bootstrap draws are equal,
    because each class is entirely right or entirely wrong, the interval and the p-value come from the number of groups: if all
    m groups are right, the lower limit of the share is 0.025^(1/m) (Clopper and Pearson 1934).

    Args:
        targets: (n,) class indices.
        predictions: (n,) predicted class indices.
        groups: (n,) group names.
        num_classes: K.
        limit: Balanced accuracy of the null hypothesis.
        seed: Seed of the bootstrap.
    """

    def mean_recall(weights: Floats) -> Floats:
        counts = confusion_matrices(weights, targets, predictions, num_classes)
        totals = counts.sum(axis=2)
        shares = np.divide(np.diagonal(counts, axis1=1, axis2=2), totals, out=np.full(totals.shape, np.nan), where=totals > 0)
        return np.asarray(shares.mean(axis=1))

    estimate, n = float(mean_recall(np.ones((1, len(targets))))[0]), len(targets)
    bootstrap = GroupBootstrap(groups, BOOTSTRAP_DRAWS, seed)
    if bootstrap.n_groups < MIN_GROUPS:
        return without_interval(estimate, too_few_groups(bootstrap.n_groups), n), None
    if (targets == predictions).all():
        fewest = min_groups_per_class(targets, groups, num_classes)
        exact = exact_binomial_interval(fewest, fewest, "groups of the smallest class, because all cases are right")
        return replace(exact, n=n), float(limit**fewest)
    drawn = bootstrap.apply(lambda weights: {"mean": mean_recall(weights)})["mean"]
    spread = float(np.nanstd(drawn.values))
    if spread < 1e-9:
        return _without_spread(estimate, targets, predictions, groups, limit)
    interval = bootstrap_interval(estimate, drawn, n, bootstrap.n_groups)
    return interval, float(norm.sf((estimate - limit) / spread))


def _without_spread(
    estimate: float, targets: Ints, predictions: Ints, groups: NDArray[np.str_], limit: float
) -> tuple[Estimate, float | None]:
    """Returns the interval and the p-value if every class has the same recall in every draw."""
    n = len(targets)
    if (predictions == predictions[0]).all():
        return Estimate(estimate, estimate, estimate, "the model predicts the same class for every image", n), 1.0
    repredictions = {k: float((predictions[targets == k] == k).mean()) for k in np.unique(targets)}
    right = min((len(np.unique(groups[targets == k])) for k, recall in repredictions.items() if recall > 0), default=1)
    wrong = min((len(np.unique(groups[targets == k])) for k, recall in repredictions.items() if recall < 1), default=1)
    low, high = estimate * TAIL_PROBABILITY ** (1 / right), 1 - (1 - estimate) * TAIL_PROBABILITY ** (1 / wrong)
    method = (
        f"each class is entirely right (at least {right} groups) or entirely wrong (at least {wrong} groups): exact limits "
        "of a share of 1 or 0 in this number of groups"
    )
    return Estimate(estimate, low, high, method, n), min(1.0, limit / estimate) ** right if estimate > 0 else 1.0
