"""The trials of a cross-validation, one per fold and seed, and their pooled out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.case import HOLDOUT
from reslink.datasets.leakage import check_group_leakage
from reslink.errors import UsageError
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.results import TrialResult
from reslink.experiments.runner.trial import Trial

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

DEFAULT_FOLDS = 5
DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class FoldPlan:
    """The folds of a data set, the same for all seeds.

    Attributes:
        folds: Number of folds.
        holdout: Share of the hold-out.
        assigned: For each fold, the split of each readable case.
        splits: The same, but ``unused`` where a case would be evaluated and cannot be (:meth:`Experiment.usable`). In the other
            folds it is a training case.
    """

    folds: int
    holdout: float
    assigned: tuple[tuple[str, ...], ...]
    splits: tuple[tuple[str, ...], ...]

    @property
    def fold_of_case(self) -> list[int | None]:
        """The fold of each case: the one whose test split it is in; None for the hold-out."""
        return [next((k for k, split in enumerate(row) if split == "test"), None) for row in zip(*self.assigned, strict=True)]

    @property
    def holdout_rows(self) -> Ints:
        """Rows of the hold-out, of the cases that can be evaluated."""
        return np.flatnonzero(np.array(self.splits[0]) == HOLDOUT)

    @property
    def fold_rows(self) -> Ints:
        """Rows of the cases that are evaluated in a fold."""
        return np.flatnonzero((np.array(self.splits) == "test").any(axis=0))

    def merged(self, names: dict[int | None, str], other: str) -> tuple[str, ...]:
        """Returns a split of each case by its fold: a name, or another one for the folds that are not named."""
        return tuple(names.get(fold, other) for fold in self.fold_of_case)


def plan_folds(experiment: Experiment) -> tuple[FoldPlan, list[Trial]]:
    """Assigns the folds and returns one trial per fold and seed.

    All seeds have the same folds: those of ``data.split_seed``, or of the first seed.

    Args:
        experiment: Data, recipe with ``data.folds``, and seeds.

    Raises:
        UsageError: If the recipe has no folds, or a class has too few groups for them.
        CheckFailedError: If a patient or near duplicates are in more than one fold, unless ``data.allow_leakage`` is set.
    """
    settings = experiment.recipe.data
    if settings.folds is None:
        raise UsageError("The recipe has no folds", "Cross-validation needs at least 3 folds", "Set data.folds to 5")
    split_seed = experiment.seeds[0] if settings.split_seed is None else settings.split_seed
    assigned: list[tuple[str, ...]] = []
    splits: list[tuple[str, ...]] = []
    trials: list[Trial] = []
    for fold in range(settings.folds):
        overrides: dict[str, Any] = {"data.fold": fold, "data.split_seed": split_seed}
        assigned.append(experiment.assign(experiment.make_recipe(experiment.seeds[0], overrides)))
        splits.append(experiment.usable(assigned[-1]))
        if not settings.allow_leakage:
            check_group_leakage(experiment.cache.manifest, experiment.data.groups, assigned[-1], "folds")
        for seed in experiment.seeds:
            trials.append(Trial(f"fold {fold}", seed, experiment.make_recipe(seed, overrides), splits[-1]))
    return FoldPlan(settings.folds, settings.holdout, tuple(assigned), tuple(splits)), trials


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """The predictions for n cases by networks that were not trained on them.

    Attributes:
        rows: (n,) rows of the cases in the cache.
        fold: (n,) fold of each case.
        groups: (n,) patient or duplicate group.
        y_true: (n,) class indices.
        y_prob: (S, n, K) probabilities of the network of each seed.
        y_pred: (S, n) predicted class indices.
    """

    rows: Ints
    fold: Ints
    groups: list[str]
    y_true: Ints
    y_prob: Floats
    y_pred: Ints

    @property
    def mean(self) -> Floats:
        """(n, K) probabilities, averaged over the seeds."""
        return np.asarray(self.y_prob.mean(axis=0))

    @property
    def logits(self) -> Floats:
        """(n, K) log-probabilities."""
        return np.asarray(np.log(np.clip(self.mean, 1e-30, 1)))

    def of_seed(self, index: int) -> OutOfFold:
        """Returns the predictions of one seed."""
        return replace(self, y_prob=self.y_prob[index : index + 1], y_pred=self.y_pred[index : index + 1])

    def subset(self, indices: Ints) -> OutOfFold:
        """Returns the predictions of some of the cases, by their position in ``rows``."""
        return replace(
            self,
            rows=self.rows[indices],
            fold=self.fold[indices],
            groups=[self.groups[i] for i in indices],
            y_true=self.y_true[indices],
            y_prob=self.y_prob[:, indices],
            y_pred=self.y_pred[:, indices],
        )

    def predicted(self, threshold: float | str) -> Ints:
        """Returns the predicted class of each case; with several seeds, from the averaged probabilities.

        Args:
            threshold: The setting ``decision.threshold``; a criterion counts as 0.5 here.
        """
        if len(self.y_pred) == 1:
            return np.asarray(self.y_pred[0])
        if self.y_prob.shape[2] != 2:
            return np.asarray(self.mean.argmax(axis=1))
        limit = threshold if isinstance(threshold, float) else DEFAULT_THRESHOLD
        return np.asarray(self.mean[:, 1] >= limit, np.int64)


def pool(plan: FoldPlan, results: Sequence[TrialResult], experiment: Experiment) -> OutOfFold | None:
    """Returns the pooled predictions of the seeds that have a result for each fold; None if there is no such seed."""
    names = [case.name for case in experiment.cache.manifest.cases]
    rows, row_of = plan.fold_rows, {name: row for row, name in enumerate(names)}
    y_prob, y_pred = [], []
    for seed in experiment.seeds:
        runs = [result for result in results if result.trial.seed == seed and result.failure is None]
        if len(runs) < plan.folds:
            continue
        prob = np.full((len(names), len(experiment.manifest.labels)), np.nan)
        pred = np.full(len(names), -1, np.int64)
        for run in runs:
            own = [row_of[name] for name in run.predictions.names]
            prob[own], pred[own] = run.predictions.y_prob, run.predictions.y_pred
        y_prob.append(prob[rows])
        y_pred.append(pred[rows])
    if not y_prob:
        return None
    folds = plan.fold_of_case
    return OutOfFold(
        rows=rows,
        fold=np.array([folds[row] for row in rows], np.int64),
        groups=[experiment.data.groups[row] for row in rows],
        y_true=experiment.cache.targets[rows],
        y_prob=np.stack(y_prob),
        y_pred=np.stack(y_pred),
    )
