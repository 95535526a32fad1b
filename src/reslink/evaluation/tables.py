"""``predictions.csv``: what was predicted for each case."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.decision.decision import Decision, Verdicts
from reslink.datasets.manifest import Manifest
from reslink.files import spreadsheet_text, write_atomic
from reslink.labels import Labels

Floats: TypeAlias = NDArray[np.float64]

COLUMNS = ("sample_id", "patient_id", "path", "split", "label", "logit", "prob", "prediction", "group")
_VERDICT = ("set", "abstain", "ood_score", "reasons")


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
        verdicts: What the decision of the bundle says about them; None where nothing but the labels was asked.
    """

    rows: NDArray[np.int64]
    manifest: Manifest
    groups: list[str]
    logits: Floats
    probabilities: Floats
    failed: dict[str, str]
    verdicts: Verdicts | None = None


def write_predictions(path: Path, cases: JudgedCases, labels: Labels, decision: Decision) -> Path:
    """Writes ``predictions.csv``, a line a case.

    ``label`` is the true class. With two classes ``logit`` is the log-odds of the positive class before the temperature
    and ``prob`` its probability; with more, both are those of the predicted class. A column ``p_<class>`` follows for
    each class, then ``set`` (class names with ``|`` between), ``abstain`` (true or false), ``ood_score`` and ``reasons``,
    empty where the bundle has no sets and no gate. ``path`` is relative to the data set. A file, patient or group name that
    a spreadsheet would run as a formula is written with a ``'`` before it.

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
    writer.writerow([*COLUMNS, *(f"p_{name}" for name in labels.names), *_VERDICT])
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
                *_verdict(cases.verdicts, labels, i),
            ]
        )
    return write_atomic(path, stream.getvalue())


def _verdict(verdicts: Verdicts | None, labels: Labels, i: int) -> list[str]:
    """Returns the cells of one case in the order of ``_VERDICT``."""
    if verdicts is None or verdicts.abstain is None:
        return [""] * len(_VERDICT)
    held = "" if verdicts.sets is None else "|".join(np.array(labels.names)[verdicts.sets[i]])
    score = "" if verdicts.ood_score is None else repr(float(verdicts.ood_score[i]))
    return [spreadsheet_text(held), str(bool(verdicts.abstain[i])).lower(), score, "; ".join(verdicts.reasons[i])]


def _logits(logits: Floats, shown: NDArray[np.int64]) -> Floats:
    """Returns the one logit of each case that the table shows."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    if logits.shape[1] == 2:
        return logits[:, 1] - logits[:, 0]
    return np.take_along_axis(logits, shown[:, None], axis=1)[:, 0]
