"""The parts of an evaluation that look at one class at a time: calibration, decision curve, likelihood ratios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.labels import Labels
from reslink.metrics.calibration_estimates import calibration_estimates
from reslink.metrics.decision_curve import decision_curve
from reslink.metrics.likelihood_ratios import likelihood_ratios

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


def statistics(
    y_true: Ints, probabilities: Floats, y_pred: Ints, groups: Sequence[str], labels: Labels, seed: int = 0
) -> dict[str, Any]:
    """Returns calibration, decision curve and likelihood ratios by class, with 95 % intervals over groups.

    With two classes they are those of the positive one; with more, of each class against the rest.

    Args:
        y_true: (n,) class indices.
        probabilities: (n, K).
        y_pred: (n,) predicted class indices.
        groups: (n,) the patient or twin group of each case.
        labels: The K classes.
        seed: Seed of the bootstrap.

    Returns:
        ``calibration`` (see :func:`reslink.metrics.calibration_estimates.calibration_estimates`), ``decision_curve``
        (``prevalence`` and ``points``) and ``likelihood_ratios``, each by class name.

    Raises:
        InputError: If there is no case, or the arrays do not fit each other.
    """
    found: dict[str, Any] = {"calibration": {}, "decision_curve": {}, "likelihood_ratios": {}}
    for k, name in [(1, labels.names[1])] if labels.binary else list(enumerate(labels.names)):
        true, called, chance = y_true == k, y_pred == k, np.clip(probabilities[:, k], 0, 1)
        found["calibration"][name] = calibration_estimates(true, chance, groups, seed)
        points = decision_curve(true, chance, groups, seed=seed)
        found["decision_curve"][name] = {"prevalence": float(true.mean()), "points": points}
        ratios = likelihood_ratios(true, called, groups)
        found["likelihood_ratios"][name] = {key: value.as_dict() for key, value in ratios.items()}
    return found
