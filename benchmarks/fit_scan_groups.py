"""Fits the model behind ``--group-by scan`` and measures the groups.

    python benchmarks/fit_scan_groups.py DATA --signatures FOLDER [--write]

DATA holds the folders lgg, ct_phe and ct_ich, each with a manifest.csv whose patients are known. FOLDER keeps the signatures,
so that images are read once. Patients are divided in two halves by a checksum of their id: the model is fitted and its
threshold chosen on one, and measured on the other, which is grouped alone. Names and numbers of files are not used: the names
of these sets state the patient, so what they add could not be measured.

Each set is used twice: as it is, and with every image cropped to its head by another margin, without anything outside it. A
pair is positive in the fit if it shows one patient, one or two slices apart; other pairs of one patient are left out.

Precision is the share of pairs in one group that show one patient; recall is the share of pairs of one patient, one or two
slices apart, that are in one group. The threshold is chosen on the fitted half by cross-validation over patients: each pair has
the log odds of a model that saw neither of its patients. It is the smallest at which each set reaches a precision of 0.95. The
log odds of missing pairs (of -4 to 1) and the number of networks were chosen in the same way, by runs with edited constants.

The record also holds the other half, with models of the other two sets as well, and two controls: near duplicates, and near
duplicates with similar images (the default without patients). Intervals resample patients.
--write replaces src/reslink/datasets/scan_groups/model.json and benchmarks/results/scan_groups.csv.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import re
import time
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.groups import duplicate_groups, leakage_groups
from reslink.datasets.near_duplicates.thumbnails import make_thumbnail
from reslink.datasets.scan_groups.groups import THRESHOLD, link_pairs
from reslink.datasets.scan_groups.model import FILE, MAX_DEVIATIONS, PairModel
from reslink.datasets.scan_groups.pairs import CandidatePairs, find_pairs
from reslink.datasets.scan_groups.signatures import Signature, Signatures, join_signatures, scan_signature
from reslink.files import write_atomic
from reslink.imaging.head_mask import head_mask
from reslink.imaging.image import Image
from reslink.imaging.reading import read_image

SETS: Final = ("lgg", "ct_phe", "ct_ich")
VERSIONS: Final = ("original", "cropped")
RESULTS: Final = Path(__file__).with_name("results") / "scan_groups.csv"
THRESHOLDS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0)
MIN_PRECISION: Final = 0.95
MAX_MARGIN: Final = 0.08
HIDDEN: Final = 24
NETWORKS: Final = 4
"""Networks from other seeds, whose mean is the model."""

FOLDS: Final = 4
RESAMPLES: Final = 2000
ADJACENT: Final = 2
UNKNOWN: Final = 99


@dataclass(frozen=True, eq=False)
class Sample:
    """Images of some patients of a set, with their candidate pairs."""

    thumbnails: NDArray[np.uint8]
    patients: NDArray[np.str_]
    slices: NDArray[np.intp]
    pairs: CandidatePairs

    @property
    def distances(self) -> NDArray[np.intp]:
        """Distance in slices of each pair; 99 between two patients."""
        first, second = self.pairs.first, self.pairs.second
        apart = np.abs(self.slices[first] - self.slices[second])
        return np.where(self.patients[first] == self.patients[second], apart, UNKNOWN)

    @property
    def neighbors(self) -> NDArray[np.intp]:
        """(k, 2) all pairs of one patient, one or two slices apart."""
        at = {key: i for i, key in enumerate(zip(self.patients.tolist(), self.slices.tolist(), strict=True))}
        near = [(i, at[p, s + d]) for (p, s), i in at.items() for d in range(1, ADJACENT + 1) if (p, s + d) in at]
        return np.array(near, np.intp).reshape(-1, 2)


def main() -> None:
    """Fits and measures the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--signatures", type=Path, required=True)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    options.signatures.mkdir(parents=True, exist_ok=True)
    samples = {
        (name, version, half): read_sample(options.data / name, options.signatures, version, half)
        for name, version, half in itertools.product(SETS, VERSIONS, (0, 1))
    }
    fitted = {key: sample for key, sample in samples.items() if key[2] == 0}
    record: dict[str, Any] = {"cross_validated": {}, "measured": {}, "left_out": {}, "controls": {}}
    for name, log_odds in cross_validated_log_odds({key[:2]: sample for key, sample in fitted.items()}).items():
        record["cross_validated"][name] = curve(fitted[name, "original", 0], log_odds)
    print(json.dumps(record["cross_validated"]), "threshold", chosen_threshold(record["cross_validated"]), flush=True)
    model = fit([(sample, np.ones(len(sample.patients), np.bool_)) for sample in fitted.values()])
    for name in SETS:
        without = fit([(s, np.ones(len(s.patients), np.bool_)) for key, s in fitted.items() if key[0] != name])
        for version in VERSIONS:
            sample = samples[name, version, 1]
            record["measured"][f"{name} {version}"] = curve(sample, model.log_odds(sample.pairs.features))
            record["left_out"][f"{name} {version}"] = curve(sample, without.log_odds(sample.pairs.features))
        record["controls"][name] = controls(samples[name, "original", 1], options.data / name)
        print(name, json.dumps(record["measured"]), flush=True)
    if options.write:
        write_atomic(FILE, (json.dumps({"model": model.as_dict(), "record": record}) + "\n").encode())
        write_results(record, samples)


