"""Differences of figures, with intervals over groups: of two classifiers, or of a part of the cases and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reslink.metrics.classification import NAMES, PROPORTIONS, View, estimate_of, point_metrics, replicates
from reslink.metrics.intervals import (
    MIN_GROUPS,
    Draws,
    Estimate,
    GroupBootstrap,
    bootstrap_interval,
    few_groups,
    undefined,
    without_interval,
)
from reslink.metrics.paired_proportions import independent_difference, paired_difference

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """What one classifier said of the cases.

    Attributes:
        y_prob: (n, K) probabilities.
        y_pred: (n,) predicted class indices.
    """

    y_prob: Floats
    y_pred: Ints


def differences(
    y_true: ArrayLike,
    first: Answers,
    second: Answers,
    groups: Sequence[str],
    names: Sequence[str],
    seed: int = 0,
    draws: int = 1000,
) -> dict[str, Estimate]:
    """Returns each metric of one classifier less that of another, with its interval over groups.

    Both are computed on the same bootstrap draws, so that what makes a case hard for both falls out. Accuracy, and with two
    classes sensitivity and specificity, have the interval of :func:`reslink.metrics.paired_proportions.paired_difference`.

    Args:
        y_true: (n,) class indices.
        first: The answers of the first.
        second: Those of the second, on the same cases.
        groups: (n,) the patient or twin group of each case.
        names: The K class names; with two, the last is the positive class.
        seed: Seed of the draws.
        draws: Bootstrap draws.

    Returns:
        The metrics of ``classification.NAMES``, from −1 to 1 (MCC −2 to 2).

    Raises:
        InputError: If there is no case, or shapes or values do not fit each other.
    """
    truth = np.asarray(y_true, dtype=np.int64)
    bootstrap = GroupBootstrap(groups, draws, seed)
    drawn = bootstrap.apply(lambda weights: _gaps(_all(weights, truth, first), _all(weights, truth, second)))
    views = [_view(truth, one, names, bootstrap) for one in (first, second)]
    found = {name: _difference(name, views, drawn[name], len(truth)) for name in NAMES}
    gaps = (first.y_pred == truth).astype(np.float64) - (second.y_pred == truth)
    sides = {"accuracy": np.ones(len(truth), dtype=bool)}
    if len(names) == 2:
        sides |= {"sensitivity": truth == 1, "specificity": truth == 0}
    for name, held in sides.items():
        if found[name].estimate is not None:
            found[name] = paired_difference(gaps[held], bootstrap.index[held])
    return found


def part_differences(
    y_true: ArrayLike,
    answers: Answers,
    inside: ArrayLike,
    groups: Sequence[str],
    names: Sequence[str],
    figures: Sequence[str] = tuple(NAMES),
    seed: int = 0,
    draws: int = 1000,
) -> dict[str, Estimate]:
    """Returns metrics of one part of the cases less those of the rest, with intervals over groups.

    Args:
        y_true: (n,) class indices.
        answers: What the classifier said.
        inside: (n,) whether a case is in the part.
        groups: (n,) the patient or twin group of each case; one may have cases inside and outside.
        names: The K class names; with two, the last is the positive class.
        figures: Keys of ``classification.NAMES``.
        seed: Seed of the draws.
        draws: Bootstrap draws.

    Raises:
        InputError: If shapes or values do not fit each other.
    """
    truth, held = np.asarray(y_true, dtype=np.int64), np.asarray(inside, dtype=bool)
    if held.all() or not held.any():
        return {name: undefined("there is no other case to compare with", len(truth)) for name in figures}
    bootstrap = GroupBootstrap(groups, draws, seed)
    drawn = bootstrap.apply(lambda weights: _parts(weights, held, truth, answers))
    views = []
    for part in (held, ~held):
        own = GroupBootstrap([group for group, kept in zip(groups, part, strict=True) if kept], draws, seed)
        views.append(_view(truth[part], Answers(answers.y_prob[part], answers.y_pred[part]), names, own))
    found = {}
    for name in figures:
        if name in PROPORTIONS:
            alone = [estimate_of(name, view, drawn[f"{k} {name}"]) for k, view in enumerate(views)]
            found[name] = independent_difference(*alone)
        else:
            found[name] = _difference(name, views, drawn[name], len(truth), bootstrap.n_groups)
    return found


def _parts(weights: Floats, held: NDArray[np.bool_], truth: Ints, answers: Answers) -> dict[str, Floats]:
    """Returns the metrics of the part (``"0 auroc"``) and of the rest (``"1 auroc"``), and their differences."""
    both = [_all(weights * side, truth, answers) for side in (held, ~held)]
    alone = {f"{k} {name}": values for k, part in enumerate(both) for name, values in part.items()}
    return alone | _gaps(*both)


def _all(weights: Floats, truth: Ints, answers: Answers) -> dict[str, Floats]:
    found = replicates(weights, truth, answers.y_prob, answers.y_pred)
    return {name: found[f"all {name}"] for name in NAMES}


def _gaps(first: dict[str, Floats], second: dict[str, Floats]) -> dict[str, Floats]:
    return {name: first[name] - second[name] for name in first}


def _view(truth: Ints, answers: Answers, names: Sequence[str], bootstrap: GroupBootstrap) -> View:
    """Returns how the figures over all classes look at the cases."""
    classes = [1] if len(names) == 2 else list(range(len(names)))
    true, called = truth[:, None] == classes, answers.y_pred[:, None] == classes
    points = point_metrics(truth, answers.y_prob, answers.y_pred)
    return View(points, true, called, truth == answers.y_pred, [names[k] for k in classes], bootstrap)


def _difference(name: str, views: Sequence[View], drawn: Draws, n: int, n_groups: int | None = None) -> Estimate:
    """Returns a metric of the first view less that of the second, with the interval of its draws."""
    first, second = (view.points[name] for view in views)
    if first is None or second is None:
        return undefined(next(view for view in views if view.points[name] is None).missing(name), n)
    fewest = min(view.fewest_groups(name) for view in views)
    if fewest < MIN_GROUPS:
        return without_interval(first - second, few_groups(fewest), n)
    span, total = 2.0 if name == "mcc" else 1.0, n_groups or views[0].bootstrap.n_groups
    return bootstrap_interval(first - second, drawn, n, total, biased=name == "ece", limits=(-span, span), rests_on=fewest)
