"""Predictions for each of several labels at once, from the results of a decision or of the slices of a series."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from reslink.bundles.decision.decision import STATES, Decision, DecisionResults
from reslink.inference.prediction import LabelPrediction, Prediction
from reslink.inference.series import SeriesPrediction
from reslink.labels import Labels, states_text


def prediction_of_labels(labels: Labels, decision: Decision, results: DecisionResults, row: int) -> Prediction:
    """Returns one row of decision results for several labels at once as a prediction, with an empty path.

    Args:
        labels: The labels.
        decision: The decision that gave the results.
        results: The results.
        row: Row of the slice in ``results``.
    """
    of_image = tuple(results.reasons[row])
    by_label = {
        name: _label_prediction(decision.by_label[k], results.of_label(k), row, can_abstain=decision.abstains)
        for k, name in enumerate(labels.names)
    }
    abstain = bool(of_image) if decision.abstains else None
    return Prediction(
        "",
        label=states_text(labels.names, results.predicted[row].tolist()),
        probabilities={name: one.probability for name, one in by_label.items()},
        abstain=abstain,
        reasons=None if abstain is None else of_image,
        ood_score=None if results.ood_score is None else float(results.ood_score[row]),
        certainty="no answer" if abstain else None,
        by_label=by_label,
    )


def _label_prediction(decision: Decision, results: DecisionResults, row: int, *, can_abstain: bool) -> LabelPrediction:
    """Returns the prediction for one of several labels, with the reasons to abstain from the whole image."""
    reasons, sets = tuple(results.reasons[row]), results.prediction_sets
    probabilities = [float(p) for p in results.probabilities[row]]
    abstain = bool(reasons) if can_abstain else None
    return LabelPrediction(
        present=bool(results.predicted[row]),
        probability=probabilities[1],
        threshold=_threshold(decision),
        prediction_set=None if sets is None else tuple(STATES[k] for k in np.flatnonzero(sets[row])),
        abstain=abstain,
        reasons=None if abstain is None else reasons,
        certainty=decision.certainty(probabilities, abstain),
    )


def series_label_predictions(results: Mapping[str, SeriesPrediction], decision: Decision) -> dict[str, LabelPrediction]:
    """Returns the predictions of a series for each of several labels at once; a series has no prediction sets."""
    return {
        name: LabelPrediction(
            present=one.label == STATES[1],
            probability=one.score,
            threshold=_threshold(own),
            prediction_set=None,
            abstain=one.abstain,
            reasons=None if one.abstain is None else one.reasons,
            certainty=own.certainty([1 - one.score, one.score], one.abstain),
        )
        for (name, one), own in zip(results.items(), decision.by_label, strict=True)
    }


def _threshold(decision: Decision) -> float:
    return 0.5 if decision.threshold is None else decision.threshold
