"""Fits the modality detector of the package and measures it.

    python benchmarks/fit_modality_detector.py DATA --statistics FOLDER [--write]

DATA holds the folders of the data sets, each with a manifest.csv. FOLDER keeps the input statistics, so that images are decoded
once. Every set has the same weight. Labels are noisy (mri4 holds some CT, ct some MR): an image is left out of the fit if a
detector that was fitted without its set is sure of the other modality. Each set is also measured with a detector that was
fitted without it; ct and ct_ich share images and are left out together. mr_outside and outside_scope are never fitted on.

The pictures of the CT sets have a brain window. ct_windows adds CT at eight windows up to 4000 HU wide: synthetic heads and the
series DATA/series/ct_head. It is measured on synthetic heads of another seed and on DATA/series/ct_rsna, ten slices of ten
patients, of which six show the base of the skull, the face or no head.
--write replaces src/reslink/bundles/modality_detector.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from reslink.bundles.decision.ood import Gaussian
from reslink.bundles.modality_detector import FILE, ModalityDetector
from reslink.datasets.phantom.cohort import render_slice
from reslink.files import write_atomic
from reslink.imaging.image import Image
from reslink.imaging.input_statistics import input_statistics
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.metrics.intervals import wilson_interval

FITTED: Final = {"ct": "CT", "ct_ich": "CT", "ct_rsna": "CT", "ct_phe": "CT", "mri4": "MR", "lgg": "MR"}
RELATED: Final = {"ct": ("ct", "ct_ich"), "ct_ich": ("ct", "ct_ich")}
"""Sets that share images."""

EVALUATED: Final = ("mr_outside", "outside_scope")
WINDOWED: Final = "ct_windows"
WINDOWS: Final = ((80, 40), (150, 40), (400, 40), (1000, 200), (1800, 400), (2500, 480), (3000, 500), (4000, 1000))
"""Widths and centers in HU."""

LEVELS: Final = (-10.0, 15.0, 40.0)
"""Levels of the synthetic heads in mm."""

PREPROCESS: Final = Preprocess(size=192, channels=1)
SURE: Final = 0.9
RETAINED: Final = 0.999
"""Share of the images of all sets that count as a head."""

PER_SET: Final = 1500
LICENSES: Final = {
    "ct": "CC BY-NC-SA 4.0 as stated by a derived copy",
    "ct_ich": "CC BY 4.0 (PhysioNet CT-ICH)",
    "ct_rsna": "RSNA 2019 competition rules: non-commercial research",
    "ct_phe": "CC BY 4.0 (PHE-SICH-CT-IDS)",
    "mri4": "not settled: MIT on Kaggle, most images CC BY 4.0 (figshare)",
    "lgg": "CC BY 3.0 (TCIA TCGA-LGG)",
    WINDOWED: "synthetic, and MIT (series/ct_head)",
}

Floats = NDArray[np.float64]
Sets = dict[str, Floats]


def read_statistics(data: Path, folder: Path) -> tuple[Sets, dict[str, list[str]]]:
    """Returns the input statistics and labels of every image by set; computes what the folder lacks."""
    statistics: Sets = {}
    labels: dict[str, list[str]] = {}
    for name in (*FITTED, *EVALUATED):
        with (data / name / "manifest.csv").open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        file = folder / f"{name}.npy"
        if not file.exists():
            pixels = [PREPROCESS.pixels(read_image(data / name / row["path"]))[None] for row in rows]
            np.save(file, np.concatenate([input_statistics(one) for one in pixels]))
        statistics[name], labels[name] = np.load(file), [row["label"] for row in rows]
    return statistics, labels


def synthetic_heads(seed: int, patients: int) -> list[Floats]:
    """Returns slices of synthetic heads in HU; every other patient has a lesion."""
    return [
        render_slice(seed, index, level=level, tumor=bool(index % 2)).pixels.astype(np.float64)
        for index in range(1, patients + 1)
        for level in LEVELS
    ]


def series_slices(folder: Path) -> list[Floats]:
    """Returns the slices of a folder of CT files in HU."""
    return [read_image(path).pixels.astype(np.float64) for path in sorted(folder.glob("*.dcm"))]


def windowed_statistics(slices: list[Floats], file: Path) -> Floats:
    """Returns the input statistics of 8-bit pictures of each slice at each window, from the file if it exists."""
    if not file.exists():
        pictures = [
            Image(np.rint(np.clip((hu - center) / width + 0.5, 0, 1) * 255).astype(np.float32), "gray", white=255.0)
            for width, center in WINDOWS
            for hu in slices
        ]
        np.save(file, np.concatenate([input_statistics(PREPROCESS.pixels(picture)[None]) for picture in pictures]))
    return np.asarray(np.load(file))


def modality_of(name: str) -> str:
    """Returns the modality of a fitted set."""
    return "CT" if name == WINDOWED else FITTED[name]


def head_of(name: str) -> str:
    """Returns the name of the normal distribution that a set belongs to."""
    return "CT windows" if name == WINDOWED else FITTED[name]


def fit(statistics: Sets, names: list[str], seed: int = 0) -> ModalityDetector:
    """Fits a detector on some sets, each with the same weight within its modality."""
    rows = np.concatenate([statistics[name] for name in names])
    is_mr = np.concatenate([np.full(len(statistics[name]), modality_of(name) == "MR") for name in names])
    per_modality = [sum(modality_of(name) == modality_of(other) for other in names) for name in names]
    weight = np.concatenate(
        [np.full(len(statistics[n]), 1 / len(statistics[n]) / k) for n, k in zip(names, per_modality, strict=True)]
    )
    mean, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
    model = LogisticRegression(C=0.3, max_iter=2000)
    model.fit((rows - mean) / scale, is_mr, sample_weight=weight * len(weight) / weight.sum())
    rng = np.random.default_rng(seed)
    balanced = {name: statistics[name][rng.choice(len(statistics[name]), PER_SET)] for name in names}
    heads = {
        head: Gaussian.fit(np.concatenate([balanced[name] for name in names if head_of(name) == head]))
        for head in sorted({head_of(name) for name in names})
    }
    pooled = np.concatenate(list(balanced.values()))
    distance = np.min([head.distance(pooled) for head in heads.values()], axis=0)
    limit = round(float(np.quantile(distance, RETAINED)), 6)
    return ModalityDetector(mean, scale, model.coef_[0], float(model.intercept_[0]), heads, limit)


def without(name: str) -> list[str]:
    """Returns the fitted sets that share no image with one."""
    return [other for other in FITTED if other not in RELATED.get(name, (name,))]


def cleaned(statistics: Sets) -> tuple[Sets, dict[str, int]]:
    """Returns the statistics without the images that a detector fitted without their set surely sees as the other modality."""
    kept, dropped = dict(statistics), {}
    for name, modality in FITTED.items():
        probability = fit(statistics, without(name)).probability_of_mr(statistics[name])
        wrong = probability > SURE if modality == "CT" else probability < 1 - SURE
        kept[name], dropped[name] = statistics[name][~wrong], int(wrong.sum())
    return kept, dropped


def shares(detector: ModalityDetector, rows: Floats) -> dict[str, Any]:
    """Returns how many images look like CT, MR and neither, with 95 % Wilson intervals."""
    looks = detector.classify(rows)
    result: dict[str, Any] = {"n": len(rows)}
    for key, value in (("CT", "CT"), ("MR", "MR"), ("neither", None)):
        count = looks.count(value)  # type: ignore[arg-type]
        interval = wilson_interval(count, len(rows)).as_dict()
        result[key] = {end: round(interval[end], 4) for end in ("estimate", "ci_low", "ci_high")}
    return result


def main() -> None:
    """Fits, measures, prints, and writes the file if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--statistics", type=Path, required=True)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("error")
    statistics, labels = read_statistics(options.data, options.statistics)
    kept, dropped = cleaned(statistics)
    slices = synthetic_heads(101, 40) + series_slices(options.data / "series" / "ct_head")
    kept[WINDOWED] = windowed_statistics(slices, options.statistics / f"{WINDOWED}.npy")
    dropped[WINDOWED] = 0
    detector = ModalityDetector.from_dict(fit(kept, [*FITTED, WINDOWED]).as_dict())
    figures = {}
    for name in FITTED:
        figures[name] = {
            "fitted_with_it": shares(detector, statistics[name]),
            "fitted_without_it": shares(fit(kept, [*without(name), WINDOWED]), statistics[name]),
        }
    outside = {
        "synthetic heads": synthetic_heads(202, 15),
        "series/ct_rsna": series_slices(options.data / "series" / "ct_rsna"),
    }
    for name, planes in outside.items():
        rows = windowed_statistics(planes, options.statistics / f"windows_{name.replace('/', '_')}.npy")
        for (width, center), part in zip(WINDOWS, np.split(rows, len(WINDOWS)), strict=True):
            figures[f"{name}, window {width}, center {center}"] = {"fitted_without_it": shares(detector, part)}
    figures["mr_outside"] = {"fitted_without_it": shares(detector, statistics["mr_outside"])}
    for label in sorted(set(labels["outside_scope"])):
        rows = statistics["outside_scope"][np.array(labels["outside_scope"]) == label]
        figures[f"outside_scope: {label}"] = {"fitted_without_it": shares(detector, rows)}
    record = {
        "data": {
            name: {"modality": modality_of(name), "license": LICENSES[name], "left_out": dropped[name]}
            for name in (*FITTED, WINDOWED)
        },
        "method": "logistic regression on the 33 input statistics; Mahalanobis distance from CT, CT windows and MR",
        "preprocess": PREPROCESS.model_dump(mode="json"),
        "sure": SURE,
        "retained": RETAINED,
        "figures": figures,
    }
    print(json.dumps(record, indent=1))
    if options.write:
        numbers = json.dumps(detector.as_dict(), separators=(",", ":"))
        write_atomic(FILE, f'{{"record": {json.dumps(record, indent=1)},\n"detector": {numbers}}}\n')


if __name__ == "__main__":
    main()
