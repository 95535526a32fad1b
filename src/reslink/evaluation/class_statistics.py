"""Statistics of one class at a time: calibration, decision curve, likelihood ratios."""

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


def class_statistics(
    y_true: Ints, probabilities: Floats, y_pred: Ints, groups: Sequence[str], labels: Labels, seed: int = 0
) -> dict[str, Any]:
    """Returns calibration, decision curve and likelihood ratios by class, with 95 % intervals over groups.

    With two classes, only the positive class is included; with more, each class against the others.

    Args:
        y_true: (n,) class indices.
        probabilities: (n, K).
        y_pred: (n,) predicted class indices.
        groups: (n,) patient or duplicate group of each case.
        labels: The K classes.
        seed: Seed of the bootstrap.

    Returns:
        ``calibration`` (see :func:`reslink.metrics.calibration_estimates.calibration_estimates`), ``decision_curve``
        (``prevalence`` and ``points``) and ``likelihood_ratios``, each by class name.

    Raises:
        InputError: If there is no case, or the array lengths differ.
    """
    result: dict[str, Any] = {"calibration": {}, "decision_curve": {}, "likelihood_ratios": {}}
    for k, name in [(1, labels.names[1])] if labels.binary else list(enumerate(labels.names)):
        is_class, is_predicted, probability = y_true == k, y_pred == k, np.clip(probabilities[:, k], 0, 1)
        result["calibration"][name] = calibration_estimates(is_class, probability, groups, seed)
        points = decision_curve(is_class, probability, groups, seed=seed)
        result["decision_curve"][name] = {"prevalence": float(is_class.mean()), "points": points}
        ratios = likelihood_ratios(is_class, is_predicted, groups)
        result["likelihood_ratios"][name] = {key: value.as_dict() for key, value in ratios.items()}
    return result
