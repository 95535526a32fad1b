"""One answer for a series of slices, by a rule that can be stated in one sentence, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.decision import Decision
from reslink.errors import InputError, UsageError
from reslink.inference.classifier import Prediction
from reslink.metrics.intervals import MIN_GROUPS, Estimate, GroupBootstrap, bootstrap_interval, few_groups, without_interval

TOP: Final = 3
"""Slices that make the answer."""

NORMAL_NAMES: Final = ("healthy", "normal", "no tumor", "no tumour", "no_tumor", "no_tumour", "notumor", "negative")
"""Names, whatever their case, of the class that speaks of nothing found, where there are more than two classes."""

HEAD_SHARE: Final = 0.5
"""A slice is judged where its head is at least this large, as a part of the series' largest."""

MOST_SLICES: Final = 64
"""Of more slices than this, evenly spaced ones are judged."""

LONGEST_BLOCK: Final = 3
MOST_REFUSED: Final = 0.5
"""A larger share of slices that the bundle abstains from makes the answer an abstention."""

COVERS: Final = (
    "The interval covers which slices of this series were looked at: neighbouring slices were drawn together, with "
    "replacement. It does not cover errors of the model, of its calibration or of the labels it learned from, nor another "
    "scan of the same head; its upper end cannot pass the highest slice."
)
"""What the interval of an answer covers, in words for those who read it."""


