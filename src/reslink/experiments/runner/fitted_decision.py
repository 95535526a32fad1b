"""The decision that the recipe of an experiment asks for, fitted to cases that the network was not trained on."""

from __future__ import annotations

from reslink.bundles.decision.decision import Decision
from reslink.errors import counted
from reslink.evaluation.fitting import CalibrationData, DecisionOptions, fit_decision
from reslink.labels import Labels
from reslink.metrics.operating_point import OperatingPoint
from reslink.training.recipe.schema import DecisionSettings


def criterion_of(settings: DecisionSettings, labels: Labels) -> str:
    """Returns the criterion by which the recipe chooses the threshold: ``default`` if it states a number."""
    return settings.threshold if labels.binary and isinstance(settings.threshold, str) else "default"


def fit_recipe_decision(
    settings: DecisionSettings, cases: CalibrationData, labels: Labels, *, ood: bool = True
) -> tuple[Decision, list[str]]:
    """Fits temperature, threshold, prediction sets and out-of-distribution detector, as ``reslink calibrate`` does.

    Args:
        settings: The section ``decision`` of the recipe, which sets the threshold or its criterion.
        cases: The cases.
        labels: The classes.
        ood: Whether to fit the detector.

    Returns:
        The decision, and a note on each component that could not be fitted.

    Raises:
        UsageError: If there are too few groups, or a class is missing.
    """
    point = OperatingPoint.parse(criterion_of(settings, labels))
    options = DecisionOptions(operating_point=point, ood=ood, flip_average=settings.flip_average)
    decision, notes = fit_decision(cases, options, labels)
    if labels.binary and isinstance(settings.threshold, float):
        decision = decision.model_copy(update={"threshold": settings.threshold, "threshold_source": "set by the recipe"})
    return decision, notes


def fitted_without(refused: int) -> str:
    """Returns the note on images that the model refuses, which are left out of the fit."""
    return f"The decision is fitted without {counted(refused, 'image')} that the model refuses."
