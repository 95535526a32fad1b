"""Aggregation: one prediction with an interval for a series of slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.decision import STATES, Decision
from reslink.bundles.scope import LITTLE_BRAIN, shows_little_brain
from reslink.errors import InputError, UsageError, counted
from reslink.inference.prediction import Prediction, partial_answer
from reslink.labels import states_text
from reslink.metrics.intervals import MIN_GROUPS, Estimate, GroupBootstrap, bootstrap_interval, too_few_groups, without_interval

TOP_SLICES: Final = 3
"""Number of slices whose probabilities are averaged."""

NORMAL_NAMES: Final = ("healthy", "normal", "no tumor", "no tumour", "no_tumor", "no_tumour", "notumor", "negative")
"""Names (in any case) of the normal class in tasks with more than two classes."""

MAX_BLOCK_LENGTH: Final = 3
"""Largest number of neighboring slices in a bootstrap block."""

MAX_ABSTAINED_SHARE: Final = 0.5
"""The model abstains from a series if it abstains from a larger share of its slices than this."""

MIN_BRAIN_SLICES: Final = 0.25
"""The model abstains from a series if a smaller share of its slices shows enough brain, or fewer than ``TOP_SLICES`` do."""

INTERVAL_SCOPE: Final = (
    "The interval covers the choice of slices within this series: neighboring slices were resampled together, with "
    "replacement. It does not cover errors of the model, of its calibration or of its training labels, nor another scan of "
    "the same head. Its upper end cannot exceed the highest slice probability."
)
"""Explains to the reader which uncertainty the interval covers."""


NO_INTERVAL: Final = "A series model gives one answer per series, without an interval over its slices."


@dataclass(frozen=True)
class SeriesPrediction:
    """The prediction for a whole series.

    With several labels at once, each has a prediction of its own in ``by_label``. The score is that of the most probable one.

    Attributes:
        label: The predicted class; of several labels at once, those present.
        probability: The probability of ``label``, 0 to 1; None with several labels at once.
        probabilities: The probability of each class, in the order of the labels; their sum is 1. With several labels at once,
            that each is present.
        score_class: The class of ``score`` and its interval: the positive class of two, or ``label`` of more.
        score: The probability of ``score_class``.
        ci_low: Lower end of the 95 % interval of ``score``; None without an interval.
        ci_high: Upper end; None without an interval.
        interval: How the interval was computed, or why there is none.
        rule: How the slices were combined, in one sentence.
        slices: Number of evaluated slices.
        used: Positions in the given predictions of the slices that were averaged, the most suspicious first.
        abstain: Whether the model abstains; None if the bundle has neither prediction sets nor an OOD detector.
        reasons: Why the model abstains; otherwise empty.
        attention: For a series model, the weight of each evaluated slice by its position in the given slices;
            the sum is 1. None for a model of single slices.
        by_label: The prediction for each of several labels at once, whose classes are ``absent`` and ``present``; None with one
            class per image.
    """

    label: str
    probability: float | None
    probabilities: dict[str, float]
    score_class: str
    score: float
    ci_low: float | None
    ci_high: float | None
    interval: str
    rule: str
    slices: int
    used: tuple[int, ...]
    abstain: bool | None
    reasons: tuple[str, ...]
    attention: Mapping[int, float] | None = None
    by_label: dict[str, SeriesPrediction] | None = None

    @property
    def answer(self) -> str:
        """The label; of several labels at once, those present, and those that the model abstains from."""
        declined = [name for name, one in (self.by_label or {}).items() if one.abstain]
        if not declined or self.by_label is None:
            return self.label
        present = [name for name, one in self.by_label.items() if one.label == STATES[1] and not one.abstain]
        return partial_answer(" + ".join(present), declined, len(self.by_label))

    def abstaining(self, reason: str) -> SeriesPrediction:
        """Returns the prediction with an abstention for a further reason, also from each of several labels at once."""
        by_label = None if self.by_label is None else {name: one.abstaining(reason) for name, one in self.by_label.items()}
        return replace(self, abstain=True, reasons=(reason, *self.reasons), by_label=by_label)

    def at(self, positions: Sequence[int]) -> SeriesPrediction:
        """Returns the prediction with other positions of its slices.

        Args:
            positions: The new position of each slice by its old one, such as those of the selected slices in the whole series.
        """
        used = tuple(positions[i] for i in self.used)
        attention = None if self.attention is None else {positions[i]: weight for i, weight in self.attention.items()}
        by_label = None if self.by_label is None else {name: one.at(positions) for name, one in self.by_label.items()}
        return replace(self, used=used, attention=attention, by_label=by_label)

    def as_dict(self) -> dict[str, Any]:
        """Returns the JSON form; ``attention`` only for a series model, ``by_label`` with several labels."""
        shown = vars(self) | {"used": list(self.used), "reasons": list(self.reasons), "interval_scope": INTERVAL_SCOPE}
        del shown["by_label"], shown["attention"]
        if self.attention is not None:
            weights = [{"slice": position, "weight": round(weight, 4)} for position, weight in self.attention.items()]
            shown |= {"attention": weights, "interval_scope": NO_INTERVAL}
        if self.by_label is None:
            return shown
        return shown | {"by_label": {name: one.as_dict() for name, one in self.by_label.items()}}


def aggregate_slices(
    predictions: Sequence[Prediction],
    decision: Decision,
    *,
    top: int = TOP_SLICES,
    selected: Sequence[int] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> SeriesPrediction:
    """Aggregates the predictions of a series: the mean probabilities of the few slices that look least normal.

    With two classes, these are the slices with the highest probability of the positive (last) class. With more classes, they
    are the slices with the lowest probability of the class listed in ``NORMAL_NAMES``; if there is no such class, all slices
    are averaged. Refused slices have no probability; those that show little brain are part of every series of a whole head and
    are no reason to abstain, unless fewer than 3 slices or a quarter of them show enough brain. The bundle's decision then
    selects the class. Its threshold was fitted on single slices: the mean of the highest slices of a series exceeds it more
    often than a single slice does. Sensitivity and specificity of single slices therefore do not hold for series.

    The interval is a bootstrap over blocks of up to 3 neighboring slices (Carlstein 1986, Annals of Statistics 14:1171),
    because neighboring slices are similar. ``INTERVAL_SCOPE`` states what it does not cover.

    Args:
        predictions: Predictions of the slices, ordered by slice position; predictions with an error are skipped.
        decision: The decision of the bundle that made the predictions.
        top: Number of slices to average, at least 1.
        selected: Ascending positions of the slices to use, from :func:`reslink.imaging.slice_selection.select_slices`; None for
            all.
        draws: Number of bootstrap draws.
        seed: Seed of the draws.

    Returns:
        The prediction of the series; without an interval if there are fewer than 10 slices.

    Raises:
        UsageError: If ``top`` is below 1.
        InputError: If no prediction has probabilities.
    """
    if top < 1:
        raise UsageError(f"top is {top}", "At least one slice must be averaged", "Use 3")
    candidates = range(len(predictions)) if selected is None else selected
    positions = [i for i in candidates if predictions[i].probabilities is not None]
    if not positions:
        reason = next((text for one in predictions for text in (one.error, *(one.reasons or ())) if text), None)
        raise InputError(
            f"No slice of the series could be evaluated{f': {reason}' if reason else ''}",
            "A series needs at least one readable slice",
            "Read the errors of the slices",
        )
    if decision.by_label:
        options = _Options(top, selected, draws, seed)
        return _aggregate_labels(predictions, [predictions[i] for i in candidates], decision, options)
    names = tuple(predictions[positions[0]].probabilities or {})
    rows = np.array([list((predictions[i].probabilities or {}).values()) for i in positions], dtype=np.float64)
    normal = _normal_class(names)
    count = min(top, len(rows)) if normal is not None else len(rows)
    order = np.argsort(rows[:, normal], kind="stable") if normal is not None else np.arange(len(rows))
    mean = rows[order[:count]].mean(axis=0)
    predicted = int(decision.predict(mean[None])[0])
    score_class = 1 if len(names) == 2 else predicted
    interval = _interval(rows[order][:, score_class], order, count, draws, seed, float(mean[score_class]))
    used = tuple(positions[int(i)] for i in order[:count])
    abstain, reasons = _abstention([predictions[i] for i in candidates], [predictions[i] for i in used])
    return SeriesPrediction(
        label=names[predicted],
        probability=float(mean[predicted]),
        probabilities=dict(zip(names, map(float, mean), strict=True)),
        score_class=names[score_class],
        score=float(mean[score_class]),
        ci_low=interval.ci_low,
        ci_high=interval.ci_high,
        interval=interval.method.replace("groups", "blocks of neighboring slices"),
        rule=_rule(names, normal, count, len(rows)) + _left_out([predictions[i] for i in candidates]),
        slices=len(rows),
        used=used,
        abstain=abstain,
        reasons=reasons,
    )


def pooled_series(prediction: Prediction, attention: Mapping[int, float], *, top: int = TOP_SLICES) -> SeriesPrediction:
    """Returns the prediction of a series model in the form of :func:`aggregate_slices`.

    Args:
        prediction: The answer for the whole series, with probabilities.
        attention: The weight of each evaluated slice, by its position in the series.
        top: Number of slices with the largest weights to name as ``used``.
    """
    by_class = prediction.probabilities or {}
    names = tuple(by_class)
    label = str(prediction.label)
    score_class = names[1] if len(names) == 2 else label
    ranked = sorted(attention, key=lambda position: -attention[position])
    return SeriesPrediction(
        label=label,
        probability=by_class[label],
        probabilities=by_class,
        score_class=score_class,
        score=by_class[score_class],
        ci_low=None,
        ci_high=None,
        interval=NO_INTERVAL,
        rule=f"gated attention over {counted(len(attention), 'slice')}",
        slices=len(attention),
        used=tuple(ranked[:top]),
        abstain=prediction.abstain,
        reasons=prediction.reasons or (),
        attention=dict(attention),
    )


@dataclass(frozen=True)
class _Options:
    """The options of :func:`aggregate_slices`."""

    top: int
    selected: Sequence[int] | None
    draws: int
    seed: int


def _aggregate_labels(
    predictions: Sequence[Prediction], evaluated: Sequence[Prediction], decision: Decision, options: _Options
) -> SeriesPrediction:
    """Aggregates each of several labels at once as a two-class task, and returns them as one prediction."""
    names = next(tuple(one.by_label) for one in predictions if one.by_label is not None)
    by_label = {
        name: aggregate_slices([_of_label(one, name) for one in predictions], own, **vars(options))
        for name, own in zip(names, decision.by_label, strict=True)
    }
    leading = max(by_label.values(), key=lambda one: one.score)
    first = next(name for name, one in by_label.items() if one is leading)
    used = tuple(dict.fromkeys([*leading.used, *(i for one in by_label.values() for i in one.used)]))
    abstain, reasons = _abstention(evaluated, [predictions[i] for i in used])
    states = [int(one.label == STATES[1]) for one in by_label.values()]
    return replace(
        leading,
        label=states_text(names, states),
        probability=None,
        probabilities={name: one.score for name, one in by_label.items()},
        score_class=first,
        used=used,
        rule=f"for each label, {leading.rule}",
        abstain=abstain,
        reasons=reasons,
        by_label=by_label,
    )


def _of_label(prediction: Prediction, name: str) -> Prediction:
    """Returns the prediction of a slice for one of several labels at once, as that of a two-class task."""
    if prediction.by_label is None:
        return prediction
    one = prediction.by_label[name]
    probabilities = dict(zip(STATES, (1 - one.probability, one.probability), strict=True))
    return replace(
        prediction,
        by_label=None,
        probabilities=probabilities,
        abstain=one.abstain,
        reasons=one.reasons,
        label=STATES[one.present],
    )


def _normal_class(names: Sequence[str]) -> int | None:
    """Returns the index of the normal class; None if no class is named as one."""
    if len(names) == 2:
        return 0
    return next((k for k, name in enumerate(names) if name.casefold() in NORMAL_NAMES), None)


def _rule(names: Sequence[str], normal: int | None, count: int, slices: int) -> str:
    if normal is None:
        return f"mean probability of each class over all {slices} slices"
    criterion = f"highest probability of {names[1]}" if len(names) == 2 else f"lowest probability of {names[normal]}"
    return f"mean probability of each class over the {count} of {slices} slices with the {criterion}"


def _left_out(predictions: Sequence[Prediction]) -> str:
    """Returns how many slices show little brain; empty without any."""
    count = sum(shows_little_brain(one.reasons) for one in predictions)
    return f"; {counted(count, 'slice')} left out: {LITTLE_BRAIN}" if count else ""


def _too_little_brain(evaluated: int, little_brain: int) -> str | None:
    """Returns why a series cannot be answered by its slices that show enough brain; None if it can."""
    slices = evaluated + little_brain
    needed = max(TOP_SLICES, math.ceil(MIN_BRAIN_SLICES * slices))
    if not little_brain or evaluated >= needed:
        return None
    shows = "shows" if evaluated == 1 else "show"
    return f"only {evaluated} of {slices} slices {shows} enough brain; a series needs {needed}"


def _interval(
    values: NDArray[np.float64], order: NDArray[np.intp], count: int, draws: int, seed: int, score: float
) -> Estimate:
    """Returns the estimate of the mean of the first ``count`` values, by a bootstrap over blocks of neighboring slices.

    Args:
        values: (n,) probabilities, ranked.
        order: (n,) slice positions of the values.
        count: Number of values that are averaged.
        draws: Number of bootstrap draws.
        seed: Seed of the draws.
        score: The mean of the first ``count`` values.
    """
    n = len(values)
    length = max(1, min(MAX_BLOCK_LENGTH, n // MIN_GROUPS))
    bootstrap = GroupBootstrap([f"{int(position) // length:04d}" for position in order], draws, seed)
    if bootstrap.n_groups < MIN_GROUPS:
        return without_interval(score, too_few_groups(bootstrap.n_groups), n)

    def mean_of_first(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        preceding = weights.cumsum(axis=1) - weights
        used_weights = np.clip((count if count < n else weights.sum(axis=1, keepdims=True)) - preceding, 0, weights)
        return {"score": used_weights @ values / used_weights.sum(axis=1)}

    return bootstrap_interval(score, bootstrap.apply(mean_of_first)["score"], n, bootstrap.n_groups)


def _abstention(slices: Sequence[Prediction], used: Sequence[Prediction]) -> tuple[bool | None, tuple[str, ...]]:
    """Returns whether the model abstains from the series and why.

    It abstains if too few slices show enough brain, from an averaged slice, or from most of the slices that show enough.
    """
    readable = [one for one in slices if one.error is None]
    evaluated = [one for one in readable if not shows_little_brain(one.reasons)]
    too_little_brain = _too_little_brain(len(evaluated), len(readable) - len(evaluated))
    if too_little_brain is None and all(prediction.abstain is None for prediction in evaluated):
        return None, ()
    n_used, n_evaluated = (sum(bool(prediction.abstain) for prediction in group) for group in (used, evaluated))
    reasons = [] if too_little_brain is None else [too_little_brain]
    if n_used:
        slice_reasons = sorted({reason for prediction in used if prediction.abstain for reason in prediction.reasons or ()})
        reasons.append(f"{n_used} of the {len(used)} averaged slices: {'; '.join(slice_reasons)}")
    if n_evaluated > MAX_ABSTAINED_SHARE * len(evaluated):
        reasons.append(f"the model abstains from {n_evaluated} of {len(evaluated)} slices")
    return bool(reasons), tuple(reasons)