@dataclass(frozen=True)
class StudyAnswer:
    """What the slices of a series say together.

    Attributes:
        label: The predicted class.
        probability: The probability of ``label`` by the rule, 0 to 1.
        probabilities: By class, in the order of the labels; their sum is 1.
        about: The class that ``score`` and the interval speak of: the positive one of two, ``label`` of more.
        score: The probability of ``about`` by the rule.
        ci_low: Lower end of the 95 % interval of ``score``; None where there is none.
        ci_high: Upper end; None where there is none.
        interval: How the interval was made, or why there is none.
        rule: How the slices were put together, one sentence.
        slices: Slices that were judged.
        used: Positions, in the predictions given, of the slices that make the answer; the most suspicious first.
        abstain: Whether the bundle would rather not answer; None where it has neither sets nor a gate.
        reasons: Why it abstains; empty where it does not or cannot.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    about: str
    score: float
    ci_low: float | None
    ci_high: float | None
    interval: str
    rule: str
    slices: int
    used: tuple[int, ...]
    abstain: bool | None
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        return vars(self) | {"used": list(self.used), "reasons": list(self.reasons), "covers": COVERS}


def chosen_slices(areas: Sequence[int]) -> tuple[int, ...]:
    """Returns the slices of a series that are judged: those that show enough of the head, evenly spaced where they are many.

    Args:
        areas: Pixels of the head in each slice, in order of their place.

    Returns:
        Positions in ``areas``, rising; none where no slice shows a head.
    """
    sizes = np.asarray(areas)
    enough = np.flatnonzero((sizes > 0) & (sizes >= HEAD_SHARE * sizes.max(initial=0)))
    if len(enough) > MOST_SLICES:
        enough = enough[np.unique(np.linspace(0, len(enough) - 1, MOST_SLICES).round().astype(int))]
    return tuple(int(i) for i in enough)


def study_answer(
    predictions: Sequence[Prediction],
    decision: Decision,
    *,
    top: int = TOP,
    judged: Sequence[int] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> StudyAnswer:
    """Returns the answer of a series: the mean probabilities of the few slices that look least normal.

    With two classes the slices are those with the highest probability of the positive (last) class; with more, those with
    the lowest probability of the class named as in ``NORMAL_NAMES``; where no class is named so, all slices count. The class
    is chosen by the bundle's own decision. Its threshold was fitted on single slices: the mean of the highest slices of a
    series passes it more often than one slice does, so sensitivity and specificity of single slices do not carry over.

    The interval is a bootstrap over blocks of up to 3 neighbouring slices (Carlstein 1986, Annals of Statistics 14:1171), as
    neighbours resemble each other. See ``COVERS`` for what it does not tell.

    Args:
        predictions: Of the slices in order of their place; those with an error are passed over.
        decision: Of the bundle that made them.
        top: Slices that make the answer, at least 1.
        judged: Positions of the slices that count, rising, see :func:`chosen_slices`; if not given, all.
        draws: Bootstrap draws.
        seed: Of the draws.

    Returns:
        The answer; without an interval where there are fewer than 10 slices.

    Raises:
        UsageError: If ``top`` is below 1.
        InputError: If no prediction has probabilities.
    """
    if top < 1:
        raise UsageError(f"The answer of {top} slices was asked for", "At least one slice makes an answer", "Use 3")
    wanted = range(len(predictions)) if judged is None else judged
    places = [i for i in wanted if predictions[i].probabilities is not None]
    if not places:
        raise InputError(
            "No slice of the series could be judged", "An answer needs at least one slice", "See the errors of the slices"
        )
    names = tuple(predictions[places[0]].probabilities or {})
    rows = np.array([list((predictions[i].probabilities or {}).values()) for i in places], dtype=np.float64)
    normal = _normal(names)
    count = min(top, len(rows)) if normal is not None else len(rows)
    order = np.argsort(rows[:, normal], kind="stable") if normal is not None else np.arange(len(rows))
    mean = rows[order[:count]].mean(axis=0)
    predicted = int(decision.predict(mean[None])[0])
    about = 1 if len(names) == 2 else predicted
    found = _interval(rows[order], order, about, count, draws, seed, float(mean[about]))
    used = tuple(places[int(i)] for i in order[:count])
    abstain, reasons = _abstention([predictions[i] for i in places], [predictions[i] for i in used])
    return StudyAnswer(
        label=names[predicted],
        probability=float(mean[predicted]),
        probabilities=dict(zip(names, map(float, mean), strict=True)),
        about=names[about],
        score=float(mean[about]),
        ci_low=found.ci_low,
        ci_high=found.ci_high,
        interval=found.method.replace("groups", "blocks of neighbouring slices"),
        rule=_rule(names, normal, count, len(rows)),
        slices=len(rows),
        used=used,
        abstain=abstain,
        reasons=reasons,
    )


def _normal(names: Sequence[str]) -> int | None:
    """Returns the index of the class that speaks of nothing found."""
    if len(names) == 2:
        return 0
    return next((k for k, name in enumerate(names) if name.casefold() in NORMAL_NAMES), None)


def _rule(names: Sequence[str], normal: int | None, count: int, slices: int) -> str:
    if normal is None:
        return f"mean probability of each class over all {slices} slices"
    what = f"highest probability of {names[1]}" if len(names) == 2 else f"lowest probability of {names[normal]}"
    return f"mean probability of each class over the {count} of {slices} slices with the {what}"


def _interval(
    ranked: NDArray[np.float64], order: NDArray[np.intp], about: int, count: int, draws: int, seed: int, score: float
) -> Estimate:
    """Returns the estimate of the mean of the first ``count`` ranked slices, as blocks of neighbours are drawn."""
    n = len(ranked)
    length = max(1, min(LONGEST_BLOCK, n // MIN_GROUPS))
    bootstrap = GroupBootstrap([f"{int(place) // length:04d}" for place in order], draws, seed)
    if bootstrap.n_groups < MIN_GROUPS:
        return without_interval(score, few_groups(bootstrap.n_groups), n)
    values = ranked[:, about]

    def mean_of_first(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        before = weights.cumsum(axis=1) - weights
        taken = np.clip((count if count < n else weights.sum(axis=1, keepdims=True)) - before, 0, weights)
        return {"score": taken @ values / taken.sum(axis=1)}

    return bootstrap_interval(score, bootstrap.apply(mean_of_first)["score"], n, bootstrap.n_groups)


def _abstention(judged: Sequence[Prediction], used: Sequence[Prediction]) -> tuple[bool | None, tuple[str, ...]]:
    """Returns whether the answer is an abstention: a slice that makes it was abstained from, or most slices were."""
    if all(one.abstain is None for one in judged):
        return None, ()
    here, all_over = (sum(bool(one.abstain) for one in some) for some in (used, judged))
    reasons = []
    if here:
        why = sorted({reason for one in used if one.abstain for reason in one.reasons or ()})
        reasons.append(f"{here} of the {len(used)} slices that make the answer: {'; '.join(why)}")
    if all_over > MOST_REFUSED * len(judged):
        reasons.append(f"the bundle abstains from {all_over} of {len(judged)} slices")
    return bool(reasons), tuple(reasons)
