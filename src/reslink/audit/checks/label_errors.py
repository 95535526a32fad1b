"""Likely label errors: cases whose label a quick model, fitted on the others, finds unlikely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer

from reslink.audit.cross_validation import FOLDS, fewest_groups, out_of_fold
from reslink.files import optional_import

TREES: Final = 150
MANY: Final = 1000
MANY_FOLDS: Final = 10
"""Below so many cases every one is dear, and so few are quickly fitted."""

COARSE: Final = 16
SMALLEST: Final = 5
"""With fewer groups in a class a quick model learns nothing that would be worth a look."""

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Suspect:
    """A case whose label is unlikely.

    Attributes:
        row: Index of the case.
        given: Class index as given.
        suggested: Class index that the quick model finds most likely.
        score: Out-of-fold probability of the given label, 0 to 1: the lower, the more suspect.
        confident: Whether confident learning calls it an error too (Northcutt, Jiang and Chuang, "Confident learning",
            Journal of Artificial Intelligence Research 70:1373, 2021).
    """

    row: int
    given: int
    suggested: int
    score: float
    confident: bool


def suspects(y_prob: Floats, targets: Ints) -> list[Suspect]:
    """Returns the cases whose given label is not the most likely one, worst first.

    Args:
        y_prob: (n, K) out-of-fold probabilities.
        targets: (n,) class indices as given.

    Raises:
        UsageError: If cleanlab is not installed (extra ``audit``).
    """
    ranking = optional_import("cleanlab.rank", "audit")
    finding = optional_import("cleanlab.filter", "audit")
    sure = np.clip(y_prob, 1e-6, 1) / np.clip(y_prob, 1e-6, 1).sum(axis=1, keepdims=True)
    scores = ranking.get_label_quality_scores(targets, sure, method="self_confidence")
    confident = finding.find_label_issues(targets, sure, filter_by="prune_by_noise_rate", n_jobs=1)
    suggested = sure.argmax(axis=1)
    order = [int(i) for i in np.argsort(scores, kind="stable") if suggested[i] != targets[i]]
    return [Suspect(i, int(targets[i]), int(suggested[i]), round(float(scores[i]), 4), bool(confident[i])) for i in order]


def quick_probabilities(
    features: NDArray[np.float32],
    thumbnails: NDArray[np.uint8],
    targets: Ints,
    groups: Sequence[str],
    num_classes: int,
    seed: int,
) -> Floats | str:
    """Returns out-of-fold probabilities of a quick model.

    It is the mean of extremely randomised trees (Geurts et al., Machine Learning 63:3, 2006) and logistic regression on
    ranks. It is tried on the asymmetry features alone and together with the head at 16×16 pixels; the one with the better
    log loss out of fold is taken.

    Args:
        features: (n, F) from ``asymmetry_features``.
        thumbnails: (n, 64, 64) uint8.
        targets: (n,) class indices as given.
        groups: The group of each case; nobody is judged by a model that saw his own group.
        num_classes: K.
        seed: Of folds and trees.

    Returns:
        (n, K); or the reason why there are too few cases.
    """
    names = np.asarray(groups, dtype=str)
    fewest = fewest_groups(targets, names, num_classes)
    if fewest < SMALLEST:
        return f"a class has {fewest} independent groups of images, and a quick model needs at least {SMALLEST}"

    step = thumbnails.shape[1] // COARSE
    small = thumbnails.reshape(-1, COARSE, step, COARSE, step).mean(axis=(2, 4)).reshape(len(thumbnails), -1)
    folds = MANY_FOLDS if len(targets) < MANY else FOLDS
    tried = [
        out_of_fold(inputs, targets, names, num_classes, lambda: _model(len(targets), seed), seed, folds)
        for inputs in (features, np.concatenate([features, small], axis=1))
    ]
    return min(tried, key=lambda y_prob: _log_loss(y_prob, targets))


def _model(cases: int, seed: int) -> VotingClassifier:
    trees = ExtraTreesClassifier(TREES, min_samples_leaf=3, max_features=0.3, class_weight="balanced", random_state=seed)
    ranks = QuantileTransformer(n_quantiles=min(50, cases // 2), output_distribution="normal", random_state=seed)
    linear = make_pipeline(ranks, LogisticRegression(C=0.02, max_iter=500, class_weight="balanced"))
    return VotingClassifier([("trees", trees), ("linear", linear)], voting="soft")


def _log_loss(y_prob: Floats, targets: Ints) -> float:
    return float(-np.log(np.clip(y_prob[np.arange(len(targets)), targets], 1e-3, 1)).mean())