def cross_validated_log_odds(samples: dict[tuple[str, str], Sample]) -> dict[str, NDArray[np.float64]]:
    """Returns the log odds of the pairs of each set, as it is, from models that saw neither patient of a pair."""
    folds = {key: fold_of_patients(key[0], sample.patients) for key, sample in samples.items()}
    found = {name: np.zeros(len(samples[name, "original"].pairs.first)) for name in SETS}
    for pair in itertools.combinations_with_replacement(range(FOLDS), 2):
        model = fit([(sample, ~np.isin(folds[key], pair)) for key, sample in samples.items()])
        for name in SETS:
            pairs, fold = samples[name, "original"].pairs, folds[name, "original"]
            ends = np.sort(np.stack([fold[pairs.first], fold[pairs.second]], axis=1), axis=1)
            rows = (ends == pair).all(axis=1)
            found[name][rows] = model.log_odds(pairs.features[rows])
    return found


def fold_of_patients(name: str, patients: NDArray[np.str_]) -> NDArray[np.intp]:
    """Returns the fold of each image, drawn by patient."""
    _, index = np.unique(patients, return_inverse=True)
    order = np.random.default_rng(zlib.crc32(name.encode())).permutation(int(index.max()) + 1)
    return np.asarray(np.argsort(order)[index] % FOLDS, np.intp)


def chosen_threshold(curves: dict[str, dict[str, Any]]) -> float:
    """Returns the smallest threshold at which each set reaches the precision."""
    return next(t for t in THRESHOLDS if all(c[str(t)]["precision"] >= MIN_PRECISION for c in curves.values()))


def read_sample(folder: Path, signatures: Path, version: str, half: int) -> Sample:
    """Returns one half of the patients of a set."""
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    stored = signatures / f"{folder.name}_{version}.npz"
    if not stored.exists():
        store_signatures([folder / row["path"] for row in rows], stored, crop=version == "cropped")
    arrays = dict(np.load(stored))
    chosen = np.flatnonzero([zlib.crc32(row["patient_id"].encode()) % 2 == half for row in rows])
    planes = tuple(arrays[f"plane{k}"][chosen] for k in range(len(arrays) - 3))
    pairs = find_pairs(Signatures(planes, arrays["heads"][chosen], arrays["numbers"][chosen]))
    numbers = [int(row.get("slice") or re.findall(r"\d+", row["path"])[-1]) for row in rows]
    patients = np.array([row["patient_id"] for row in rows])
    return Sample(arrays["thumbnails"][chosen], patients[chosen], np.array(numbers, np.intp)[chosen], pairs)


def store_signatures(paths: list[Path], stored: Path, *, crop: bool) -> None:
    """Stores the signatures and thumbnails of images."""
    rng = np.random.default_rng(0)
    signatures: list[Signature] = []
    thumbnails = []
    for path in paths:
        image = read_image(path)
        image = crop_to_head(image, rng) if crop else image
        signatures.append(scan_signature(image))
        thumbnails.append(make_thumbnail(image))
    joined = join_signatures(signatures, np.stack(thumbnails))
    arrays: dict[str, Any] = {f"plane{k}": plane for k, plane in enumerate(joined.planes)}
    np.savez(stored, heads=joined.heads, numbers=joined.numbers, thumbnails=np.stack(thumbnails), **arrays)


