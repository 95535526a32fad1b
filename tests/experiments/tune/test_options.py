"""Options of a search that are refused before images are read."""

from __future__ import annotations

from typing import Any

import pytest

from reslink.errors import UsageError
from reslink.experiments.tune.options import TuneOptions, check_options
from reslink.experiments.tune.space import load_space
from reslink.training.recipe.recipe import load_recipe

RECIPE = load_recipe()
SPACE = load_space(None, "quick", RECIPE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, r"The number of trials is 0. It is 1 or higher.*Use --trials 20"),
        ({}, r"Neither --trials nor --minutes was given"),
        ({"trials": 5, "minutes": 5}, r"--trials and --minutes were both given"),
        ({"minutes": 0}, r"The number of minutes is 0. It is above 0"),
        ({"minutes": float("nan")}, r"The number of minutes is nan"),
        ({"trials": 5, "folds": 2}, r"The number of folds is 2. It is 3 to 20"),
        ({"trials": 5, "holdout": 0.0}, r"The hold-out is 0.0. Its share is above 0 and at most 0.5"),
        ({"trials": 5, "holdout": float("nan")}, r"The hold-out is nan"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_options(TuneOptions(SPACE, **options), RECIPE)


def test_a_recipe_with_folds_is_refused() -> None:
    with pytest.raises(UsageError, match=r"The recipe has data.folds 5. A search makes the folds.*use --folds"):
        check_options(TuneOptions(SPACE, trials=5), load_recipe(None, ["data.folds=5"]))
