"""Operating points: the probability from which on a case is called positive, chosen on labelled cases."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_curve

from reslink.errors import InputError, UsageError, nearest

Floats: TypeAlias = NDArray[np.float64]
Criterion: TypeAlias = Literal["default", "youden", "accuracy", "sensitivity", "specificity", "cost"]

_SLACK = 1e-12
_ALLOWED = "An operating point is default, youden, sensitivity=0.95, specificity=0.95 or cost=FN:FP such as cost=5:1"


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold is to reach.

    Attributes:
        criterion: ``default`` (0.5), ``youden`` (largest sensitivity + specificity), ``accuracy`` (most right answers),
            ``sensitivity`` or ``specificity`` (at least ``target``, and then as much as possible of the other), ``cost``
            (least cost of false negatives and false positives at the class frequencies of the cases).
        target: 0 to 1, with ``sensitivity`` and ``specificity``.
        costs: Cost of a false negative and of a false positive, above 0, with ``cost``.
    """

    criterion: Criterion
    target: float | None = None
    costs: tuple[float, float] | None = None

    @classmethod
    def parse(cls, text: str) -> OperatingPoint:
        """Reads an operating point as it is written on the command line.

        Raises:
            UsageError: If it is none, with the nearest.
        """
        name, _, value = text.strip().lower().partition("=")
        if name in ("default", "youden", "accuracy") and not value:
            return cls(name)  # type: ignore[arg-type]
        if name in ("sensitivity", "specificity") and _is_number(value) and 0 < float(value) <= 1:
            return cls(name, target=float(value))  # type: ignore[arg-type]
        costs = value.split(":")
        if name == "cost" and len(costs) == 2 and all(_is_number(cost) and float(cost) > 0 for cost in costs):
            return cls("cost", costs=(float(costs[0]), float(costs[1])))
        known = ["default", "youden", "accuracy", "sensitivity=0.95", "specificity=0.95", "cost=5:1"]
        raise UsageError(f"The operating point is {text!r}", _ALLOWED, nearest(text, known))

    def __str__(self) -> str:
        if self.costs is not None:
            return f"least cost, a false negative costing {self.costs[0]:g} and a false positive {self.costs[1]:g}"
        if self.target is not None:
            return f"{self.criterion} of at least {self.target:g}"
        return {"youden": "Youden index"}.get(self.criterion, self.criterion)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d*)?|\.\d+", text) is not None


def threshold(point: OperatingPoint, y_true: ArrayLike, y_prob: ArrayLike) -> float:
    """Returns the threshold that reaches an operating point on labelled cases.

    It lies in the middle of the gap below the lowest probability that is called positive, so that a case with a
    probability that was seen is not decided by rounding. Cases with a probability of 1 are positive at every threshold.

    Args:
        point: What is to be reached.
        y_true: (n,) 0 or 1, both present.
        y_prob: (n,) probability of 1, 0 to 1.

    Returns:
        0 to 1; a case is called positive from it on.

    Raises:
        InputError: If one of the two classes is missing.
        UsageError: If no threshold reaches the target.
    """
    if point.criterion == "default":
        return 0.5
    truth, scores = np.asarray(y_true, dtype=np.int64), np.asarray(y_prob, dtype=np.float64)
    if len(np.unique(truth)) < 2:
        raise InputError(
            "All cases are of one class", "An operating point is chosen on cases of both classes", "Add cases of the other"
        )
    fpr, tpr, cuts = roc_curve(truth, scores, drop_intermediate=False)
    if scores.max() >= 1:  # the first cut calls no case positive, and there is no such threshold
        fpr, tpr, cuts = fpr[1:], tpr[1:], cuts[1:]
    found = _below(float(min(cuts[_best(point, fpr, tpr, float(truth.mean()))], 1.0)), scores)
    _check(point, truth, scores >= found)
    return found


def _check(point: OperatingPoint, truth: NDArray[np.int64], called: NDArray[np.bool_]) -> None:
    """Refuses a target that the calls do not reach."""
    if point.target is None:
        return
    wanted = truth == (point.criterion == "sensitivity")
    reached = float((called == (truth == 1))[wanted].mean())
    if reached < point.target - _SLACK:
        raise UsageError(
            f"The operating point is a {point}, and no threshold reaches it on these cases",
            f"The highest {point.criterion} that can be reached is {reached:.4g}: {int((called & wanted).sum())} of "
            f"{int(wanted.sum())} negative cases have a probability of 1",
            "Ask for less, or for another operating point such as youden",
        )


def _best(point: OperatingPoint, fpr: Floats, tpr: Floats, prevalence: float) -> int:
    """Returns the index of the best cut; cuts fall, so that the first of equals calls the fewest cases positive."""
    if point.criterion == "sensitivity":
        return int(np.argmax(tpr >= (point.target or 0) - _SLACK))
    if point.criterion == "specificity":
        allowed = np.flatnonzero(1 - fpr >= (point.target or 0) - _SLACK)
        return int(allowed[np.argmax(tpr[allowed])]) if len(allowed) else 0
    weight = {"accuracy": prevalence}.get(point.criterion, 0.5)
    if point.costs is not None:
        missed, false_alarm = prevalence * point.costs[0], (1 - prevalence) * point.costs[1]
        weight = missed / (missed + false_alarm)
    return int(np.argmax(weight * tpr - (1 - weight) * fpr))


def _below(cut: float, scores: Floats) -> float:
    values = np.unique(np.concatenate([[0.0, 1.0], scores]))
    below = values[values < cut]
    middle = (cut + float(below[-1])) / 2 if len(below) else cut
    return middle if not len(below) or middle > below[-1] else cut  # between neighbouring numbers there is none
