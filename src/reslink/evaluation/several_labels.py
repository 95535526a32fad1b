"""Evaluation of several labels at once: the metrics of each label on the cases where it is known, and their macro averages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.decision import Decision, DecisionResults
from reslink.evaluation.selective import NOTHING_FITTED, selective_metrics
from reslink.labels import Labels
from reslink.metrics.classification import METRIC_NAMES
from reslink.metrics.intervals import mean_interval, undefined
from reslink.metrics.several_labels.macro import macro_metrics
from reslink.metrics.several_labels.states import known_rows, two_columns

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

EvaluateCases: TypeAlias = Callable[[Ints, Floats, Sequence[str], Labels, Decision, int], dict[str, Any]]

_BY_CLASS = ("calibration", "decision_curve", "likelihood_ratios")


@dataclass(frozen=True, eq=False)
class LabeledStates:
    """The predictions for n cases with several labels, and their true states.

    Attributes:
        states: (n, K) 1 present, 0 absent, -1 unknown.
        probabilities: (n, K) the probability that each label is present.
        groups: (n,) patient or duplicate group of each case; intervals are over groups.
        labels: The K labels.
        decision: The decision of the bundle.
        results: The results of the decision; None leaves out abstention.
        seed: Seed of the bootstrap.
    """

    states: Ints
    probabilities: Floats
    groups: Sequence[str]
    labels: Labels
    decision: Decision
    results: DecisionResults | None = None
    seed: int = 0


def evaluate_labels(cases: LabeledStates, evaluate_cases: EvaluateCases) -> dict[str, Any]:
    """Returns the metrics of several labels at once, as in ``evaluation.json``.

    Args:
        cases: The predictions.
        evaluate_cases: Measures a two-class task (:func:`reslink.evaluation.evaluate.evaluate_cases`).

    Returns:
        As ``evaluate_cases``, with these differences: ``exclusive`` is false; ``metrics`` are means over the labels
        (:func:`reslink.metrics.several_labels.macro_metrics`); ``per_class``, ``calibration``, ``decision_curve`` and
        ``likelihood_ratios`` are those of each label; ``confusion_matrix`` is null. ``by_label`` holds for each label
        ``n`` (cases with a known state), ``n_groups``, ``n_present``, ``n_groups_present``, ``n_unknown``, ``confusion_matrix``
        and ``selective``. ``selective`` concerns whole images.
    """
    names, decision = cases.labels.names, cases.decision
    predicted = decision.predict(cases.probabilities)
    macro = macro_metrics(cases.states, cases.probabilities, predicted, cases.groups, names, cases.seed)
    result: dict[str, Any] = {
        "n": len(cases.states),
        "n_groups": len(set(cases.groups)),
        "labels": list(names),
        "exclusive": False,
        "positive": None,
        "decision": decision.model_dump(mode="json"),
        "metrics": {name: estimate.as_dict() for name, estimate in macro.items()},
        "per_class": {},
        "confusion_matrix": None,
        **{key: {} for key in _BY_CLASS},
        "by_label": {},
        "localization": {},
        "research_use_only": True,
    }
    for k, rows in enumerate(known_rows(cases.states)):
        result["by_label"][names[k]], measured = _of_label(cases, k, rows, evaluate_cases)
        result["per_class"][names[k]] = measured["metrics"]
        for key in _BY_CLASS:
            result[key] |= measured[key]
    return result | ({} if cases.results is None else {"selective": image_abstention(cases)})


def _of_label(cases: LabeledStates, k: int, rows: Ints, evaluate_cases: EvaluateCases) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the entry of one label in ``by_label``, and its metrics."""
    groups, y_true, labels = (
        [cases.groups[row] for row in rows],
        cases.states[rows, k],
        cases.labels.of_one(cases.labels.names[k]),
    )
    entry: dict[str, Any] = {
        "n": len(rows),
        "n_groups": len(set(groups)),
        "n_present": int(y_true.sum()),
        "n_groups_present": len({group for group, present in zip(groups, y_true, strict=True) if present}),
        "n_unknown": len(cases.states) - len(rows),
        "confusion_matrix": None,
        "selective": {},
    }
    if not len(rows):
        nothing = undefined(f"the label {labels.names[1]!r} is unknown in every case", 0).as_dict()
        return entry, {"metrics": dict.fromkeys(METRIC_NAMES, nothing), **{key: {} for key in _BY_CLASS}}
    of_label = two_columns(cases.probabilities[rows, k])
    measured = evaluate_cases(y_true, of_label, groups, labels, cases.decision.by_label[k], cases.seed)
    entry["confusion_matrix"] = measured["confusion_matrix"]
    if cases.results is not None:
        results = cases.results.of_label(k).subset(rows)
        entry["selective"] = selective_metrics(y_true, results, groups, labels, cases.seed)
    return entry, measured


def image_abstention(cases: LabeledStates) -> dict[str, Any]:
    """Returns how many whole images the model abstains from; single labels are in ``by_label``."""
    results = cases.results
    assert results is not None  # noqa: S101  (checked by the caller)
    abstain = np.zeros(len(cases.states), np.bool_) if results.abstain is None else results.abstain
    note = "Whole images; abstentions from single labels are in by_label"
    return {
        "coverage": mean_interval(~abstain, cases.groups, cases.seed).as_dict(),
        "n_covered": int((~abstain).sum()),
        "n_abstained": int(abstain.sum()),
        "reasons": dict(Counter(reason for reasons in results.reasons for reason in reasons)),
        "metrics": {},
        "prediction_sets": None,
        "n_out_of_distribution": None if results.ood_score is None else int((results.ood_score > 1).sum()),
        "risk_coverage": None,
        "note": NOTHING_FITTED if results.abstain is None else note,
    }
