"""Metrics of the same cases under several corruptions, each with its interval and its paired drop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.decision import Decision
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.near_duplicates.groups import leakage_groups
from reslink.experiments.robustness.predict_corrupted import CorruptedPredictions, Corruptions
from reslink.labels import Labels
from reslink.metrics.classification import classification_metrics
from reslink.metrics.differences import Predictions, metric_differences
from reslink.metrics.intervals import Estimate, mean_interval

Floats: TypeAlias = NDArray[np.float64]
Level: TypeAlias = tuple[str, int]
"""Kind and severity of a corruption."""

ORIGINAL: Level = ("", 0)


@dataclass(frozen=True)
class RobustnessMetrics:
    """The metrics of the original images and of each corruption.

    Attributes:
        original: Metrics of the original images, by name.
        corrupted: For each kind and severity: the metrics, and the drops (original minus corrupted).
        mean_accuracy: Accuracy over all corruptions and severities.
        abstained: Share of cases on which the model abstains, by kind and severity, and for ``ORIGINAL``. None if the
            bundle has no abstention.
        n: Number of cases.
        n_groups: Number of patients or duplicate groups.
        labels: The classes.
    """

    original: dict[str, Estimate]
    corrupted: dict[Level, tuple[dict[str, Estimate], dict[str, Estimate]]]
    mean_accuracy: Estimate
    abstained: dict[Level, float] | None
    n: int
    n_groups: int
    labels: Labels

    @classmethod
    def compute(
        cls, predictions: CorruptedPredictions, cache: PixelCache, decision: Decision, corruptions: Corruptions
    ) -> RobustnessMetrics:
        """Returns the metrics of predictions.

        Args:
            predictions: The predictions.
            cache: The cache with the cases.
            decision: The decision rule for the logits.
            corruptions: The corruptions of the predictions; their seed is also that of the bootstrap.
        """
        seed, levels = corruptions.seed, corruptions.levels
        group_of_row = leakage_groups(cache.manifest, cache.thumbnails)
        groups = [group_of_row[row] for row in predictions.rows]
        y_true, names = cache.targets[predictions.rows], cache.manifest.labels.names
        original, *corrupted = [_decide(logits, decision) for logits in np.moveaxis(predictions.logits, 1, 0)]

        def metrics(version: Predictions) -> dict[str, Estimate]:
            return classification_metrics(y_true, version.y_prob, version.y_pred, groups, names, seed)[0]

        by_level = {
            level: (metrics(version), metric_differences(y_true, original, version, groups, names, seed))
            for level, version in zip(levels, corrupted, strict=True)
        }
        abstained = None
        if predictions.abstained is not None:
            abstained = dict(zip([ORIGINAL, *levels], predictions.abstained.mean(axis=0).tolist(), strict=True))
        correct_share = np.mean([version.y_pred == y_true for version in corrupted], axis=0)
        return cls(
            original=metrics(original),
            corrupted=by_level,
            mean_accuracy=mean_interval(correct_share, groups, seed),
            abstained=abstained,
            n=len(y_true),
            n_groups=len(set(groups)),
            labels=cache.manifest.labels,
        )


def _decide(logits: Floats, decision: Decision) -> Predictions:
    probabilities = decision.probabilities(logits)
    return Predictions(probabilities, decision.predict(probabilities))
