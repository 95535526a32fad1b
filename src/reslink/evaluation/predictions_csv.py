"""The predictions of a bundle for labeled cases, and ``predictions.csv``."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.decision import STATES, Decision, DecisionResults
from reslink.datasets.grouping import GroupBy
from reslink.datasets.manifest import Manifest
from reslink.files import csv_writer, escape_formula, write_atomic
from reslink.labels import UNKNOWN, Labels, states_text

Floats: TypeAlias = NDArray[np.float64]

COLUMNS = ("sample_id", "patient_id", "path", "split", "label", "logit", "prob", "prediction", "group")
_DECISION_COLUMNS = ("prediction_set", "abstain", "ood_score", "reasons")
_HASH = "sha256"
_LABEL_COLUMNS = ("true", "logit", "predicted", "set", "abstain")


@dataclass(frozen=True)
class CasePredictions:
    """The predictions for n cases, and the cases that failed.

    Attributes:
        rows: (n,) rows of the cases in the cache.
        manifest: The n cases.
        groups: (n,) patient or duplicate group of each case.
        logits: (n, K), or (n, 1).
        probabilities: (n, K).
        failed: Error message by case name.
        hashes: (n,) SHA-256 of the image files, as in ``splits.csv`` of a run; empty if unknown.
        decision_results: Prediction sets, out-of-distribution scores and reasons to abstain; None if only labels were
            computed.
        group_by: What a group keeps together, see :func:`reslink.datasets.grouping.group_cases`.
    """

    rows: NDArray[np.int64]
    manifest: Manifest
    groups: list[str]
    logits: Floats
    probabilities: Floats
    failed: dict[str, str]
    hashes: Sequence[str] = ()
    decision_results: DecisionResults | None = None
    group_by: GroupBy = "both"

    def in_scope(self) -> CasePredictions:
        """Returns the predictions without the refused cases, which are outside the scope of the bundle."""
        if self.decision_results is None or not any(self.decision_results.refused):
            return self
        kept = np.flatnonzero(~np.array(self.decision_results.refused))
        return replace(
            self,
            rows=self.rows[kept],
            manifest=self.manifest.subset(kept.tolist()),
            groups=[self.groups[row] for row in kept],
            logits=self.logits[kept],
            probabilities=self.probabilities[kept],
            hashes=[self.hashes[row] for row in kept.tolist()] if self.hashes else (),
            decision_results=self.decision_results.subset(kept),
        )


def write_predictions(path: Path, cases: CasePredictions, labels: Labels, decision: Decision) -> Path:
    """Writes ``predictions.csv`` with one row per case.

    ``label`` is the true class. With two classes, ``logit`` is the log-odds of the positive class before temperature scaling
    and ``prob`` its probability; with more, both belong to the predicted class. A column ``p_<class>`` follows for each class,
    then ``prediction_set`` (class names separated by ``|``), ``abstain`` (true or false), ``ood_score`` and ``reasons``; these
    are empty if the bundle has neither prediction sets nor an out-of-distribution detector. A refused case has ``abstain`` and
    ``reasons``, but nothing else that the model computes. The last column is the ``sha256`` of the image file. ``path`` is
    relative to the data set. Names that a spreadsheet would run as formulas get a leading ``'``.

    With several labels at once ``logit``, ``prob`` and ``prediction_set`` are empty, and columns follow for each label:
    ``true_<label>`` (1, 0, or empty if unknown), ``logit_<label>``, ``predicted_<label>``, ``set_<label>`` and
    ``abstain_<label>``.

    Args:
        path: The file.
        cases: The predictions.
        labels: The K classes.
        decision: The decision of the bundle.

    Raises:
        StorageError: If the file cannot be written.
    """
    predicted = decision.predict(cases.probabilities)
    stream = io.StringIO()
    writer = csv_writer(stream)
    of_labels = [f"{column}_{name}" for name in labels.names for column in _LABEL_COLUMNS if not labels.exclusive]
    writer.writerow([*COLUMNS, *(f"p_{name}" for name in labels.names), *_DECISION_COLUMNS, _HASH, *of_labels])
    refused = cases.decision_results.refused if cases.decision_results else ()
    shown = _shown_numbers(cases, predicted, labels)
    for i, case in enumerate(cases.manifest.cases):
        answered = not (refused and refused[i])
        numbers = [text if answered else "" for text in (*shown[i], *(repr(float(p)) for p in cases.probabilities[i]))]
        writer.writerow(
            [
                *(escape_formula(text) for text in (case.name, case.patient_id or "", case.name)),
                case.split or "",
                case.label,
                *numbers[:2],
                _predicted_name(labels, predicted[i]) if answered else "",
                escape_formula(cases.groups[i]),
                *numbers[2:],
                *_decision_cells(cases.decision_results, labels, i),
                cases.hashes[i] if cases.hashes else "",
                *_label_cells(cases, predicted, i, answered=answered),
            ]
        )
    return write_atomic(path, stream.getvalue())


def _predicted_name(labels: Labels, predicted: Any) -> str:
    return labels.names[predicted] if labels.exclusive else states_text(labels.names, predicted.tolist())


def _shown_numbers(cases: CasePredictions, predicted: NDArray[np.int64], labels: Labels) -> list[tuple[str, str]]:
    """Returns the cells ``logit`` and ``prob`` of each case; empty with several labels at once."""
    if not labels.exclusive:
        return [("", "")] * len(predicted)
    shown = np.ones_like(predicted) if labels.binary else predicted
    probabilities = np.take_along_axis(cases.probabilities, shown[:, None], axis=1)[:, 0]
    pairs = zip(_shown_logits(cases.logits, shown), probabilities, strict=True)
    return [(repr(float(logit)), repr(float(probability))) for logit, probability in pairs]


def _label_cells(cases: CasePredictions, predicted: NDArray[np.int64], i: int, *, answered: bool) -> list[str]:
    """Returns the cells of one case in the order of ``_LABEL_COLUMNS``, label by label; none with one class per image."""
    cells: list[str] = []
    for k, state in enumerate(cases.manifest.cases[i].states):
        cells.append("" if state == UNKNOWN else str(state))
        if not answered:
            cells += [""] * (len(_LABEL_COLUMNS) - 1)
            continue
        results = None if cases.decision_results is None else cases.decision_results.of_label(k)
        sets = None if results is None or results.prediction_sets is None else results.prediction_sets[i]
        stated = "" if sets is None else "|".join(name for name, inside in zip(STATES, sets, strict=True) if inside)
        abstain = "" if results is None or results.abstain is None else str(bool(results.abstain[i])).lower()
        cells += [repr(float(cases.logits[i, k])), str(int(predicted[i, k])), stated, abstain]
    return cells


def _decision_cells(results: DecisionResults | None, labels: Labels, i: int) -> list[str]:
    """Returns the cells of one case in the order of ``_DECISION_COLUMNS``."""
    if results is None or results.abstain is None:
        return [""] * len(_DECISION_COLUMNS)
    if results.refused and results.refused[i]:
        return ["", "true", "", results.reasons[i][0]]
    classes = "" if results.prediction_sets is None else "|".join(np.array(labels.names)[results.prediction_sets[i]])
    score = "" if results.ood_score is None else repr(float(results.ood_score[i]))
    return [escape_formula(classes), str(bool(results.abstain[i])).lower(), score, "; ".join(results.reasons[i])]


def _shown_logits(logits: Floats, shown: NDArray[np.int64]) -> Floats:
    """Returns the logit of each case for the ``logit`` column."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    if logits.shape[1] == 2:
        return logits[:, 1] - logits[:, 0]
    return np.take_along_axis(logits, shown[:, None], axis=1)[:, 0]
