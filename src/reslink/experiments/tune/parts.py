"""The parts of the data in a search: a hold-out for the last evaluation, and folds for the trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reslink.datasets import splits
from reslink.datasets.case import HOLDOUT
from reslink.datasets.leakage import check_group_leakage
from reslink.datasets.split_table import drop_given_split
from reslink.errors import UsageError
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.trial import Trial
from reslink.experiments.tune.space import with_settings
from reslink.training.data import assign_splits
from reslink.training.recipe.recipe import Recipe


@dataclass(frozen=True)
class Parts:
    """The parts of the data.

    Attributes:
        settings: The recipe keys of the section ``data`` in the run of each fold.
        folds: The split of each readable case in the run of each fold: train, validation, test, holdout or unused.
        final: The split of each readable case in the last training: the hold-out is the test split.
        given: Whether the hold-out is the test split that the data states.
    """

    settings: tuple[dict[str, Any], ...]
    folds: tuple[tuple[str, ...], ...]
    final: tuple[str, ...]
    given: bool

    def trial(self, number: int, fold: int, recipe: Recipe) -> Trial:
        """Returns the training of one fold of a trial."""
        run_recipe = with_settings(recipe, self.settings[fold])
        return Trial(f"trial {number}, fold {fold + 1}", recipe.seed, run_recipe, self.folds[fold])

    def count(self, split: str) -> int:
        """Returns the number of cases of a split in the last training."""
        return self.final.count(split)


def make_parts(experiment: Experiment, folds: int, holdout: float) -> Parts:
    """Assigns each readable case to the hold-out or to a fold, and makes the split of each run from that.

    Whole groups are assigned. In the run of a fold, the fold is the test split and the next one the validation split, as with
    ``data.folds``. A test split that the data states is the hold-out.

    Args:
        experiment: Data, groups and recipe.
        folds: Number of folds.
        holdout: Share of the hold-out; not used if the data states a test split.

    Raises:
        UsageError: If a class has too few groups, or is missing from a part.
        CheckFailedError: If a patient or near duplicates are in more than one part, unless ``data.allow_leakage`` is set.
    """
    cases = experiment.cache.manifest.cases
    given = any(case.split == "test" for case in cases)
    rows = [i for i, case in enumerate(cases) if not (given and case.split == "test")]
    by_fold = [_fold_splits(experiment, rows, _fold_settings(folds, fold, 0.0 if given else holdout)) for fold in range(folds)]
    final = _final_splits(experiment, [i for i in rows if by_fold[0][i] != HOLDOUT])
    if not experiment.recipe.data.allow_leakage:
        for assigned in (*by_fold, final):
            check_group_leakage(experiment.cache.manifest, experiment.data.groups, assigned)
    parts = Parts(
        settings=tuple(_fold_settings(folds, fold, 0.0 if given else holdout) for fold in range(folds)),
        folds=tuple(experiment.usable(assigned) for assigned in by_fold),
        final=experiment.usable(final),
        given=given,
    )
    _check_classes(experiment, parts)
    return parts


def _fold_settings(folds: int, fold: int, holdout: float) -> dict[str, Any]:
    return {"data.folds": folds, "data.fold": fold, "data.holdout": holdout}


def _fold_splits(experiment: Experiment, rows: Sequence[int], settings: dict[str, Any]) -> list[str]:
    """Returns the split of each case in a fold; cases outside ``rows`` are the hold-out."""
    recipe = experiment.make_recipe(experiment.recipe.seed, settings)
    manifest = experiment.cache.manifest.subset(rows)
    assigned = [HOLDOUT] * len(experiment.cache.manifest)
    for i, split in zip(rows, assign_splits(manifest, [experiment.split_groups[i] for i in rows], recipe), strict=True):
        assigned[i] = split
    return assigned


def _final_splits(experiment: Experiment, rows: Sequence[int]) -> list[str]:
    """Returns the split of each case in the last training: training and validation from ``rows``, the others are tested."""
    data = experiment.recipe.data
    train, validation, _ = data.fractions
    share = train / (train + validation)
    seed = (experiment.recipe.seed if data.split_seed is None else data.split_seed) % 2**32
    manifest = drop_given_split(experiment.cache.manifest.subset(rows))
    groups = [experiment.split_groups[i] for i in rows]
    assigned = ["test"] * len(experiment.cache.manifest)
    for i, split in zip(rows, splits.assign_splits(manifest, groups, (share, 1 - share, 0.0), seed), strict=True):
        assigned[i] = split
    return assigned


def _check_classes(experiment: Experiment, parts: Parts) -> None:
    """Refuses parts without a class: their AUROC is undefined."""
    labels = experiment.manifest.labels
    runs = {f"fold {fold + 1}": assigned for fold, assigned in enumerate(parts.folds)} | {"the hold-out": parts.final}
    for name, assigned in runs.items():
        counts = Counter(zip(assigned, experiment.cache.targets.tolist(), strict=True))
        for k, label in enumerate(labels.names):
            if not counts["test", k]:
                raise UsageError(
                    f"There is no image of {label!r} in {name}",
                    "The AUROC needs each class in each fold and in the hold-out",
                    f"Use fewer folds, a larger hold-out, or add cases of {label!r}",
                )
