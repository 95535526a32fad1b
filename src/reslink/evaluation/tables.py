"""``predictions.csv``: what was predicted for each case."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision import Decision
from reslink.datasets.manifest import Manifest
from reslink.files import spreadsheet_text, write_atomic
from reslink.labels import Labels

Floats: TypeAlias = NDArray[np.float64]

COLUMNS = ("sample_id", "patient_id", "path", "split", "label", "logit", "prob", "prediction", "group")


@dataclass(frozen=True)
class JudgedCases:
    """The cases that were judged, row by row, and those that could not be.

    Attributes:
        rows: (n,) their rows in the cache.
        manifest: The n cases.
        groups: (n,) patient or twin group.
        logits: (n, K), or (n, 1).
        probabilities: (n, K).
        failed: A message by case name.
    """

    rows: NDArray[np.int64]
    manifest: Manifest
    groups: list[str]
    logits: Floats
    probabilities: Floats
    failed: dict[str, str]


def write_predictions(path: Path, cases: JudgedCases, labels: Labels, decision: Decision) -> Path:
    """Writes ``predictions.csv``, a line a case.

    ``label`` is the true class. With two classes ``logit`` is the log-odds of the positive class before the temperature
    and ``prob`` its probability; with more, both are those of the predicted class. A column ``p_<class>`` follows for
    each class. ``path`` is relative to the data set. A file, patient or group name that a spreadsheet would run as a
    formula is written with a ``'`` before it.

    Args:
        path: The file.
        cases: What was judged.
        labels: The K classes.
        decision: How a class is chosen.

    Raises:
        StorageError: If the file cannot be written.
    """
    predicted = decision.predict(cases.probabilities)
    shown = np.ones_like(predicted) if labels.binary else predicted
    probabilities = np.take_along_axis(cases.probabilities, shown[:, None], axis=1)[:, 0]
    logits = _logits(cases.logits, shown)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"p_{name}" for name in labels.names)])
    for i, case in enumerate(cases.manifest.cases):
        writer.writerow(
            [
                *(spreadsheet_text(text) for text in (case.name, case.patient_id or "", case.name)),
                case.split or "",
                case.label,
                repr(float(logits[i])),
                repr(float(probabilities[i])),
                labels.names[predicted[i]],
                spreadsheet_text(cases.groups[i]),
                *(repr(float(p)) for p in cases.probabilities[i]),
            ]
        )
    return write_atomic(path, stream.getvalue())


def _logits(logits: Floats, shown: NDArray[np.int64]) -> Floats:
    """Returns the one logit of each case that the table shows."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    if logits.shape[1] == 2:
        return logits[:, 1] - logits[:, 0]
    return np.take_along_axis(logits, shown[:, None], axis=1)[:, 0]
