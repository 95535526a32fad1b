"""Fits the modality detector of the package and measures it.

    python benchmarks/fit_modality_detector.py DATA --statistics FOLDER --series SERIES [--write]

DATA holds the folders of the data sets, each with a manifest.csv. FOLDER keeps the input statistics and groups, so that images
are decoded once. Every set has the same weight. Labels are noisy (mri4 holds some CT, ct some MR): an image is left out of the
fit if a detector that was fitted without its fold is sure of the other modality. Folds keep patients and near duplicates
together. Each set is measured twice: each fold with a detector that was fitted without it, and the whole set with a detector
that was fitted without the set; ct and ct_ich share images and are left out together. mr_outside and outside_scope are never
fitted on.

The pictures of the CT sets have a brain window. ct_narrow and ct_wide add windows from 80 to 4000 HU: synthetic heads, the
series DATA/series/ct_head, DATA/series/ct_rsna (ten slices of ten patients), and SERIES, 28 slices from the neck to the vertex
(In/GE of github.com/neurolabusc/dcm_qa_ct, BSD 2-Clause). They are measured on synthetic heads of another seed, on each fold of
ct_rsna with a detector that was fitted without it, and on SERIES with one that was fitted without SERIES.
--write replaces src/reslink/bundles/modality_detector.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVC

from reslink.bundles.decision.ood import Gaussian
from reslink.bundles.modality_detector import FILE, ModalityDetector
from reslink.datasets.near_duplicates.groups import connected_groups, find_duplicates, pairs_of_equal_keys
from reslink.datasets.near_duplicates.thumbnails import make_thumbnail
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
NARROW: Final = ((80, 40), (100, 35), (150, 40), (200, 75), (350, 50), (400, 40))
WIDE: Final = ((1000, 200), (1500, 300), (1800, 400), (2000, 350), (2500, 480), (3000, 500), (4000, 700), (4000, 1000))
WINDOWS: Final = (*NARROW, *WIDE)
"""Widths and centers in HU."""

REPORTED: Final = ((80, 40), (200, 75), (400, 40), (1800, 400), (3000, 500))
WINDOWED: Final = ("ct_narrow", "ct_wide")
ALWAYS: Final = -1
"""Fold of images that every detector is fitted on."""

LEVELS: Final = (-10.0, 15.0, 40.0)
"""Levels of the synthetic heads in mm."""

PREPROCESS: Final = Preprocess(size=192, channels=1)
SURE: Final = 1.0
"""Score beyond which a held-out image of the other modality counts as mislabeled."""

PENALTY: Final = 10.0
GAMMA: Final = 0.015

BIAS: Final = 0.2
"""Added to the score: a picture counts as CT only if it clearly looks like it, because MR is more varied than these sets."""

FOLDS: Final = 5
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
    **dict.fromkeys(WINDOWED, "synthetic, MIT (ct_head), RSNA 2019 competition rules (ct_rsna), BSD 2-Clause (dcm_qa_ct)"),
}

Floats = NDArray[np.float64]
Folds = NDArray[np.int64]
Mask = NDArray[np.bool_]
Sets = dict[str, Floats]


def read_rows(folder: Path) -> list[dict[str, str]]:
    """Returns the rows of the manifest of a set."""
    with (folder / "manifest.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def read_statistics(data: Path, folder: Path) -> tuple[Sets, dict[str, list[str]]]:
    """Returns the input statistics and labels of every image by set; computes what the folder lacks."""
    statistics: Sets = {}
    labels: dict[str, list[str]] = {}
    for name in (*FITTED, *EVALUATED):
        rows = read_rows(data / name)
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
    """Returns (windows, slices, 33) the statistics of 8-bit pictures of each slice, from the file if it exists."""
    if not file.exists():
        pictures = [
            Image(np.rint(np.clip((hu - center) / width + 0.5, 0, 1) * 255).astype(np.float32), "gray", white=255.0)
            for width, center in WINDOWS
            for hu in slices
        ]
        np.save(file, np.concatenate([input_statistics(PREPROCESS.pixels(picture)[None]) for picture in pictures]))
    return np.asarray(np.load(file)).reshape(len(WINDOWS), len(slices), -1)


def read_windows(data: Path, series: Path, folder: Path) -> dict[str, Floats]:
    """Returns the statistics of the sources of pictures at all windows; of these, "other_heads" are never fitted on."""
    sources = {
        "heads": synthetic_heads(101, 40),
        "ct_head": series_slices(data / "series" / "ct_head"),
        "ct_rsna": series_slices(data / "series" / "ct_rsna"),
        "series": series_slices(series),
        "other_heads": synthetic_heads(202, 15),
    }
    return {name: windowed_statistics(slices, folder / f"windows_{name}.npy") for name, slices in sources.items()}


def windowed_sets(windows: dict[str, Floats], names: Sequence[str]) -> tuple[Sets, dict[str, Folds]]:
    """Returns the sets of windowed pictures of some sources, and the fold of each picture."""
    rows = np.concatenate([windows[name] for name in names], axis=1)
    of_slice = np.concatenate(
        [
            np.arange(windows[name].shape[1]) % FOLDS if name == "ct_rsna" else np.full(windows[name].shape[1], ALWAYS)
            for name in names
        ]
    )
    parts = dict(zip(WINDOWED, (rows[: len(NARROW)], rows[len(NARROW) :]), strict=True))
    return (
        {name: part.reshape(-1, part.shape[-1]) for name, part in parts.items()},
        {name: np.tile(of_slice, len(part)) for name, part in parts.items()},
    )


def read_folds(data: Path, folder: Path) -> dict[str, Folds]:
    """Returns the fold of each image of the fitted sets; patients and near duplicates are in one fold."""
    folds: dict[str, Folds] = {}
    for names in (("ct", "ct_ich"), ("ct_rsna",), ("ct_phe",), ("mri4",), ("lgg",)):
        file = folder / f"groups_{'_'.join(names)}.npy"
        rows = [(name, row) for name in names for row in read_rows(data / name)]
        if not file.exists():
            pairs = pairs_of_equal_keys([row.get("patient_id") or i for i, (_, row) in enumerate(rows)])
            if not all(row.get("patient_id") for _, row in rows):
                thumbnails = np.stack([make_thumbnail(read_image(data / name / row["path"])) for name, row in rows])
                pairs += [(pair.first, pair.second) for pair in find_duplicates(thumbnails)]
            np.save(file, connected_groups(len(rows), np.array(pairs, np.intp).reshape(-1, 2)))
        groups = np.load(file)
        fold = np.random.default_rng(0).integers(0, FOLDS, groups.max() + 1)[groups]
        folds |= {name: fold[[name == other for other, _ in rows]] for name in names}
    return folds


def modality_of(name: str) -> str:
    """Returns the modality of a fitted set."""
    return FITTED.get(name, "CT")


def head_of(name: str) -> str | None:
    """Returns the name of the normal distribution of a set; None for ct_narrow, which holds slices without brain."""
    return {"ct_wide": "CT at wide windows", "ct_narrow": None}.get(name, modality_of(name))


def fit(statistics: Sets, seed: int = 0) -> ModalityDetector:
    """Fits a detector on some sets, each with the same weight within its modality."""
    names = list(statistics)
    rows = np.concatenate(list(statistics.values()))
    is_mr = np.concatenate([np.full(len(statistics[name]), modality_of(name) == "MR") for name in names])
    per_modality = Counter(modality_of(name) for name in names)
    weight = np.concatenate([np.full(len(statistics[n]), 1 / per_modality[modality_of(n)] / len(statistics[n])) for n in names])
    mean, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
    model = SVC(C=PENALTY, gamma=GAMMA)
    model.fit((rows - mean) / scale, is_mr, sample_weight=weight * len(weight) / weight.sum())
    rng = np.random.default_rng(seed)
    balanced = {name: statistics[name][rng.choice(len(statistics[name]), PER_SET)] for name in names if head_of(name)}
    heads = {
        head: Gaussian.fit(np.concatenate([rows for name, rows in balanced.items() if head_of(name) == head]))
        for head in sorted({head_of(name) or "" for name in balanced})
    }
    pooled = np.concatenate(list(balanced.values()))
    distance = np.min([head.distance(pooled) for head in heads.values()], axis=0)
    limit = round(float(np.quantile(distance, RETAINED)), 6)
    intercept = round(float(model.intercept_[0]) + BIAS, 6)
    return ModalityDetector(mean, scale, model.support_vectors_, model.dual_coef_[0], intercept, GAMMA, heads, limit)


def without(statistics: Sets, name: str) -> Sets:
    """Returns the sets that share no image with one."""
    return {other: rows for other, rows in statistics.items() if other not in RELATED.get(name, (name,))}


def held_out(statistics: Sets, kept: dict[str, Mask], folds: dict[str, Folds]) -> list[ModalityDetector]:
    """Returns the detectors that were fitted without each fold, on the kept images."""
    return [fit({name: rows[kept[name] & (folds[name] != fold)] for name, rows in statistics.items()}) for fold in range(FOLDS)]


def keep_labeled(statistics: Sets, folds: dict[str, Folds]) -> dict[str, Mask]:
    """Returns which images to fit on: not those that surely look like the other modality without their fold."""
    kept = {name: np.ones(len(rows), np.bool_) for name, rows in statistics.items()}
    for _ in range(2):  # the second time without the mislabeled images that the first one found
        detectors = held_out(statistics, kept, folds)
        for name in FITTED:
            score = across_folds(statistics[name], folds[name], [detector.score for detector in detectors])
            kept[name] = (score <= SURE) if FITTED[name] == "CT" else (score >= -SURE)
    return kept


def across_folds(rows: Floats, fold: Folds, functions: Sequence[Callable[[Floats], Any]]) -> NDArray[Any]:
    """Returns the result of each row by the function of its fold."""
    result: NDArray[Any] = np.empty(len(rows), np.asarray(functions[0](rows[:1])).dtype)
    for number, function in enumerate(functions):
        result[fold == number] = function(rows[fold == number])
    return result


def shares(looks: Sequence[str | None]) -> dict[str, Any]:
    """Returns how many images look like CT, MR and neither, with 95 % Wilson intervals."""
    looks = list(looks)
    result: dict[str, Any] = {"n": len(looks)}
    for key, value in (("CT", "CT"), ("MR", "MR"), ("neither", None)):
        interval = wilson_interval(looks.count(value), len(looks)).as_dict()
        result[key] = {end: round(interval[end], 4) for end in ("estimate", "ci_low", "ci_high")}
    return result


def looks_of(detector: ModalityDetector) -> Callable[[Floats], NDArray[Any]]:
    """Returns the function that classifies rows, with an array as its result."""
    return lambda rows: np.array(detector.classify(rows), object)


def windowed_figures(
    windows: dict[str, Floats], detector: ModalityDetector, without_series: ModalityDetector, detectors: list[ModalityDetector]
) -> dict[str, Any]:
    """Returns the shares of pictures at some windows, each classified by a detector that was fitted without them."""
    figures = {}
    for name, one in (("other_heads", detector), ("series", without_series), ("ct_rsna", None)):
        by_fold = [looks_of(one or other) for other in detectors]
        for width, center in REPORTED:
            rows = windows[name][WINDOWS.index((width, center))]
            looks = across_folds(rows, np.arange(len(rows)) % FOLDS, by_fold)
            figures[f"{name}, window {width}, center {center}"] = {"fitted_without_it": shares(looks.tolist())}
    return figures


def to_json(record: dict[str, Any], detector: dict[str, Any]) -> str:
    """Returns the text of the file: one line for each entry of the record, each figure, and the numbers."""

    def lines(value: dict[str, Any]) -> str:
        return ",\n".join(f"{json.dumps(key)}: {json.dumps(item)}" for key, item in value.items())

    figures = f'"figures": {{\n{lines(record["figures"])}\n}}'
    rest = lines({key: value for key, value in record.items() if key != "figures"})
    return f'{{"record": {{\n{rest},\n{figures}}},\n"detector": {json.dumps(detector, separators=(",", ":"))}}}\n'


def main() -> None:
    """Fits, measures, prints, and writes the file if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--statistics", type=Path, required=True)
    parser.add_argument("--series", type=Path, required=True)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("error")
    statistics, labels = read_statistics(options.data, options.statistics)
    outside = {name: statistics.pop(name) for name in EVALUATED}
    windows = read_windows(options.data, options.series, options.statistics)
    rows, folds = windowed_sets(windows, ("heads", "ct_head", "ct_rsna", "series"))
    statistics |= rows
    folds |= read_folds(options.data, options.statistics)
    kept = keep_labeled(statistics, folds)
    fitted = {name: rows[kept[name]] for name, rows in statistics.items()}
    detector = ModalityDetector.from_dict(fit(fitted).as_dict())
    detectors = held_out(statistics, kept, folds)
    figures: dict[str, Any] = {}
    for name in FITTED:
        looks = across_folds(statistics[name], folds[name], [looks_of(one) for one in detectors])
        figures[name] = {
            "fitted_with_it": shares(detector.classify(statistics[name])),
            "fitted_without_its_fold": shares(looks.tolist()),
            "fitted_without_it": shares(fit(without(fitted, name)).classify(statistics[name])),
        }
    figures |= windowed_figures(
        windows, detector, fit(fitted | windowed_sets(windows, ("heads", "ct_head", "ct_rsna"))[0]), detectors
    )
    figures["mr_outside"] = {"fitted_without_it": shares(detector.classify(outside["mr_outside"]))}
    for label in sorted(set(labels["outside_scope"])):
        rows = outside["outside_scope"][np.array(labels["outside_scope"]) == label]
        figures[f"outside_scope: {label}"] = {"fitted_without_it": shares(detector.classify(rows))}
    record = {
        "data": {
            name: {"modality": modality_of(name), "license": LICENSES[name], "left_out": int((~kept[name]).sum())}
            for name in (*FITTED, *WINDOWED)
        },
        "method": "support vector machine on the 33 input statistics; Mahalanobis distance from CT, CT at wide windows and MR",
        "preprocess": PREPROCESS.model_dump(mode="json"),
        "settings": {"penalty": PENALTY, "bias": BIAS, "sure": SURE},
        "retained": RETAINED,
        "figures": figures,
    }
    print(json.dumps(record, indent=1))
    if options.write:
        write_atomic(FILE, to_json(record, detector.as_dict()))


if __name__ == "__main__":
    main()
