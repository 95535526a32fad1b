"""Accuracy of a recipe over seeds, each seed with a split of its own: trains as a user would and reads evaluation.json.

Run: python benchmarks/accuracy.py DATA --out FOLDER [--seeds 0 1 2] [-- any option of reslink train]

The interval is the mean over seeds of the lower and of the upper ends of the runs' own
95 % intervals (bootstrap over patients or near-copy groups), so it is about as wide as that of one
run: seeds are no new patients.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

FIGURES = ("accuracy", "ppv", "sensitivity", "specificity", "auroc")


def trained(data: Path, out: Path, seed: int, options: list[str]) -> dict[str, Any]:
    """Returns evaluation.json of a run; a finished run is only judged again, one with other options refused."""
    run = out / f"seed{seed}"
    command = [sys.executable, "-m", "reslink", "train", str(data), "--out", str(run), "--seed", str(seed), "--resume"]
    subprocess.run([*command, *options], check=True)
    found: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    return found


def seconds(run: Path) -> float:
    """Returns the training seconds of a run, validation and decoding left out."""
    with (run / "results.csv").open(newline="") as stream:
        return sum(float(row["seconds"]) for row in csv.DictReader(stream))


def table(results: list[dict[str, Any]]) -> list[str]:
    """Returns one line a figure: mean over seeds, mean interval, and each seed."""
    lines = []
    for name in FIGURES:
        found = [result["metrics"][name] for result in results]
        if any(entry["estimate"] is None for entry in found):
            lines.append(f"{name:12s} undefined: {found[0]['method']}")
            continue
        mean = statistics.mean(entry["estimate"] for entry in found)
        ends = [
            f"{statistics.mean(e[key] for e in found):.3f}" if all(e[key] is not None for e in found) else "–"
            for key in ("ci_low", "ci_high")
        ]
        seeds = " ".join(f"{entry['estimate']:.3f}" for entry in found)
        lines.append(f"{name:12s} {mean:.3f}  [{ends[0]}, {ends[1]}]  seeds {seeds}  n {found[0]['n']}")
    for method in ("first_attention", "final_attention", "grad_cam", "centre"):
        found = [r["localization"]["methods"][method]["pointing_game"]["estimate"] for r in results if r["localization"]]
        if found:
            lines.append(f"pointing {method:16s} {statistics.mean(found):.3f}  n {results[0]['localization']['n']}")
    return lines


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    own, options = parser.parse_known_args()
    options = [option for option in options if option != "--"]
    results = [trained(own.data, own.out, seed, options) for seed in own.seeds]
    print(f"{own.data.name}: reslink train {' '.join(options)}")
    print("\n".join(table(results)))
    print(f"training seconds {[round(seconds(own.out / f'seed{seed}')) for seed in own.seeds]}")


if __name__ == "__main__":
    main()
