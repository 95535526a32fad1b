"""Fits the model behind ``--group-by scan`` and measures the groups.

    python benchmarks/fit_scan_groups.py DATA --signatures FOLDER [--write]

DATA holds the folders lgg, ct_phe and ct_ich, each with a manifest.csv whose patients are known. FOLDER keeps the signatures,
so that images are read once. Patients are divided in two halves by a checksum of their id: the model is fitted and its
threshold chosen on one, and measured on the other, which is grouped alone. Names and numbers of files are not used.

Each set is used twice: as it is, and with every image cropped to its head by another margin, without anything outside it. A
pair is positive in the fit if it shows one patient, one or two slices apart; other pairs of one patient are left out.

Precision is the share of pairs in one group that show one patient; recall is the share of pairs of one patient, one or two
slices apart, that are in one group. The threshold is chosen on the fitted half, each set with a model of the other two. The
record also holds what these models reach on the other half, and two controls: near duplicates, and near duplicates with similar
images (the default without patients).
--write replaces src/reslink/datasets/scan_groups/model.json.
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
from reslink.datasets.scan_groups.groups import link_pairs
from reslink.datasets.scan_groups.model import FILE, MAX_DEVIATIONS, PairModel
from reslink.datasets.scan_groups.pairs import CandidatePairs, find_pairs
from reslink.datasets.scan_groups.signatures import Signature, Signatures, join_signatures, scan_signature
from reslink.files import write_atomic
from reslink.imaging.head_mask import head_mask
from reslink.imaging.image import Image
from reslink.imaging.reading import read_image

SETS: Final = ("lgg", "ct_phe", "ct_ich")
VERSIONS: Final = ("original", "cropped")
THRESHOLDS: Final = (-2.5, -2.25, -2.0, -1.75, -1.5, -1.25, -1.0, -0.5, 0.0, 1.0)
MAX_MARGIN: Final = 0.08
HIDDEN: Final = 24
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
    model = fit(list(fitted.values()))
    if options.write:
        write_atomic(FILE, json.dumps({"model": model.as_dict(), "record": {}}, indent=1).encode() + b"\n")
    record: dict[str, Any] = {"fitted_half": {}, "measured": {}, "left_out": {}, "controls": {}}
    for name in SETS:
        without = fit([sample for key, sample in fitted.items() if key[0] != name])
        record["fitted_half"][name] = curve(samples[name, "original", 0], without)
        for version in VERSIONS:
            sample = samples[name, version, 1]
            record["measured"][f"{name} {version}"] = curve(sample, model)
            record["left_out"][f"{name} {version}"] = curve(sample, without)
        record["controls"][name] = controls(samples[name, "original", 1], options.data / name)
        print(name, json.dumps(record), flush=True)
    if options.write:
        write_atomic(FILE, json.dumps({"model": model.as_dict(), "record": record}, indent=1).encode() + b"\n")


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


def fit(samples: list[Sample]) -> PairModel:
    """Fits a model; each positive pair and each pair of two patients has the same weight."""
    distances = np.concatenate([sample.distances for sample in samples])
    used = (distances <= ADJACENT) | (distances == UNKNOWN)
    features = np.concatenate([sample.pairs.features for sample in samples])[used].astype(np.float64)
    scaler = StandardScaler().fit(features)
    network = MLPClassifier((HIDDEN,), alpha=1e-2, batch_size=512, max_iter=12, random_state=0, learning_rate_init=2e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(np.clip(scaler.transform(features), -MAX_DEVIATIONS, MAX_DEVIATIONS), distances[used] <= ADJACENT)
    (hidden, output), (hidden_bias, bias) = network.coefs_, network.intercepts_
    return PairModel(scaler.mean_, scaler.scale_, hidden, hidden_bias, output[:, 0], float(bias[0]))


def groups_of(sample: Sample, model: PairModel, threshold: float) -> list[int]:
    """Returns the scan group of each image."""
    return link_pairs(len(sample.patients), sample.pairs, model, threshold)


def measure(sample: Sample, groups: list[Any]) -> dict[str, float]:
    """Returns precision and recall of groups, see above, and the share of images that are not alone."""
    _, group = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group)
    _, together = np.unique([f"{g} {p}" for g, p in zip(group, sample.patients, strict=True)], return_counts=True)
    pairs, correct = (sizes * (sizes - 1)).sum(), (together * (together - 1)).sum()
    near = sample.neighbors
    return {
        "precision": round(float(correct / pairs), 3) if pairs else 1.0,
        "recall": round(float((group[near[:, 0]] == group[near[:, 1]]).mean()), 3),
        "largest": int(sizes.max()),
        "grouped": round(float((sizes[group] > 1).mean()), 3),
    }


def curve(sample: Sample, model: PairModel) -> dict[str, dict[str, float]]:
    """Returns precision and recall by threshold."""
    return {str(threshold): measure(sample, groups_of(sample, model, threshold)) for threshold in THRESHOLDS}


def controls(sample: Sample, folder: Path) -> dict[str, dict[str, float]]:
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


if __name__ == "__main__":
    main()
