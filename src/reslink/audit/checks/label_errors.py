"""The label error check: cases whose label is unlikely under a quick model fitted on the other cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from sklearn.ensemble import ExtraTreesClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, QuantileTransformer

from reslink.audit.cross_validation import FOLDS, OutOfFold, fit_out_of_fold, min_groups_per_class
from reslink.files import optional_import

TREES: Final = 50
"""The out-of-fold log loss is that of 150 trees: 0.198 (ct), 0.628 instead of 0.626 (mri4), 0.269 (lgg)."""
LARGE_DATA_SET: Final = 1000
SMALL_DATA_FOLDS: Final = 10
"""Number of folds below 1,000 cases, where each case matters and fitting is fast."""

SCORED_AT_ONCE: Final = 2000
"""Number of cases that are in memory while those outside a sample are scored."""

COARSE_SIDE: Final = 16
MIN_GROUPS: Final = 5
"""Minimum number of groups per class. With fewer, a quick model learns nothing useful."""

RANK_MARGIN: Final = 1e-7
"""Ranks are at least this far from 0 and 1, whose normal quantiles are infinite."""

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class SuspectedError:
    """A case whose label is unlikely.

    Attributes:
        row: Index of the case.
        given: Given class index.
        suggested: Most likely class index according to the quick model.
        score: Out-of-fold probability of the given label, 0 to 1; the lower, the more suspicious.
        confident: Whether confident learning also flags it (Northcutt, Jiang and Chuang, "Confident learning", Journal of
            Artificial Intelligence Research 70:1373, 2021).
    """

    row: int
    given: int
    suggested: int
    score: float
    confident: bool


def suspected_errors(y_prob: Floats, targets: Ints) -> list[SuspectedError]:
    """Returns the cases whose given label is not the most likely one, worst first.

    Args:
        y_prob: (n, K) out-of-fold probabilities.
        targets: (n,) given class indices.

    Raises:
        UsageError: If cleanlab is not installed (extra ``audit``).
    """
    cleanlab_rank = optional_import("cleanlab.rank", "audit")
    cleanlab_filter = optional_import("cleanlab.filter", "audit")
    clipped = np.clip(y_prob, 1e-6, 1) / np.clip(y_prob, 1e-6, 1).sum(axis=1, keepdims=True)
    scores = cleanlab_rank.get_label_quality_scores(targets, clipped, method="self_confidence")
    confident = cleanlab_filter.find_label_issues(targets, clipped, filter_by="prune_by_noise_rate", n_jobs=1)
    suggested = clipped.argmax(axis=1)
    rows = [int(i) for i in np.argsort(scores, kind="stable") if suggested[i] != targets[i]]
    return [SuspectedError(i, int(targets[i]), int(suggested[i]), round(float(scores[i]), 4), bool(confident[i])) for i in rows]


def quick_model_probabilities(
    features: NDArray[np.float32],
    thumbnails: NDArray[np.uint8],
    targets: Ints,
    groups: Sequence[str],
    num_classes: int,
    seed: int,
) -> Floats | str:
    """Returns out-of-fold probabilities of a quick model.

    The model averages extremely randomized trees (Geurts et al., Machine Learning 63:3, 2006) and logistic regression on
    ranks. It is fitted once on the asymmetry features alone and once together with the head at 16×16 pixels; the variant with
    the lower out-of-fold log loss is used.

    Args:
        features: (n, F) from ``asymmetry_features``.
        thumbnails: (n, 64, 64) uint8.
        targets: (n,) given class indices.
        groups: The group of each case. No case is scored by a model that was fitted on its own group.
        num_classes: K.
        seed: Seed of folds and trees.

    Returns:
        (n, K), or the reason why there are too few cases.
    """
    fitted = _fit_quick_models(features, thumbnails, targets, groups, num_classes, seed)
    return fitted if isinstance(fitted, str) else fitted[0].y_prob


def sampled_model_probabilities(
    read: Callable[[Ints], tuple[NDArray[np.float32], NDArray[np.uint8]]],
    sample: Ints,
    targets: Ints,
    groups: Sequence[str],
    num_classes: int,
    seed: int,
) -> Floats | str:
    """Returns out-of-fold probabilities of all cases by quick models that are fitted on a sample of them.

    Every group belongs to a fold: those in the sample by cross-validation, the others at random. A case is scored by the model
    of the fold of its group, which was fitted on the sampled groups of the other folds.

    Args:
        read: Returns the features and thumbnails of some rows, see :func:`quick_model_probabilities`.
        sample: (m,) sorted rows on which the models are fitted.
        targets: (n,) given class indices.
        groups: The group of each case.
        num_classes: K.
        seed: Seed of folds and trees.

    Returns:
        (n, K), or the reason why there are too few cases.
    """
    _, numbers = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    fitted = _fit_quick_models(*read(sample), targets[sample], [groups[i] for i in sample], num_classes, seed)
    if isinstance(fitted, str):
        return fitted
    models, with_heads = fitted
    fold_of_group = np.random.default_rng(seed).integers(len(models.models), size=int(numbers.max()) + 1)
    fold_of_group[numbers[sample]] = models.folds
    y_prob = np.zeros((len(targets), num_classes))
    y_prob[sample] = models.y_prob
    others = np.setdiff1d(np.arange(len(targets)), sample, assume_unique=True)
    for start in range(0, len(others), SCORED_AT_ONCE):
        rows = others[start : start + SCORED_AT_ONCE]
        features, thumbnails = read(rows)
        inputs = _with_coarse_heads(features, thumbnails) if with_heads else features
        y_prob[rows] = models.score(inputs, fold_of_group[numbers[rows]])
    return y_prob


def _fit_quick_models(
    features: NDArray[np.float32],
    thumbnails: NDArray[np.uint8],
    targets: Ints,
    groups: Sequence[str],
    num_classes: int,
    seed: int,
) -> tuple[OutOfFold, bool] | str:
    """Returns the better of the two quick models, and whether it sees the head; or why there are too few cases."""
    names = np.asarray(groups, dtype=str)
    fewest = min_groups_per_class(targets, names, num_classes)
    if fewest < MIN_GROUPS:
        return f"a class has {fewest} independent groups of images, and a quick model needs at least {MIN_GROUPS}"

    folds = SMALL_DATA_FOLDS if len(targets) < LARGE_DATA_SET else FOLDS
    candidates = [
        (
            fit_out_of_fold(inputs, targets, names, num_classes, lambda: _quick_model(len(targets), seed), seed, folds),
            with_heads,
        )
        for inputs, with_heads in ((features, False), (_with_coarse_heads(features, thumbnails), True))
    ]
    return min(candidates, key=lambda candidate: _log_loss(candidate[0].y_prob, targets))


def _with_coarse_heads(features: NDArray[np.float32], thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the features together with the head at 16×16 pixels."""
    block = thumbnails.shape[1] // COARSE_SIDE
    coarse = thumbnails.reshape(-1, COARSE_SIDE, block, COARSE_SIDE, block).mean(axis=(2, 4), dtype=np.float32)
    return np.concatenate([features, coarse.reshape(len(thumbnails), -1)], axis=1)


def _quick_model(cases: int, seed: int) -> VotingClassifier:
    trees = ExtraTreesClassifier(TREES, min_samples_leaf=3, max_features=0.3, class_weight="balanced", random_state=seed)
    ranks = QuantileTransformer(n_quantiles=min(50, cases // 2), random_state=seed)
    regression = LogisticRegression(C=0.02, solver="newton-cholesky", class_weight="balanced")
    linear = make_pipeline(ranks, FunctionTransformer(_normal_scores), regression)
    return VotingClassifier([("trees", trees), ("linear", linear)], voting="soft")


def _normal_scores(ranks: NDArray[np.floating[Any]]) -> Floats:
    """Returns the standard normal quantiles of ranks from 0 to 1.

    They are those of ``QuantileTransformer(output_distribution="normal")``, which computes them one feature at a time and
    takes a third of the time of the whole audit of a small data set. In float32, the regression would not converge.
    """
    return np.asarray(ndtri(np.clip(ranks.astype(np.float64), RANK_MARGIN, 1 - RANK_MARGIN)))


def _log_loss(y_prob: Floats, targets: Ints) -> float:
    return float(-np.log(np.clip(y_prob[np.arange(len(targets)), targets], 1e-3, 1)).mean())
