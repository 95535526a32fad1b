"""Metrics of the cases that a bundle answers, reported beside those of all cases: abstention must not look like accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.decision import DecisionResults
from reslink.labels import Labels
from reslink.metrics.classification import classification_metrics
from reslink.metrics.conformal import is_covered
from reslink.metrics.intervals import mean_interval
from reslink.metrics.selective import selective_summary

Ints: TypeAlias = NDArray[np.int64]

ANSWER_NAMES: Final = {
    "coverage": "coverage (share answered)",
    "answered_accuracy": "accuracy of the answered cases",
    "silent_errors": "silent errors (wrong and answered)",
}
"""The estimates of :func:`answer_estimates`, with the names that a report prints."""

NOTHING_FITTED = (
    "The bundle has neither prediction sets nor an out-of-distribution detector, so it answers every case. "
    "Fit them with reslink calibrate"
)


def selective_metrics(
    y_true: Ints, results: DecisionResults | None, groups: Sequence[str], labels: Labels, seed: int = 0
) -> dict[str, Any]:
    """Returns the effect of abstention: coverage, metrics of the answered cases, prediction sets, risk–coverage curve.

    Args:
        y_true: (n,) class indices.
        results: The results of the decision for the n cases.
        groups: (n,) patient or duplicate group of each case.
        labels: The K classes.
        seed: Seed of the bootstrap.

    Returns:
        The estimates of :func:`answer_estimates`, ``n_covered``, ``n_abstained``, ``reasons`` (number of cases by
        reason), ``metrics`` (of the answered cases only; empty if there is none), ``prediction_sets`` (see
        :func:`prediction_set_metrics`; null if none were fitted), ``n_out_of_distribution`` (cases flagged by the
        out-of-distribution detector; null if none was fitted), ``risk_coverage`` (all cases ranked by the probability of the
        predicted class: ``aurc``, ``curve``, ``n``) and ``note``.
    """
    if results is None:
        return {}
    abstain = np.zeros(len(y_true), np.bool_) if results.abstain is None else results.abstain
    answered = np.flatnonzero(~abstain)
    confidence = np.take_along_axis(results.probabilities, results.predicted[:, None], axis=1)[:, 0]
    sets = results.prediction_sets
    return {
        **answer_estimates(~abstain, results.predicted == y_true, groups, seed),
        "n_covered": len(answered),
        "n_abstained": int(abstain.sum()),
        "reasons": dict(Counter(reason for reasons in results.reasons for reason in reasons)),
        "metrics": _answered_metrics(y_true, results, groups, labels, answered, seed),
        "prediction_sets": None if sets is None else prediction_set_metrics(y_true, sets, groups, labels, seed),
        "n_out_of_distribution": None if results.ood_score is None else int((results.ood_score > 1).sum()),
        "risk_coverage": selective_summary(results.predicted != y_true, confidence, groups, seed),
        "note": NOTHING_FITTED if results.abstain is None else _note(len(answered)),
    }


def answer_estimates(
    answered: NDArray[np.bool_], correct: NDArray[np.bool_], groups: Sequence[str], seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Returns how many cases are answered and how many of the answers are right, each an estimate with its interval.

    Args:
        answered: (n,) whether the model answers each case, that is, does not abstain.
        correct: (n,) whether the predicted class is the true one.
        groups: (n,) patient or duplicate group of each case.
        seed: Seed of the bootstrap.

    Returns:
        ``coverage`` (share of the cases that are answered), ``answered_accuracy`` (share of the answered cases that are right;
        undefined without any) and ``silent_errors`` (share of all cases that are wrong and answered).
    """
    groups_of_answered = [group for group, is_answered in zip(groups, answered, strict=True) if is_answered]
    return {
        "coverage": mean_interval(answered, groups, seed).as_dict(),
        "answered_accuracy": mean_interval(correct[answered], groups_of_answered, seed).as_dict(),
        "silent_errors": mean_interval(answered & ~correct, groups, seed).as_dict(),
    }


def can_abstain(evaluation: Mapping[str, Any]) -> bool:
    """Returns whether the evaluated bundle has prediction sets or an out-of-distribution detector.

    Args:
        evaluation: The content of ``evaluation.json``.
    """
    selective = evaluation.get("selective") or {}
    return selective.get("prediction_sets") is not None or selective.get("n_out_of_distribution") is not None


def named_answers(selective: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """Returns the estimates of :func:`answer_estimates` by their printed name, as far as they are there.

    Args:
        selective: ``selective`` of an evaluation, a subgroup or a label.
    """
    return {name: (selective or {})[key] for key, name in ANSWER_NAMES.items() if key in (selective or {})}


def _note(n_covered: int) -> str:
    return "The metrics here cover the answered cases only" if n_covered else "The model abstained from every case"


def _answered_metrics(
    y_true: Ints, results: DecisionResults, groups: Sequence[str], labels: Labels, answered: NDArray[np.intp], seed: int
) -> dict[str, Any]:
    if not len(answered):
        return {}
    arrays = (y_true[answered], results.probabilities[answered], results.predicted[answered], [groups[row] for row in answered])
    return {name: estimate.as_dict() for name, estimate in classification_metrics(*arrays, labels.names, seed)[0].items()}


def prediction_set_metrics(
    y_true: Ints, sets: NDArray[np.bool_], groups: Sequence[str], labels: Labels, seed: int = 0
) -> dict[str, Any]:
    """Returns coverage and size of prediction sets.

    Args:
        y_true: (n,) class indices.
        sets: (n, K) whether each class is in the prediction set of each case.
        groups: (n,) patient or duplicate group of each case.
        labels: The K classes.
        seed: Seed of the bootstrap.

    Returns:
        ``coverage``, ``coverage_by_class`` (by name) and ``mean_size``, each an estimate with its 95 % interval;
        ``n_empty``, ``n_single`` and ``n_several``: the number of sets with no, one, or more classes.
    """
    covered, size = is_covered(sets, y_true), sets.sum(axis=1)
    by_class = {}
    for k, name in enumerate(labels.names):
        rows = np.flatnonzero(y_true == k)
        by_class[name] = mean_interval(covered[rows], [groups[row] for row in rows.tolist()], seed).as_dict()
    return {
        "coverage": mean_interval(covered, groups, seed).as_dict(),
        "coverage_by_class": by_class,
        "mean_size": mean_interval(size, groups, seed, proportion=False).as_dict(),
        "n_empty": int((size == 0).sum()),
        "n_single": int((size == 1).sum()),
        "n_several": int((size > 1).sum()),
    }
