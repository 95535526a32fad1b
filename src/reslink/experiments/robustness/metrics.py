"""Figures of the same cases under several conditions, each with its interval and its paired drop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.decision import Decision
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.near_duplicates import groups as twins
from reslink.experiments.robustness.predict_corrupted import CorruptedAnswers, conditions
from reslink.labels import Labels
from reslink.metrics.classification import estimates
from reslink.metrics.differences import Answers, differences
from reslink.metrics.intervals import Estimate, mean_interval

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """The figures of the images as they are and of each condition.

    Attributes:
        plain: Figures of the images as they are, by name.
        conditions: For each kind and severity: the figures, and by how much accuracy and AUROC drop.
        mean_accuracy: Accuracy over all corruptions and severities.
        abstained: Share of cases that the bundle would rather not answer, by kind and severity; ("", 0) as they are. None
            where the bundle has nothing to abstain by.
        n: Cases.
        n_groups: Patients or twin groups.
        labels: The classes.
    """

    plain: dict[str, Estimate]
    conditions: dict[tuple[str, int], tuple[dict[str, Estimate], dict[str, Estimate]]]
    mean_accuracy: Estimate
    abstained: dict[tuple[str, int], float] | None
    n: int
    n_groups: int
    labels: Labels

    @classmethod
    def of(cls, found: CorruptedAnswers, cache: PixelCache, decision: Decision, kinds: Sequence[str], seed: int) -> Curves:
        """Returns the figures of answers.

        Args:
            found: The answers.
            cache: Where the cases come from.
            decision: How logits become classes.
            kinds: Names of corruptions, as in the answers.
            seed: Seed of the bootstrap.
        """
        of_row = twins.groups(cache.manifest, cache.thumbnails)
        groups = [of_row[row] for row in found.rows]
        truth, names = cache.targets[found.rows], cache.manifest.labels.names
        plain, *others = [_answers(found.logits[:, c], decision) for c in range(found.logits.shape[1])]

        def figures(one: Answers) -> dict[str, Estimate]:
            return estimates(truth, one.y_prob, one.y_pred, groups, names, seed)[0]

        return cls(
            figures(plain),
            {
                condition: (figures(one), differences(truth, plain, one, groups, names, seed))
                for condition, one in zip(conditions(kinds), others, strict=True)
            },
            mean_accuracy=mean_interval(np.mean([one.y_pred == truth for one in others], axis=0), groups, seed),
            abstained=None
            if found.abstained is None
            else dict(zip([("", 0), *conditions(kinds)], found.abstained.mean(axis=0).tolist(), strict=True)),
            n=len(truth),
            n_groups=len(set(groups)),
            labels=cache.manifest.labels,
        )


def _answers(logits: Floats, decision: Decision) -> Answers:
    probabilities = decision.probabilities(logits)
    return Answers(probabilities, decision.predict(probabilities))
