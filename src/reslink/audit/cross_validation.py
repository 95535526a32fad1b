"""Cross-validation over groups, and the balanced accuracy that comes of it with its interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
    exact_binomial,
    few_groups,
    without_interval,
)
from reslink.metrics.weighted import tables

FOLDS: Final = 5
DRAWS: Final = 1000
TAIL: Final = 0.025
"""Of each side of a 95 % interval."""

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


def out_of_fold(
    features: Any,
    targets: Ints,
    groups: NDArray[np.str_],
    num_classes: int,
    model: Callable[[], ClassifierMixin],
    seed: int,
    folds: int = FOLDS,
) -> Floats:
    """Returns the probabilities that a model gives to cases of groups it was not fitted on.

    Args:
        features: (n, F) array or sparse matrix.
        targets: (n,) class indices; each class has at least two groups.
        groups: (n,) group names.
        num_classes: K.
        model: Makes an unfitted classifier.
        seed: Of the folds.
        folds: How many; fewer where a class has fewer groups.

    Returns:
        (n, K), rows sum to 1.
    """
    probabilities = np.zeros((len(targets), num_classes))
    parts = min(folds, fewest_groups(targets, groups, num_classes))
    splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    for inside, outside in splitter.split(targets, targets, groups):
        fitted: Any = model()
        fitted.fit(features[inside], targets[inside])
        probabilities[np.ix_(outside, fitted.classes_)] = fitted.predict_proba(features[outside])
    return probabilities


def fewest_groups(targets: Ints, groups: NDArray[np.str_], num_classes: int) -> int:
    """Returns the number of groups of the class that has fewest."""
    return min(len(np.unique(groups[targets == k])) for k in range(num_classes))


def balanced_accuracy(
    targets: Ints, calls: Ints, groups: NDArray[np.str_], num_classes: int, limit: float, seed: int
) -> tuple[Estimate, float | None]:
    """Returns the balanced accuracy with its interval over groups, and the one-sided p-value of lying above a limit.

    The p-value takes the bootstrap's standard error for that of a normal distribution. Where no draw differs from another,
    as every class is wholly right or wholly wrong, interval and p-value come from the number of groups: of m groups that all
    are right, the share that is right lies above 0.025^(1/m) (Clopper and Pearson 1934).

    Args:
        targets: (n,) class indices.
        calls: (n,) predicted class indices.
        groups: (n,) group names.
        num_classes: K.
        limit: What the balanced accuracy is held against.
        seed: Of the bootstrap.
    """

    def mean_recall(weights: Floats) -> Floats:
        counts = tables(weights, targets, calls, num_classes)
        totals = counts.sum(axis=2)
        shares = np.divide(np.diagonal(counts, axis1=1, axis2=2), totals, out=np.full(totals.shape, np.nan), where=totals > 0)
        return np.asarray(shares.mean(axis=1))

    estimate, n = float(mean_recall(np.ones((1, len(targets))))[0]), len(targets)
    bootstrap = GroupBootstrap(groups, DRAWS, seed)
    if bootstrap.n_groups < MIN_GROUPS:
        return without_interval(estimate, few_groups(bootstrap.n_groups), n), None
    if (targets == calls).all():
        fewest = fewest_groups(targets, groups, num_classes)
        exact = exact_binomial(fewest, fewest, "the groups of the smallest class, as all cases are right")
        return replace(exact, n=n), float(limit**fewest)
    drawn = bootstrap.apply(lambda weights: {"mean": mean_recall(weights)})["mean"]
    spread = float(np.nanstd(drawn.values))
    if spread < 1e-9:
        return _without_spread(estimate, targets, calls, groups, limit)
    interval = bootstrap_interval(estimate, drawn, n, bootstrap.n_groups)
    return interval, float(norm.sf((estimate - limit) / spread))


def _without_spread(
    estimate: float, targets: Ints, calls: Ints, groups: NDArray[np.str_], limit: float
) -> tuple[Estimate, float | None]:
    """The interval and the p-value where every class has the same share of right calls in every draw."""
    n = len(targets)
    if (calls == calls[0]).all():
        return Estimate(estimate, estimate, estimate, "the probe calls every image the same", n), 1.0
    recalls = {k: float((calls[targets == k] == k).mean()) for k in np.unique(targets)}
    right = min((len(np.unique(groups[targets == k])) for k, recall in recalls.items() if recall > 0), default=1)
    wrong = min((len(np.unique(groups[targets == k])) for k, recall in recalls.items() if recall < 1), default=1)
    low, high = estimate * TAIL ** (1 / right), 1 - (1 - estimate) * TAIL ** (1 / wrong)
    method = (
        f"each class is the same in all groups, {right} at least where it is right and {wrong} where it is wrong: exact limits "
        "of a share that is 1 or 0 in as many groups"
    )
    return Estimate(estimate, low, high, method, n), min(1.0, limit / estimate) ** right if estimate > 0 else 1.0
