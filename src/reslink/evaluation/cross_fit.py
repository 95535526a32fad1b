"""Metrics of fitted decisions on held-out groups, by cross-fitting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.decision import Decision, DecisionResults
from reslink.errors import UsageError
from reslink.evaluation.fitting import (
    IN_EVERY_PREDICTION_SET,
    NO_OOD_DETECTOR,
    NO_PREDICTION_SETS,
    NO_TEMPERATURE,
    CalibrationData,
    DecisionOptions,
    fit_decision,
    fit_ood_detector,
    group_folds,
)
from reslink.evaluation.selective import prediction_set_metrics
from reslink.labels import Labels
from reslink.metrics.classification import classification_metrics
from reslink.metrics.conformal import is_covered
from reslink.metrics.intervals import mean_interval

Rows: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class CrossFit:
    """Decisions fitted to four fifths of the groups each, and their results on the other fifth.

    Attributes:
        held_out: Rows of the held-out cases of each fold.
        decisions: The decision of each fold.
        results: Its results for the held-out cases of the fold.
        notes: On the components that could not be fitted in a fold.
    """

    held_out: Sequence[Rows]
    decisions: Sequence[Decision]
    results: Sequence[DecisionResults]
    notes: Sequence[str]

    def missing(self, final: Decision) -> list[str]:
        """Returns the components of a decision that some of these do not have, by the text of their note."""
        return _missing_components(final, self.decisions)

    def consequences(self, final: Decision) -> list[str]:
        """Returns what cannot be measured because of the missing components, with the reason."""
        return _notes(self.missing(final), self.notes)

    def measures_abstention(self, final: Decision) -> bool:
        """Returns whether these decisions abstain for the same reasons as the final one."""
        return not {NO_PREDICTION_SETS, IN_EVERY_PREDICTION_SET, NO_OOD_DETECTOR} & set(self.missing(final))


def cross_fit(cases: CalibrationData, fit: Callable[[CalibrationData], tuple[Decision, list[str]]]) -> CrossFit:
    """Fits a decision to four fifths of the groups and applies it to the other fifth, for five folds.

    Args:
        cases: All calibration cases.
        fit: Returns the decision for some cases, and notes.

    Raises:
        UsageError: If there are too few groups or cases.
    """
    rows: list[Rows] = []
    decisions: list[Decision] = []
    results: list[DecisionResults] = []
    notes: list[str] = []
    for fit_rows, held_out in group_folds(cases):
        decision, fit_notes = fit(cases.take(fit_rows))
        results.append(decision.decide(cases.logits[held_out], cases.features[held_out], cases.statistics[held_out]))
        rows.append(held_out)
        decisions.append(decision)
        notes += fit_notes
    return CrossFit(rows, decisions, results, notes)


def cross_fit_metrics(
    cases: CalibrationData, options: DecisionOptions, before: Decision, final: Decision, labels: Labels
) -> dict[str, Any]:
    """Fits a decision to four fifths of the groups and measures it on the other fifth, for five folds.

    Intervals are over groups, with the five decisions held fixed. Four fifths of the groups may be too few for a component
    that the final decision has; metrics that depend on it are then null, because they would describe another decision.

    Args:
        cases: All calibration cases.
        options: The components to fit.
        before: The previous decision of the bundle.
        final: The decision that was fitted to all cases.
        labels: The K classes.

    Returns:
        ``brier`` and ``ece`` (``before``, ``after``), ``prediction_sets`` (see
        :func:`reslink.evaluation.selective.prediction_set_metrics`; null if none were fitted), ``retained`` (share within the
        limits of the out-of-distribution detector; null if none was fitted), ``answered`` (share without an abstention),
        ``accuracy``, ``sensitivity`` and ``specificity`` (null with more than two classes), each an estimate with its 95 %
        interval; ``n``; ``notes`` (why a metric is null or describes another decision); and ``reason``, which is set, without
        any metric, if four fifths of the groups are too few for a decision. If the network was adapted, ``before`` is that of
        its parent, and ``adaptation`` holds ``before`` and ``after`` of accuracy, AUROC, sensitivity and specificity (the last
        two with two classes only). Of several labels at once: ``n``, ``reason``
        (null), ``by_label`` (the result for each), ``retained`` and ``notes``.
    """
    if not labels.exclusive:
        return _cross_fit_labels(cases, options, before, final, labels)
    try:
        fitted = cross_fit(cases, lambda part: fit_decision(part, options, labels))
    except UsageError as error:
        return {"reason": f"A decision cannot be fitted to four fifths of the groups: {error.given}", "n": len(cases)}
    held_out_cases = cases.take(np.concatenate(fitted.held_out))
    metrics = _calibration_metrics(held_out_cases, fitted.results, before, labels)
    metrics |= _abstention_metrics(held_out_cases, fitted, final, labels)
    return {"n": len(held_out_cases), "reason": None, **metrics, "notes": fitted.consequences(final)}


def _cross_fit_labels(
    cases: CalibrationData, options: DecisionOptions, before: Decision, final: Decision, labels: Labels
) -> dict[str, Any]:
    """Measures the decision of each of several labels at once, and the detector for the whole image."""
    own = replace(options, ood=False)
    by_label = {
        name: cross_fit_metrics(cases.of_label(k), own, before.by_label[k], final.by_label[k], labels.of_one(name))
        for k, name in enumerate(labels.names)
    }
    result: dict[str, Any] = {"n": len(cases), "reason": None, "by_label": by_label, "retained": None, "notes": []}
    if final.ood is None:
        return result
    inside: list[NDArray[np.bool_]] = []
    rows: list[Rows] = []
    for fit_rows, held_out in group_folds(cases):
        detector, arrays = fit_ood_detector(cases.take(fit_rows), result["notes"])
        if detector is None or arrays is None:
            return result
        distances = detector.relative_distances(arrays.by_name, cases.features[held_out], cases.statistics[held_out])
        inside.append(np.max(list(distances.values()), axis=0) <= 1)
        rows.append(held_out)
    groups = [cases.groups[row] for row in np.concatenate(rows)]
    return result | {"retained": mean_interval(np.concatenate(inside), groups).as_dict()}


def _missing_components(final: Decision, decisions: Sequence[Decision]) -> list[str]:
    """Returns the components of the final decision that some of the five decisions do not have, by the text of their note."""
    final_limits = None if final.conformal is None else final.conformal.limits
    fold_limits = [decision.conformal.limits for decision in decisions if decision.conformal is not None]
    is_missing = {
        NO_TEMPERATURE: final.temperature != 1 and any(decision.temperature == 1 for decision in decisions),
        NO_PREDICTION_SETS: final_limits is not None and len(fold_limits) < len(decisions),
        IN_EVERY_PREDICTION_SET: final_limits is not None
        and any(a is not None and b is None for limits in fold_limits for a, b in zip(final_limits, limits, strict=True)),
        NO_OOD_DETECTOR: final.ood is not None and any(decision.ood is None for decision in decisions),
    }
    return [name for name, missing in is_missing.items() if missing]


_NO_SET_METRICS = "Prediction sets and the share of answered cases could not be measured on held-out groups"
_CONSEQUENCES = {
    NO_TEMPERATURE: "Brier score and ECE on held-out groups partly describe a decision without a temperature",
    NO_PREDICTION_SETS: _NO_SET_METRICS,
    IN_EVERY_PREDICTION_SET: _NO_SET_METRICS,
    NO_OOD_DETECTOR: "The OOD detector and the share of answered cases could not be measured on held-out groups",
}


def _notes(missing: Sequence[str], fit_notes: Sequence[str]) -> list[str]:
    """Returns the consequence of each missing component, with the first note of the folds that gives the reason."""
    reasons = [(name, next((note for note in fit_notes if name in note), "")) for name in missing]
    return [f"{_CONSEQUENCES[name]}. With four fifths of the groups: {reason}" for name, reason in reasons]


def _calibration_metrics(
    cases: CalibrationData, results: Sequence[DecisionResults], before: Decision, labels: Labels
) -> dict[str, Any]:
    adapted = cases.previous_logits is not None
    previous = before.probabilities(cases.logits if cases.previous_logits is None else cases.previous_logits)
    first, now = (
        classification_metrics(cases.y_true, probabilities, predicted, cases.groups, labels.names)[0]
        for probabilities, predicted in (
            (previous, before.predict(previous)),
            (
                np.concatenate([fold.probabilities for fold in results]),
                np.concatenate([fold.predicted for fold in results]),
            ),
        )
    )

    def both(name: str) -> dict[str, Any]:
        return {"before": first[name].as_dict(), "after": now[name].as_dict()}

    names = ("accuracy", "auroc", *(("sensitivity", "specificity") if labels.binary else ()))
    return {
        **{name: both(name) for name in ("brier", "ece")},
        "accuracy": now["accuracy"].as_dict(),
        **{name: now[name].as_dict() if labels.binary else None for name in ("sensitivity", "specificity")},
        **({"adaptation": {name: both(name) for name in names}} if adapted else {}),
    }


def _abstention_metrics(cases: CalibrationData, fitted: CrossFit, final: Decision, labels: Labels) -> dict[str, Any]:
    results, missing = fitted.results, fitted.missing(final)
    sets = [fold.prediction_sets for fold in results if fold.prediction_sets is not None]
    scores = [fold.ood_score for fold in results if fold.ood_score is not None]
    abstain = [fold.abstain for fold in results if fold.abstain is not None]
    has_sets = bool(sets) and not {NO_PREDICTION_SETS, IN_EVERY_PREDICTION_SET} & set(missing)
    has_detector = bool(scores) and NO_OOD_DETECTOR not in missing

    def share(flags: list[NDArray[np.bool_]]) -> dict[str, Any]:
        return mean_interval(np.concatenate(flags), cases.groups).as_dict()

    set_metrics = _set_metrics(cases, np.concatenate(sets), labels) if has_sets else None
    return {
        "prediction_sets": set_metrics,
        "retained": share([score <= 1 for score in scores]) if has_detector else None,
        "answered": share([~flags for flags in abstain]) if abstain and fitted.measures_abstention(final) else None,
    }


def _set_metrics(cases: CalibrationData, sets: NDArray[np.bool_], labels: Labels) -> dict[str, Any]:
    """Returns the metrics of prediction sets, with the coverage within each source."""
    covered, names = is_covered(sets, cases.y_true), np.array(cases.source_names)
    rows_of = {name: np.flatnonzero(names == name) for name in np.unique(names)} if cases.sources else {}
    by_source = {
        name: mean_interval(covered[rows], [cases.groups[row] for row in rows.tolist()]).as_dict()
        for name, rows in rows_of.items()
    }
    return prediction_set_metrics(cases.y_true, sets, cases.groups, labels) | {"coverage_by_source": by_source}
