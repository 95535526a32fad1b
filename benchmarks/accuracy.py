"""Trains a recipe with several seeds and prints the mean metrics of the test split.

Run: python benchmarks/accuracy.py DATA --out FOLDER [--seeds 0 1 2] [-- any option of reslink train]

Each seed has its own split unless ``data.split_seed`` is set. The interval is the mean over seeds of the lower and of the upper
ends of the runs' own 95 % intervals (bootstrap over patients or duplicate groups). It is about as wide as the interval of one
run, because more seeds do not add patients.

Where leakage was allowed, the test images with an image of their group in the training split are also evaluated apart from the
others. Where nothing leaked, those that have an image of their group in the data set at all are: such images may be easier in
themselves.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from reslink.evaluation.compare import ModelEvaluation
from reslink.labels import Labels
from reslink.metrics.classification import classification_metrics

METRICS = ("accuracy", "ppv", "sensitivity", "specificity", "auroc")


def train_seed(data: Path, out: Path, seed: int, options: list[str]) -> dict[str, Any]:
    """Trains one seed and returns its evaluation.json; a finished run is only evaluated again."""
    run = out / f"seed{seed}"
    command = [sys.executable, "-m", "reslink", "train", str(data), "--out", str(run), "--seed", str(seed), "--resume"]
    subprocess.run([*command, *options], check=True)
    evaluation: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    return evaluation


def seconds(run: Path) -> float:
    """Returns the training seconds of a run without validation and decoding."""
    with (run / "results.csv").open(newline="") as stream:
        return sum(float(row["seconds"]) for row in csv.DictReader(stream))


def table(results: list[dict[str, Any]]) -> list[str]:
    """Returns one line per metric: mean over seeds, mean interval, and the value of each seed."""
    lines = []
    for name in METRICS:
        entries = [result["metrics"][name] for result in results]
        if any(entry["estimate"] is None for entry in entries):
            lines.append(f"{name:12s} undefined: {entries[0]['method']}")
            continue
        mean = statistics.mean(entry["estimate"] for entry in entries)
        ends = [
            f"{statistics.mean(e[key] for e in entries):.3f}" if all(e[key] is not None for e in entries) else "–"
            for key in ("ci_low", "ci_high")
        ]
        seeds = " ".join(f"{entry['estimate']:.3f}" for entry in entries)
        lines.append(f"{name:12s} {mean:.3f}  [{ends[0]}, {ends[1]}]  seeds {seeds}  n {entries[0]['n']}")
    for method in ("first_attention", "final_attention", "grad_cam", "center"):
        entries = [r["localization"]["methods"][method]["pointing_game"]["estimate"] for r in results if r["localization"]]
        if entries:
            lines.append(f"pointing {method:16s} {statistics.mean(entries):.3f}  n {results[0]['localization']['n']}")
    return lines


def related_and_other(run: Path) -> dict[str, dict[str, Any]]:
    """Returns the metrics of the leaked test images of a run, else of those in a group of several images, and of the others.

    Empty if there are not both.
    """
    read = ModelEvaluation.read(run.name, run)
    labels = Labels(tuple(read.evaluation["labels"]))
    names = {case["path"] for case in read.evaluation["leaked"]}
    kind = "leaked"
    if not names:
        with (run / "splits.csv").open(newline="", encoding="utf-8") as stream:
            sizes = Counter(row["group"] for row in csv.DictReader(stream))
        kind, names = "in a group of several images", {name for name, row in read.rows.items() if sizes[row["group"]] > 1}
    subsets = {kind: sorted(read.rows.keys() & names), "other": sorted(read.rows.keys() - names)}
    if not all(subsets.values()):
        return {}
    results = {}
    for subset, cases in subsets.items():
        answers = read.predictions(cases, labels)
        rows = [read.rows[case] for case in cases]
        y_true = [labels.index(row["label"]) for row in rows]
        groups = [row["group"] for row in rows]
        metrics, _ = classification_metrics(y_true, answers.y_prob, answers.y_pred, groups, labels.names)
        results[subset] = {"metrics": {name: estimate.as_dict() for name, estimate in metrics.items()}, "localization": None}
    return results


def main() -> None:
    """Trains the missing seeds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds to train")
    own, options = parser.parse_known_args()
    options = [option for option in options if option != "--"]
    results = [train_seed(own.data, own.out, seed, options) for seed in own.seeds]
    print(f"{own.data.name}: reslink train {' '.join(options)}")
    print("\n".join(table(results)))
    apart = [related_and_other(own.out / f"seed{seed}") for seed in own.seeds]
    for subset in apart[0] if all(apart) else ():
        print(f"test images, {subset}")
        print("\n".join(table([one[subset] for one in apart])))
    print(f"training seconds {[round(seconds(own.out / f'seed{seed}')) for seed in own.seeds]}")


if __name__ == "__main__":
    main()
