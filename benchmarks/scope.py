"""Measures how many images of each data set the shipped models decline.

    python benchmarks/scope.py DATA --images 400 --out FILE

An image is declined if the model refuses it by its look (modality, little brain), or if the out-of-distribution detector flags
it. Abstentions because of the prediction set are not counted, since they concern images that the model is for. Images are drawn
with a fixed seed.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any, Final

import numpy as np

from reslink.bundles.decision.ood import REASONS
from reslink.files import write_json
from reslink.inference.classifier import Classifier
from reslink.inference.prediction import Prediction
from reslink.metrics.intervals import wilson_interval

SETS: Final = ("ct", "ct_ich", "ct_rsna", "ct_phe", "mri4", "lgg", "mr_outside", "outside_scope")
MODELS: Final = ("ct", "mri4", "lgg")


def draw(folder: Path, images: int) -> dict[str, list[Path]]:
    """Returns images of a set by group: the set itself, or the labels of outside_scope."""
    with (folder / "manifest.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    chosen = np.random.default_rng(0).permutation(len(rows))[:images]
    groups: dict[str, list[Path]] = {}
    for i in sorted(chosen):
        name = rows[i]["label"] if folder.name == "outside_scope" else folder.name
        groups.setdefault(name, []).append(folder / rows[i]["path"])
    return groups


def share(count: int, n: int) -> dict[str, Any]:
    """Returns a share with its 95 % Wilson interval."""
    interval = wilson_interval(count, n)
    return {"count": count, "n": n, "share": interval.estimate, "ci_low": interval.ci_low, "ci_high": interval.ci_high}


def measure(predictions: list[Prediction]) -> dict[str, Any]:
    """Returns the shares of refused, flagged and declined images."""
    refused = [prediction.is_refused for prediction in predictions]
    flagged = [bool(set(prediction.reasons or ()) & set(REASONS.values())) for prediction in predictions]
    declined = sum(one or other for one, other in zip(refused, flagged, strict=True))
    n = len(predictions)
    return {"refused": share(sum(refused), n), "flagged": share(sum(flagged), n), "declined": share(declined, n)}


def main() -> None:
    """Measures every model on every set, prints a table and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    classifiers = {name: Classifier.load(name, device="cpu") for name in options.models}
    figures: dict[str, dict[str, Any]] = {name: {} for name in options.models}
    for set_name in SETS:
        for group, files in draw(options.data / set_name, options.images).items():
            for name, classifier in classifiers.items():
                row = figures[name][group] = measure(list(classifier.predict(files)))
                text = "  ".join(f"{key} {value['share']:.3f}" for key, value in row.items())
                print(f"{name:5s} {group:12s} n {len(files):4d}  {text}", flush=True)
    write_json(options.out, figures)


if __name__ == "__main__":
    main()
