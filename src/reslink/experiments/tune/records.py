"""The trials of a search as the journal holds them, and the choice of the best one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

STATES: Final = ("complete", "stopped", "diverged", "failed", "unfinished")
BASE, DIGEST, VALUES, FAILURE, DIVERGED, DUPLICATE_OF = "base", "digest", "values", "failure", "diverged", "duplicate_of"
FLOPS, MS, NETWORK, WEIGHTS, SAME_WEIGHTS = "flops", "ms_per_slice", "network", "weights_sha256", "same_weights_as"
"""Names of the attributes that a trial has in the journal."""


@dataclass(frozen=True)
class SearchTrial:
    """One trial.

    Attributes:
        number: Its number in the journal, from 0. Numbers of suggestions that were sampled again are missing.
        state: ``complete``; ``stopped`` by the pruner; ``diverged``: a loss or gradient was not finite; ``failed``; or
            ``unfinished``: it runs, or was interrupted.
        base: Whether it is the base recipe.
        values: Dotted recipe key to value, where it differs from the base recipe or was sampled with effect.
        scores: The AUROC of each trained fold, in the order of the folds.
        digest: The digest of its training settings.
        flops: Floating-point operations for one slice; None before the first fold.
        ms_per_slice: Measured milliseconds for one slice.
        failure: Why it diverged or failed.
        same_weights_as: The trial that has the same weights although its settings differ.
    """

    number: int
    state: str
    base: bool
    values: dict[str, Any]
    scores: tuple[float, ...]
    digest: str | None
    flops: int | None
    ms_per_slice: float | None
    failure: str | None
    same_weights_as: int | None

    @property
    def mean(self) -> float | None:
        """The mean AUROC over the trained folds."""
        return float(np.mean(self.scores)) if self.scores else None

    @property
    def standard_error(self) -> float | None:
        """The standard error of the mean over the folds."""
        n = len(self.scores)
        return float(np.std(self.scores, ddof=1)) / math.sqrt(n) if n > 1 else None

    @classmethod
    def read(cls, trial: FrozenTrial) -> SearchTrial:
        """Reads a trial of Optuna."""
        attributes, scores = trial.user_attrs, trial.intermediate_values
        return cls(
            number=trial.number,
            state=_state(trial),
            base=bool(attributes.get(BASE)),
            values=dict(attributes.get(VALUES) or {}),
            scores=tuple(scores[fold] for fold in sorted(scores)),
            digest=attributes.get(DIGEST),
            flops=attributes.get(FLOPS),
            ms_per_slice=attributes.get(MS),
            failure=attributes.get(FAILURE),
            same_weights_as=attributes.get(SAME_WEIGHTS),
        )


def _state(trial: FrozenTrial) -> str:
    if trial.user_attrs.get(DIVERGED):
        return "diverged"
    names = {"COMPLETE": "complete", "PRUNED": "stopped", "FAIL": "failed"}
    return names.get(trial.state.name, "unfinished")


def read_trials(study: Study) -> list[SearchTrial]:
    """Returns the trials of a search in the order of their numbers, without the suggestions that were sampled again."""
    return [SearchTrial.read(trial) for trial in counted_trials(study.get_trials(deepcopy=False))]


def counted_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Returns the trials that were begun: not the suggestions that were sampled again, or wait."""
    return [trial for trial in trials if DUPLICATE_OF not in trial.user_attrs and trial.state.name != "WAITING"]


def count_duplicates(study: Study) -> int:
    """Returns the number of suggestions that equal an earlier trial and were sampled again."""
    return sum(DUPLICATE_OF in trial.user_attrs for trial in study.get_trials(deepcopy=False))


@dataclass(frozen=True)
class Selection:
    """The choice among the complete trials.

    Attributes:
        highest: The trial with the highest mean.
        tied: The trials within one standard error of it, itself included.
        best: The cheapest of these.
    """

    highest: SearchTrial
    tied: tuple[SearchTrial, ...]
    best: SearchTrial


def select(trials: Sequence[SearchTrial]) -> Selection | None:
    """Selects the best trial; None if none is complete.

    A trial is tied with the one of the highest mean if the mean of their differences over the folds is at most one standard
    error of that mean. Among the tied trials, the one with the fewest FLOPs for a slice is the best; for equal FLOPs, the one
    with the higher mean. FLOPs are counted, so the choice is the same on every machine.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    if not complete:
        return None
    highest = max(complete, key=lambda trial: (trial.mean or 0.0, -trial.number))
    tied = tuple(trial for trial in complete if is_tied(highest.scores, trial.scores))
    return Selection(highest, tied, min(tied, key=lambda trial: (trial.flops or 0, -(trial.mean or 0.0), trial.number)))


def is_tied(highest: Sequence[float], other: Sequence[float]) -> bool:
    """Returns whether the mean of paired differences is at most one standard error of that mean.

    Args:
        highest: The scores of the trial with the highest mean, one per fold.
        other: The scores of another trial on the same folds.
    """
    differences = np.asarray(highest) - np.asarray(other)
    error = float(np.std(differences, ddof=1)) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return bool(differences.mean() <= error + 1e-12)