def crop_to_head(image: Image, rng: np.random.Generator) -> Image:
    """Crops an image to its head with random margins, and blackens the rest."""
    head = head_mask(image)
    if not head.any():
        return image
    near = cv2.dilate(head.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    pixels = np.where(near, image.pixels, image.pixels.min())
    spans = []
    for used in (np.flatnonzero(head.any(axis=1)), np.flatnonzero(head.any(axis=0))):
        before, after = rng.uniform(0, MAX_MARGIN, 2) * np.ptp(used)
        spans.append(slice(max(0, int(used[0] - before)), int(used[-1] + 1 + after)))
    return replace(image, pixels=np.ascontiguousarray(pixels[spans[0], spans[1]]), padding=None)


def fit(parts: Sequence[tuple[Sample, NDArray[np.bool_]]]) -> PairModel:
    """Fits a model to the chosen images of samples; each positive pair and each pair of two patients has the same weight."""
    features, positive = (np.concatenate(columns) for columns in zip(*itertools.starmap(fitted_pairs, parts), strict=True))
    scaler = StandardScaler().fit(features)
    standardized = np.clip(scaler.transform(features), -MAX_DEVIATIONS, MAX_DEVIATIONS)
    networks = list(fit_networks(standardized, positive))
    (hidden, output), (hidden_bias, bias) = (
        zip(*layers, strict=True)
        for layers in ([network.coefs_ for network in networks], [network.intercepts_ for network in networks])
    )
    return PairModel(
        scaler.mean_,
        scaler.scale_,
        np.concatenate(hidden, axis=1),
        np.concatenate(hidden_bias),
        np.concatenate(output)[:, 0] / NETWORKS,
        float(np.mean(bias)),
    )


def fitted_pairs(sample: Sample, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Returns the features of the pairs of chosen images that a model is fitted to, and which are positive."""
    distances = sample.distances
    used = (distances <= ADJACENT) | (distances == UNKNOWN)
    used &= chosen[sample.pairs.first] & chosen[sample.pairs.second]
    return sample.pairs.features[used].astype(np.float64), distances[used] <= ADJACENT


def fit_networks(features: NDArray[np.float64], positive: NDArray[np.bool_]) -> Iterator[MLPClassifier]:
    """Fits the networks of a model."""
    settings: dict[str, Any] = {"alpha": 1e-2, "batch_size": 512, "max_iter": 12, "learning_rate_init": 2e-3}
    for seed in range(NETWORKS):
        network = MLPClassifier((HIDDEN,), random_state=seed, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            yield network.fit(features, positive)


def measure(sample: Sample, groups: list[Any]) -> dict[str, Any]:
    """Returns precision and recall of groups with their intervals, see above, and the share of images that are not alone."""
    _, group = np.unique(groups, return_inverse=True)
    _, patient = np.unique(sample.patients, return_inverse=True)
    table = np.zeros((int(patient.max()) + 1, int(group.max()) + 1))
    np.add.at(table, (patient, group), 1)
    near, sizes = sample.neighbors, table.sum(axis=0)
    hits = group[near[:, 0]] == group[near[:, 1]]
    stated = np.bincount(patient[near[:, 0]], minlength=len(table))
    found = np.bincount(patient[near[:, 0]], weights=hits, minlength=len(table))
    correct, mixed = (table * (table - 1)).sum(axis=1), table @ table.T
    np.fill_diagonal(mixed, 0)
    draws = np.random.default_rng(0).multinomial(len(table), np.full(len(table), 1 / len(table)), RESAMPLES)
    weights = np.concatenate([np.ones((1, len(table))), draws])
    right = weights @ correct
    wrong = np.einsum("ri,ij,rj->r", weights, mixed, weights, optimize=True)
    precisions, recalls = right / np.maximum(right + wrong, 1), (weights @ found) / np.maximum(weights @ stated, 1)
    return {
        "precision": round(float(precisions[0]), 3) if (sizes > 1).any() else 1.0,
        "recall": round(float(recalls[0]), 3),
        "intervals": [np.percentile(values[1:], [2.5, 97.5]).round(3).tolist() for values in (precisions, recalls)],
        "largest": int(sizes.max()),
        "grouped": round(float((sizes[group] > 1).mean()), 3),
    }


def curve(sample: Sample, log_odds: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
    """Returns precision and recall by threshold."""
    count = len(sample.patients)
    return {str(limit): measure(sample, link_pairs(count, sample.pairs, log_odds, limit)) for limit in THRESHOLDS}


def controls(sample: Sample, folder: Path) -> dict[str, dict[str, Any]]:
    """Returns what the groups without scans reach if no patient is known."""
    cases = Manifest.open(folder).cases[: len(sample.patients)]
    manifest = replace(Manifest.open(folder), cases=tuple(replace(case, patient_id=None) for case in cases))
    start = time.perf_counter()
    similar = measure(sample, leakage_groups(manifest, sample.thumbnails))
    print(f"{folder.name}: near duplicates in {time.perf_counter() - start:.0f} s", flush=True)
    return {
        "near duplicates": measure(sample, duplicate_groups(sample.thumbnails)),
        "near duplicates and similar images": similar,
    }


def write_results(record: dict[str, Any], samples: dict[tuple[str, str, int], Sample]) -> None:
    """Writes the table of the documentation: the other half at the threshold in use."""
    rows = []
    for version, name in itertools.product(VERSIONS, SETS):
        sample, key = samples[name, version, 1], f"{name} {version}"
        own, other = (record[models][key][str(THRESHOLD)] for models in ("measured", "left_out"))
        similar = record["controls"][name]["near duplicates and similar images"] if version == "original" else {}
        row: dict[str, Any] = {"data": name if version == "original" else f"{name}, each image cropped"}
        row |= {
            "images (patients)": f"{len(sample.patients)} ({len(set(sample.patients))})",
            "pairs one or two apart": len(sample.neighbors),
        }
        for measure_name, (low, high) in zip(("precision", "recall"), own["intervals"], strict=True):
            row |= {measure_name: own[measure_name], f"{measure_name} low": low, f"{measure_name} high": high}
        row |= {f"{m} with a model of the other sets": other[m] for m in ("precision", "recall")}
        row |= {f"{m} of similar images": similar.get(m, "") for m in ("precision", "recall")}
        rows.append({key: f"{value:.3f}" if isinstance(value, float) else value for key, value in row.items()})
    with RESULTS.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
