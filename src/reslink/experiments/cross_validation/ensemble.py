"""The ensemble bundle of a cross-validation: the networks of all folds and seeds, calibrated as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from reslink.bundles.bundle import Bundle
from reslink.bundles.decision.calibration import OUT_OF_FOLD, FittedOn
from reslink.bundles.decision.decision import Decision
from reslink.bundles.scope import Scope
from reslink.datasets.case import HOLDOUT
from reslink.errors import UsageError
from reslink.evaluation.fitting import CalibrationData, fit_ood_detector
from reslink.experiments.cross_validation.folds import FoldPlan, OutOfFold
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.fitted_decision import criterion_of, fit_recipe_decision, fitted_without
from reslink.imaging.input_statistics import input_statistics
from reslink.networks.ensemble import member_state
from reslink.networks.external_config import ensemble_architecture
from reslink.training.data import TrainingData
from reslink.training.recipe.differences import differences

_OF_A_MEMBER = ("seed", "data.fold")
"""Settings in which the members of an ensemble may differ."""


def check_members(members: Sequence[Bundle]) -> None:
    """Checks that bundles can be the members of one ensemble.

    Raises:
        UsageError: If there are fewer than two, or their classes, preprocessing, architecture or recipes differ.
    """
    if len(members) < 2:
        raise UsageError(
            f"An ensemble of {len(members)} network was requested", "An ensemble has at least 2 networks", "Train more folds"
        )
    first = members[0]
    for index, member in enumerate(members[1:], start=1):
        pairs = (
            ("classes", first.labels.names, member.labels.names),
            ("preprocessing", first.preprocess, member.preprocess),
            ("architecture", first.architecture, member.architecture),
        )
        different = [name for name, a, b in pairs if a != b]
        changes = list(differences(_shared_recipe(first), _shared_recipe(member)))
        if different or changes:
            what = f"another {different[0]}" if different else f"another recipe ({'; '.join(changes[:3])})"
            raise UsageError(
                f"Network {index} of the ensemble has {what} than the first",
                "All networks of an ensemble have the same classes, preprocessing, architecture and recipe",
                "Train all folds with the same recipe, into a new folder",
            )


def _shared_recipe(bundle: Bundle) -> dict[str, Any]:
    recipe: dict[str, Any] = dict(bundle.provenance.get("recipe") or {})
    data = dict(recipe.get("data") or {})
    for key in _OF_A_MEMBER:
        (data if "." in key else recipe).pop(key.rpartition(".")[2], None)
    return recipe | {"data": data}


def member_weights(members: Sequence[Bundle]) -> dict[str, Any]:
    """Returns the weights of all members under their names in the ensemble."""
    return {
        name: tensor
        for index, member in enumerate(members)
        for name, tensor in member_state(index, member.network().state_dict()).items()
    }


def make_ensemble(
    members: Sequence[Bundle], data: TrainingData, decision: Decision, cross_validation: dict[str, Any]
) -> Bundle:
    """Returns the bundle of an ensemble, before it is saved.

    Args:
        members: The bundles of the folds and seeds.
        data: The data, with the split ``train`` for all cases that any member was trained on.
        decision: The decision of the ensemble.
        cross_validation: How the members were trained, for the record.

    Raises:
        UsageError: As :func:`check_members`.
    """
    check_members(members)
    first = members[0]
    origin = {**(first.provenance.get("data") or {}), "images": {"folds": data.counts()["train"]}}
    return Bundle(
        architecture=ensemble_architecture(first.architecture, len(members)),
        preprocess=first.preprocess,
        labels=first.labels,
        decision=decision,
        scope=data.scope(first.preprocess),
        training_images=data.training_images(),
        lineage=first.lineage,
        provenance={
            "data": origin,
            **{key: first.provenance[key] for key in ("versions", "license", "intended_use") if key in first.provenance},
            "recipe": _shared_recipe(first),
            "cross_validation": cross_validation
            | {"members": [{"seed": m.provenance.get("seed"), "weights_sha256": m.weights_sha256} for m in members]},
        },
        builder=first.builder,
    )


def calibrated_decision(experiment: Experiment, pooled: OutOfFold) -> tuple[Decision, list[str]]:
    """Fits the decision of an ensemble to the out-of-fold outputs of its members.

    No member was trained on the case that it is calibrated with. A single network is less accurate than the ensemble, so the
    probabilities and the prediction sets of the ensemble are rather too cautious than too certain. Cases that the ensemble
    refuses are left out. The out-of-distribution detector uses input statistics only: the features of the ensemble are only
    known for cases that members were trained on.

    Args:
        experiment: Data and recipe.
        pooled: The out-of-fold predictions.

    Returns:
        The decision, and a note on each component that could not be fitted.
    """
    labels, settings, cache = experiment.manifest.labels, experiment.recipe.decision, experiment.cache
    pixels = np.asarray(cache.pixels[pooled.rows])
    statistics = input_statistics(pixels)
    preprocess, stated = experiment.recipe.preprocess, [cache.stated[row] for row in pooled.rows]
    looks = statistics if preprocess.isolate_head else None
    scope = Scope.of_training(cache.stated, looks).with_brain_rule(preprocess)
    refusals = scope.refusals(stated, looks, scope.brain_shares(pixels))
    features = np.zeros((len(pooled.rows), 0))
    data = CalibrationData(pooled.logits, features, statistics, pooled.y_true, pooled.groups)
    cases = data.without_refused(scope, stated, refusals)
    left_out = [fitted_without(len(data) - len(cases))] if len(cases) < len(data) else []
    try:
        decision, notes = fit_recipe_decision(settings, cases, labels, ood=False)
    except UsageError as error:
        flip: dict[str, Any] = {"flip_average": settings.flip_average}
        plain = Decision.default(len(labels)).model_copy(update=flip)
        return plain, [*left_out, f"The ensemble is not calibrated: {error.given}"]
    detector, arrays = fit_ood_detector(cases, notes, ("statistics",))
    fitted_on = FittedOn(
        digest=experiment.data.digest,
        n_images=len(cases),
        n_groups=cases.n_groups,
        split=OUT_OF_FOLD,
        counts={labels.names[k]: n for k, n in sorted(Counter(cases.y_true.tolist()).items())},
        method="temperature",
        operating_point=criterion_of(settings, labels),
        leakage=experiment.recipe.data.allow_leakage,
    )
    return decision.model_copy(update={"ood": detector, "arrays": arrays, "fitted_on": fitted_on}), [*left_out, *notes]


def merged_data(data: TrainingData, plan: FoldPlan) -> TrainingData:
    """Returns the data with the split ``train`` for all folds, and ``holdout`` for the other cases."""
    return replace(data, splits=plan.merged({None: HOLDOUT}, "train"))
