"""Measures whether the maps of a model point at the lesions of a data set with masks.

    python benchmarks/localization.py ct DATA/ct_phe --patients 40 --out FILE

Of each patient, in the order of the table, the middle one of the lesion slices that the model calls positive is measured, until
there are enough patients. The measures are those of ``reslink evaluate``: pointing game, energy inside the lesion, and IoU at
the area of the lesion, in the coordinates of the network input. Intervals of the pointing game are 95 % Wilson intervals.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError
from reslink.explain.display import METHODS, TITLES
from reslink.explain.evaluation_mode import resize_maps
from reslink.explain.heat_maps import heat_maps
from reslink.explain.localize import center_gaussian, measure
from reslink.files import csv_text, write_atomic
from reslink.imaging.lesion_mask import aligned_mask
from reslink.imaging.reading import read_image
from reslink.inference.classifier import Classifier
from reslink.metrics.intervals import wilson_interval

CENTER: Final = "center of the image, no knowledge"


def positive_slices(classifier: Classifier, manifest: Manifest, patients: int) -> Iterator[Case]:
    """Yields one slice for each patient: the middle lesion slice of those that the model calls positive."""
    by_patient: dict[str, list[Case]] = {}
    for case in manifest.cases:
        if case.mask is not None:
            by_patient.setdefault(case.patient_id or case.name, []).append(case)
    for cases in by_patient.values():
        predictions = classifier.predict([case.path for case in cases])
        called = [
            case
            for case, prediction in zip(cases, predictions, strict=True)
            if prediction.label == classifier.labels.positive and not prediction.error
        ]
        if called and patients > 0:
            patients -= 1
            yield called[len(called) // 2]
        if not patients:
            return


def measures(classifier: Classifier, case: Case) -> dict[str, tuple[float, float, float]]:
    """Returns pointing game, energy inside and IoU of each map of a slice."""
    preprocess = classifier.bundle.preprocess
    image = read_image(case.path, case.unit).slices()[0]
    if case.mask is None:
        raise UsageError(f"{case.name} has no mask", "A lesion mask is needed", "Add the column 'mask'")
    lesion: NDArray[np.bool_] = np.asarray(aligned_mask(read_image(case.mask).slices()[0], image).pixels != 0)
    mask = preprocess.placement(image).to_network(lesion)
    heats = heat_maps(classifier, preprocess.pixels(image), len(classifier.labels) - 1)
    maps = {TITLES[name]: resize_maps(heats[name][None], mask.shape)[0] for name in METHODS if name in heats}
    return {name: measure(heat, mask) for name, heat in (maps | {CENTER: center_gaussian(mask.shape[0])}).items()}


def table(measured: list[dict[str, tuple[float, float, float]]]) -> list[dict[str, Any]]:
    """Returns a row for each map, the best in the pointing game first and the center last."""
    rows = []
    for name in measured[0]:
        hits, energy, iou = np.array([one[name] for one in measured]).T
        interval = wilson_interval(int(hits.sum()), len(hits))
        values = {
            "pointing game": interval.estimate,
            "pointing game low": interval.ci_low,
            "pointing game high": interval.ci_high,
            "energy inside the lesion": energy.mean(),
            "IoU": iou.mean(),
        }
        rows.append({"map": name, **{key: f"{value:.3f}" for key, value in values.items()}})
    return sorted(rows, key=lambda row: (row["map"] == CENTER, -float(row["pointing game"])))


def main() -> None:
    """Measures the maps, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of a shipped model, or folder of a bundle")
    parser.add_argument("data", type=Path, help="data set with the columns patient_id and mask")
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True, help="CSV file")
    options = parser.parse_args()
    classifier = Classifier.load(options.model, device="cpu")
    manifest = Manifest.open(options.data, labels=classifier.labels)
    measured = []
    for case in positive_slices(classifier, manifest, options.patients):
        measured.append(measures(classifier, case))
        print(f"{len(measured)} {case.name}", flush=True)
    rows = table(measured)
    write_atomic(options.out, csv_text(list(rows[0]), rows))
    with options.out.open(encoding="utf-8") as stream:
        for row in csv.reader(stream):
            print("\t".join(row))


if __name__ == "__main__":
    main()
