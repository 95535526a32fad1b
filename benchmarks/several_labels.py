"""Trains a model with several labels at once on each fold of a data set, and measures the pooled held-out predictions.

    python benchmarks/several_labels.py DATA/ct_ich --out RUNS --recipe small_20 --set preprocess.size=160

Each image is predicted once, by the model of the fold in which it is held out (a fifth tests, a fifth chooses the epoch, the
rest trains). Groups, patients with their near duplicates, are in one fold. Writes ``several_labels.csv`` below ``--out``: AUROC
and average precision of each label and their means, with 95 % bootstrap intervals over groups. A finished fold is not repeated.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any, Final

import numpy as np

import reslink
from reslink.files import csv_text, write_atomic
from reslink.metrics.classification import classification_metrics
from reslink.metrics.intervals import Estimate
from reslink.metrics.several_labels.macro import macro_metrics
from reslink.metrics.several_labels.states import known_rows, two_columns

LABELS: Final = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
METRICS: Final = ("auroc", "auprc")


def held_out(data: Path, out: Path, folds: int, options: argparse.Namespace) -> list[dict[str, str]]:
    """Trains every fold and returns the rows of their ``predictions.csv``."""
    rows: list[dict[str, str]] = []
    for fold in range(folds):
        run = reslink.train(
            data,
            out / f"fold{fold}",
            labels=LABELS,
            recipe=options.recipe,
            settings=[*options.set, f"data.folds={folds}", f"data.fold={fold}"],
            init=options.init,
            seed=options.seed,
            allow_conflicts=True,
            resume=True,
            progress=True,
        )
        with (Path(run["run"]) / "predictions.csv").open(newline="", encoding="utf-8") as stream:
            rows += [row for row in csv.DictReader(stream) if row["prediction"]]
    return rows


def measured(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Returns one line for each label and metric, and for the means over the labels."""

    def numbers(column: str, kind: type) -> Any:
        return np.array([[kind(row[f"{column}_{name}"] or -1) for name in LABELS] for row in rows])

    states, probabilities, predicted = numbers("true", int), numbers("p", float), numbers("predicted", int)
    groups = [row["group"] for row in rows]
    lines = []
    for k, known in enumerate(known_rows(states)):
        arrays = (states[known, k], two_columns(probabilities[known, k]), predicted[known, k], [groups[i] for i in known])
        metrics, _ = classification_metrics(*arrays, ("absent", "present"))
        present = known[states[known, k] == 1]
        counts = {"n": len(known), "present": len(present), "groups_present": len({groups[i] for i in present})}
        lines += [_line(LABELS[k], name, metrics[name], counts) for name in METRICS]
    macro = macro_metrics(states, probabilities, predicted, groups, LABELS)
    common = [k for k in range(len(LABELS)) if len({groups[i] for i in np.flatnonzero(states[:, k] == 1)}) >= 10]
    of_common = macro_metrics(
        states[:, common], probabilities[:, common], predicted[:, common], groups, [LABELS[k] for k in common]
    )
    counts = {"n": len(rows), "present": int((states == 1).any(axis=1).sum()), "groups_present": len(set(groups))}
    for title, metrics in (("mean of all labels", macro), ("mean of labels in 10 groups or more", of_common)):
        lines += [_line(title, name, metrics[name], counts) for name in METRICS]
    return lines


def _line(label: str, metric: str, estimate: Estimate, counts: dict[str, int]) -> dict[str, Any]:
    shown = (estimate.estimate, estimate.ci_low, estimate.ci_high)
    numbers = ["" if value is None else f"{value:.3f}" for value in shown]
    values = dict(zip(("estimate", "ci_low", "ci_high"), numbers, strict=True))
    return {"label": label, "metric": metric, **values, **counts, "method": estimate.method}


def main() -> None:
    """Trains, measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--recipe", default="small_20")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--init")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lines = measured(held_out(options.data, options.out, options.folds, options))
    for line in lines:
        print(line)
    write_atomic(options.out / "several_labels.csv", csv_text(list(lines[0]), lines))


if __name__ == "__main__":
    main()
