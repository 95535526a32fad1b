"""Distillation: a single network that is trained on the out-of-fold answers of the networks of all folds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reslink.bundles.bundle import Bundle
from reslink.experiments.cross_validation.folds import FoldPlan, OutOfFold
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.trial import Trial
from reslink.training.data import TrainingData

SOFT_SHARE = 0.5
"""Share of the soft target in the target of a case; the rest is its label."""

_VALIDATION_FOLD = 0


def distillation_trial(experiment: Experiment, plan: FoldPlan, pooled: OutOfFold) -> Trial:
    """Returns the trial of the distilled network (Hinton, Vinyals and Dean 2015, arXiv 1503.02531, with temperature 1).

    The target of a training case is the mean of its label and of its out-of-fold probabilities, so that no target comes from a
    network that was trained on the case. The recipe is that of the folds. It is trained on all folds but one, which selects the
    epoch; the hold-out is its test split.

    Args:
        experiment: Data, recipe and seeds; the first seed is used.
        plan: The folds.
        pooled: The out-of-fold predictions.
    """
    targets = np.eye(len(experiment.manifest.labels))[experiment.cache.targets]
    targets[pooled.rows] = (1 - SOFT_SHARE) * targets[pooled.rows] + SOFT_SHARE * pooled.mean
    seed = experiment.seeds[0]
    split_seed = seed if experiment.recipe.data.split_seed is None else experiment.recipe.data.split_seed
    recipe = experiment.make_recipe(seed, {"data.fold": _VALIDATION_FOLD, "data.split_seed": split_seed})
    splits = experiment.usable(plan.merged({_VALIDATION_FOLD: "validation", None: "test"}, "train"))
    return Trial("distilled", seed, recipe, splits, soft_targets=tuple(tuple(row) for row in targets.tolist()))


def distilled_bundle(bundle: Bundle, data: TrainingData) -> Bundle:
    """Returns the bundle of the distilled network, before it is saved.

    Args:
        bundle: The bundle of the trial.
        data: The data, with the split ``train`` for all folds. The networks behind the soft targets were trained on all of
            them, so all of them count as training images.
    """
    provenance = {key: value for key, value in bundle.provenance.items() if key != "validation"}
    note = f"targets: {1 - SOFT_SHARE:g} label and {SOFT_SHARE:g} out-of-fold probabilities of the networks of all folds"
    return replace(
        bundle,
        training_images=data.training_images(),
        scope=data.scope(bundle.preprocess),
        provenance=provenance | {"distilled": note},
        folder=None,
    )
