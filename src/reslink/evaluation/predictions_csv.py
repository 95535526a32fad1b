"""The predictions of a bundle for labeled cases, and ``predictions.csv``."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.decision import Decision, DecisionResults
from reslink.datasets.manifest import Manifest
from reslink.files import csv_writer, escape_formula, write_atomic
from reslink.labels import Labels

Floats: TypeAlias = NDArray[np.float64]

COLUMNS = ("sample_id", "patient_id", "path", "split", "label", "logit", "prob", "prediction", "group")
_DECISION_COLUMNS = ("prediction_set", "abstain", "ood_score", "reasons")
_HASH = "sha256"


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
    """

    rows: NDArray[np.int64]
    manifest: Manifest
    groups: list[str]
    logits: Floats
    probabilities: Floats
    failed: dict[str, str]
    hashes: Sequence[str] = ()
    decision_results: DecisionResults | None = None

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

    Args:
        path: The file.
        cases: The predictions.
        labels: The K classes.
        decision: The decision of the bundle.

    Raises:
        StorageError: If the file cannot be written.
    """
    predicted = decision.predict(cases.probabilities)
    shown = np.ones_like(predicted) if labels.binary else predicted
    probabilities = np.take_along_axis(cases.probabilities, shown[:, None], axis=1)[:, 0]
    logits = _shown_logits(cases.logits, shown)
    stream = io.StringIO()
    writer = csv_writer(stream)
    writer.writerow([*COLUMNS, *(f"p_{name}" for name in labels.names), *_DECISION_COLUMNS, _HASH])
    refused = cases.decision_results.refused if cases.decision_results else ()
    for i, case in enumerate(cases.manifest.cases):
        answered = not (refused and refused[i])
        numbers = [repr(float(value)) if answered else "" for value in (logits[i], probabilities[i], *cases.probabilities[i])]
        writer.writerow(
            [
                *(escape_formula(text) for text in (case.name, case.patient_id or "", case.name)),
                case.split or "",
                case.label,
                *numbers[:2],
                labels.names[predicted[i]] if answered else "",
                escape_formula(cases.groups[i]),
                *numbers[2:],
                *_decision_cells(cases.decision_results, labels, i),
                cases.hashes[i] if cases.hashes else "",
            ]
        )
    return write_atomic(path, stream.getvalue())


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
