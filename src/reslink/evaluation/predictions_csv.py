"""The predictions of a bundle for labeled cases, and their table ``predictions.csv``, or ``predictions.parquet``."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.decision import STATES, Decision, DecisionResults
from reslink.datasets.grouping import GroupBy
from reslink.datasets.manifest import Manifest
from reslink.datasets.tables.parquet_writer import ColumnType, ParquetWriter, is_parquet_name
from reslink.files import csv_writer, escape_formula, write_atomic
from reslink.labels import UNKNOWN, Labels, states_text

Floats: TypeAlias = NDArray[np.float64]

_COLUMNS: dict[str, ColumnType] = {
    "sample_id": "string",
    "patient_id": "string",
    "path": "string",
    "split": "string",
    "label": "string",
    "logit": "float64",
    "prob": "float64",
    "prediction": "string",
    "group": "string",
}
_DECISION_COLUMNS: dict[str, ColumnType] = {
    "prediction_set": "string",
    "abstain": "bool",
    "ood_score": "float64",
    "reasons": "string",
}
_HASH = "sha256"
_LABEL_COLUMNS: dict[str, ColumnType] = {
    "true": "int64",
    "logit": "float64",
    "predicted": "int64",
    "set": "string",
    "abstain": "bool",
}
_ESCAPED = ("sample_id", "patient_id", "path", "group", "prediction_set")
"""Columns with names that a spreadsheet might run as formulas."""


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
    """Writes ``predictions.csv`` with one row per case, or ``predictions.parquet`` with the same rows and typed columns.

    ``label`` is the true class. With two classes, ``logit`` is the log-odds of the positive class before temperature scaling
    and ``prob`` its probability; with more, both belong to the predicted class. A column ``p_<class>`` follows for each class,
    then ``prediction_set`` (class names separated by ``|``), ``abstain`` (true or false), ``ood_score`` and ``reasons``; these
    are empty if the bundle has neither prediction sets nor an out-of-distribution detector. A refused case has ``abstain`` and
    ``reasons``, but nothing else that the model computes. The last column is the ``sha256`` of the image file. ``path`` is
    relative to the data set. In a CSV, names that a spreadsheet would run as formulas get a leading ``'``. In Parquet, what is
    empty in the CSV is null, but for a prediction set without a class.

    With several labels at once ``logit``, ``prob`` and ``prediction_set`` are empty, and columns follow for each label:
    ``true_<label>`` (1, 0, or empty if unknown), ``logit_<label>``, ``predicted_<label>``, ``set_<label>`` and
    ``abstain_<label>``.

    Args:
        path: The file; Parquet if its name ends in ``.parquet``.
        cases: The predictions.
        labels: The K classes.
        decision: The decision of the bundle.

    Raises:
        StorageError: If the file cannot be written.
        UsageError: If pyarrow is not installed for Parquet.
    """
    columns, rows = _columns(labels), _rows(cases, labels, decision)
    if is_parquet_name(path):
        data = io.BytesIO()
        with ParquetWriter(data, columns) as table:
            for row in rows:
                table.append(row)
        return write_atomic(path, data.getvalue())
    stream = io.StringIO()
    writer = csv_writer(stream)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_csv_cell(name, cell) for name, cell in zip(columns, row, strict=True)])
    return write_atomic(path, stream.getvalue())


def _csv_cell(name: str, cell: Any) -> Any:
    if isinstance(cell, bool):
        return str(cell).lower()
    return escape_formula(cell) if cell is not None and name in _ESCAPED else cell


def _columns(labels: Labels) -> dict[str, ColumnType]:
    columns = dict(_COLUMNS)
    columns |= {f"p_{name}": "float64" for name in labels.names}
    columns |= {**_DECISION_COLUMNS, _HASH: "string"}
    for name in () if labels.exclusive else labels.names:
        columns |= {f"{column}_{name}": data_type for column, data_type in _LABEL_COLUMNS.items()}
    return columns


def _rows(cases: CasePredictions, labels: Labels, decision: Decision) -> Iterator[list[Any]]:
    """Yields the cells of each case in the order of the columns; a missing value is None."""
    predicted = decision.predict(cases.probabilities)
    refused = cases.decision_results.refused if cases.decision_results else ()
    shown = _shown_numbers(cases, predicted, labels)
    for i, case in enumerate(cases.manifest.cases):
        answered = not (refused and refused[i])
        numbers = [number if answered else None for number in (*shown[i], *map(float, cases.probabilities[i]))]
        yield [
            *(case.name, case.patient_id or None, case.name, case.split or None, case.label),
            *numbers[:2],
            _predicted_name(labels, predicted[i]) if answered else None,
            cases.groups[i],
            *numbers[2:],
            *_decision_cells(cases.decision_results, labels, i),
            cases.hashes[i] if cases.hashes else None,
            *_label_cells(cases, predicted, i, answered=answered),
        ]


def _predicted_name(labels: Labels, predicted: Any) -> str:
    return labels.names[predicted] if labels.exclusive else states_text(labels.names, predicted.tolist())


def _shown_numbers(
    cases: CasePredictions, predicted: NDArray[np.int64], labels: Labels
) -> list[tuple[float | None, float | None]]:
    """Returns the cells ``logit`` and ``prob`` of each case; None with several labels at once."""
    if not labels.exclusive:
        return [(None, None)] * len(predicted)
    shown = np.ones_like(predicted) if labels.binary else predicted
    probabilities = np.take_along_axis(cases.probabilities, shown[:, None], axis=1)[:, 0]
    pairs = zip(_shown_logits(cases.logits, shown), probabilities, strict=True)
    return [(float(logit), float(probability)) for logit, probability in pairs]


def _label_cells(cases: CasePredictions, predicted: NDArray[np.int64], i: int, *, answered: bool) -> list[Any]:
    """Returns the cells of one case in the order of ``_LABEL_COLUMNS``, label by label; none with one class per image."""
    cells: list[Any] = []
    for k, state in enumerate(cases.manifest.cases[i].states):
        cells.append(None if state == UNKNOWN else int(state))
        if not answered:
            cells += [None] * (len(_LABEL_COLUMNS) - 1)
            continue
        results = None if cases.decision_results is None else cases.decision_results.of_label(k)
        sets = None if results is None or results.prediction_sets is None else results.prediction_sets[i]
        stated = None if sets is None else "|".join(name for name, inside in zip(STATES, sets, strict=True) if inside)
        abstain = None if results is None or results.abstain is None else bool(results.abstain[i])
        cells += [float(cases.logits[i, k]), int(predicted[i, k]), stated, abstain]
    return cells


def _decision_cells(results: DecisionResults | None, labels: Labels, i: int) -> list[Any]:
    """Returns the cells of one case in the order of ``_DECISION_COLUMNS``."""
    if results is None or results.abstain is None:
        return [None] * len(_DECISION_COLUMNS)
    if results.refused and results.refused[i]:
        return [None, True, None, results.reasons[i][0]]
    classes = None if results.prediction_sets is None else "|".join(np.array(labels.names)[results.prediction_sets[i]])
    score = None if results.ood_score is None else float(results.ood_score[i])
    return [classes, bool(results.abstain[i]), score, "; ".join(results.reasons[i]) or None]


def _shown_logits(logits: Floats, shown: NDArray[np.int64]) -> Floats:
    """Returns the logit of each case for the ``logit`` column."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    if logits.shape[1] == 2:
        return logits[:, 1] - logits[:, 0]
    return np.take_along_axis(logits, shown[:, None], axis=1)[:, 0]
