"""Operating points: the threshold above which a case is positive, chosen on labeled cases."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reslink.errors import InputError, UsageError, suggest

Floats: TypeAlias = NDArray[np.float64]
Criterion: TypeAlias = Literal["default", "youden", "accuracy", "sensitivity", "specificity", "cost"]

_TOLERANCE = 1e-12
_ALLOWED = "Allowed are default, youden, accuracy, sensitivity=0.95, specificity=0.95 and cost=FN:FP such as cost=5:1"


@dataclass(frozen=True)
class OperatingPoint:
    """The criterion by which a threshold is chosen.

    Attributes:
        criterion: ``default`` (0.5), ``youden`` (largest sensitivity + specificity), ``accuracy`` (highest accuracy),
            ``sensitivity`` or ``specificity`` (at least ``target``, with the highest possible value of the other), ``cost``
            (lowest total cost of false negatives and false positives at the class frequencies of the cases).
        target: 0 to 1; for ``sensitivity`` and ``specificity``.
        costs: Costs of a false negative and of a false positive, above 0; for ``cost``.
    """

    criterion: Criterion
    target: float | None = None
    costs: tuple[float, float] | None = None

    @classmethod
    def parse(cls, text: str) -> OperatingPoint:
        """Parses an operating point as written on the command line.

        Raises:
            UsageError: If it is unknown; the message suggests the nearest one.
        """
        name, _, value = text.strip().lower().partition("=")
        if name in ("default", "youden", "accuracy") and not value:
            return cls(name)  # type: ignore[arg-type]
        if name in ("sensitivity", "specificity") and _is_number(value) and 0 < float(value) <= 1:
            return cls(name, target=float(value))  # type: ignore[arg-type]
        costs = value.split(":")
        if name == "cost" and len(costs) == 2 and all(_is_number(cost) and float(cost) > 0 for cost in costs):
            return cls("cost", costs=(float(costs[0]), float(costs[1])))
        examples = ["default", "youden", "accuracy", "sensitivity=0.95", "specificity=0.95", "cost=5:1"]
        raise UsageError(f"The operating point is {text!r}", _ALLOWED, suggest(text, examples))

    def __str__(self) -> str:
        if self.costs is not None:
            return f"lowest cost, {self.costs[0]:g} for a false negative and {self.costs[1]:g} for a false positive"
        if self.target is not None:
            return f"{self.criterion} of at least {self.target:g}"
        return {"youden": "Youden index"}.get(self.criterion, self.criterion)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d*)?|\.\d+", text) is not None


def choose_threshold(point: OperatingPoint, y_true: ArrayLike, y_prob: ArrayLike) -> float:
    """Returns the threshold of an operating point on labeled cases.

    It is the midpoint of the gap below the lowest positive probability, so rounding does not decide any of these cases.
    Cases with a probability of 1 are positive at every threshold.

    Args:
        point: The criterion.
        y_true: (n,) 0 or 1, both present.
        y_prob: (n,) probability of 1, 0 to 1.

    Returns:
        0 to 1; a case is positive if its probability is at least the threshold.

    Raises:
        InputError: If one of the two classes is missing.
        UsageError: If no threshold reaches the target.
    """
    if point.criterion == "default":
        return 0.5
    truth, scores = np.asarray(y_true, dtype=np.int64), np.asarray(y_prob, dtype=np.float64)
    if len(np.unique(truth)) < 2:
        raise InputError(
            "All cases are of one class", "An operating point needs cases of both classes", "Add cases of the other class"
        )
    from sklearn.metrics import roc_curve  # slow to import; a misspelled operating point is reported at once

    fpr, tpr, cuts = roc_curve(truth, scores, drop_intermediate=False)
    if scores.max() >= 1:  # the first cut is above 1, which is not a valid threshold
        fpr, tpr, cuts = fpr[1:], tpr[1:], cuts[1:]
    best = _best_cut(point, fpr, tpr, float(truth.mean()))
    threshold = _midpoint_below(float(min(cuts[best], 1.0)), scores)
    _check_target(point, truth, scores >= threshold)
    return threshold


def _check_target(point: OperatingPoint, truth: NDArray[np.int64], predicted: NDArray[np.bool_]) -> None:
    """Raises an error if the predictions miss the target."""
    if point.target is None:
        return
    in_class = truth == (point.criterion == "sensitivity")
    reached = float((predicted == (truth == 1))[in_class].mean())
    if reached < point.target - _TOLERANCE:
        raise UsageError(
            f"No threshold reaches a {point} on these cases",
            f"The highest possible {point.criterion} is {reached:.4g}: {int((predicted & in_class).sum())} of "
            f"{int(in_class.sum())} negative cases have a probability of 1",
            "Choose a lower target, or another operating point such as youden",
        )


def _best_cut(point: OperatingPoint, fpr: Floats, tpr: Floats, prevalence: float) -> int:
    """Returns the index of the best cut; cuts decrease, so the first of several has the fewest positive predictions."""
    if point.criterion == "sensitivity":
        return int(np.argmax(tpr >= (point.target or 0) - _TOLERANCE))
    if point.criterion == "specificity":
        allowed = np.flatnonzero(1 - fpr >= (point.target or 0) - _TOLERANCE)
        return int(allowed[np.argmax(tpr[allowed])]) if len(allowed) else 0
    weight = prevalence if point.criterion == "accuracy" else 0.5
    if point.costs is not None:
        false_negative, false_positive = prevalence * point.costs[0], (1 - prevalence) * point.costs[1]
        weight = false_negative / (false_negative + false_positive)
    return int(np.argmax(weight * tpr - (1 - weight) * fpr))


def _midpoint_below(cut: float, scores: Floats) -> float:
    values = np.unique(np.concatenate([[0.0, 1.0], scores]))
    below = values[values < cut]
    midpoint = (cut + float(below[-1])) / 2 if len(below) else cut
    return midpoint if not len(below) or midpoint > below[-1] else cut  # adjacent floats have no midpoint
