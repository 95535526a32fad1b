"""The options of a search, checked before images are read and torch is imported."""

from __future__ import annotations

import math
from dataclasses import dataclass

from reslink.errors import UsageError
from reslink.experiments.tune.space import Space
from reslink.training.recipe.recipe import Recipe

MAX_FOLDS = 20


@dataclass(frozen=True)
class TuneOptions:
    """How a search is made.

    Attributes:
        space: The space.
        trials: Number of trials, those of earlier calls included; None if ``minutes`` is given.
        minutes: Minutes after which no further trial begins; None if ``trials`` is given.
        folds: Number of folds of each trial.
        holdout: Share of the hold-out; not used if the data states a test split.
    """

    space: Space
    trials: int | None = None
    minutes: float | None = None
    folds: int = 5
    holdout: float = 0.2


def check_options(options: TuneOptions, recipe: Recipe) -> None:
    """Checks the options of a search before images are read.

    Raises:
        UsageError: If one is out of range, both or neither of ``trials`` and ``minutes`` are given, or the recipe has folds.
    """
    trials, minutes = options.trials, options.minutes
    if (trials is None) == (minutes is None):
        raise UsageError(
            "--trials and --minutes were both given" if minutes is not None else "Neither --trials nor --minutes was given",
            "One of them says how long the search goes on",
            "Use --trials 20, or --minutes 60",
        )
    if trials is not None and trials < 1:
        raise UsageError(
            f"The number of trials is {trials}", "It is 1 or higher; the first one is the base recipe", "Use --trials 20"
        )
    if minutes is not None and not (math.isfinite(minutes) and minutes > 0):
        raise UsageError(f"The number of minutes is {minutes}", "It is above 0", "Use --minutes 60")
    if not 3 <= options.folds <= MAX_FOLDS:
        raise UsageError(
            f"The number of folds is {options.folds}",
            f"It is 3 to {MAX_FOLDS}: a fold is tested, one is for validation, and the others are trained on",
            "Use --folds 5",
        )
    if not 0 < options.holdout <= 0.5:
        raise UsageError(f"The hold-out is {options.holdout}", "Its share is above 0 and at most 0.5", "Use --holdout 0.2")
    if recipe.data.folds is not None:
        raise UsageError(
            f"The recipe has data.folds {recipe.data.folds}",
            "A search makes the folds of its trials itself",
            "Remove data.folds from the recipe, and use --folds",
        )
