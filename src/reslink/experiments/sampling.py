"""Selection of the cases of an experiment: random samples, and new cases that the network was not trained on."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from reslink.bundles.bundle import Bundle
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest, file_hash
from reslink.datasets.near_duplicates.groups import leakage_groups
from reslink.errors import UsageError
from reslink.evaluation import leakage
from reslink.imaging.preprocess import Preprocess
from reslink.training.monitoring.progress import Progress, phase, progress_callback

ExcludedCases = list[dict[str, str]]
"""``path`` and ``reason`` of each excluded case."""


def sample_cases(manifest: Manifest, max_cases: int | None, seed: int) -> Manifest:
    """Returns a random sample, stratified by class, with at least one case per class.

    The sample depends on the names of the cases and the seed, not on the order of the cases. With the same seed, a larger
    sample contains a smaller one, except for rounding.

    Args:
        manifest: The cases.
        max_cases: Size of the sample; None, or a number that is not below the number of cases, takes all.
        seed: Seed of the sample.

    Raises:
        UsageError: If ``max_cases`` is below 1.
    """
    if max_cases is not None and max_cases < 1:
        raise UsageError(f"The number of images is {max_cases}", "At least one image is needed", "Use for example 300")
    if max_cases is None or max_cases >= len(manifest):
        return manifest
    order = sorted(range(len(manifest)), key=lambda i: manifest.cases[i].name)
    targets = np.array(manifest.targets)
    selected: list[int] = []
    for target in np.unique(targets):
        in_class = np.array([i for i in order if targets[i] == target])
        size = max(1, round(max_cases * len(in_class) / len(manifest)))
        selected += np.random.default_rng([seed, int(target)]).permutation(in_class)[:size].tolist()
    return manifest.subset(sorted(selected))


def open_cache(manifest: Manifest, preprocess: Preprocess, folder: Path, progress: Progress) -> PixelCache:
    """Opens the decoded images of an experiment and reports the progress.

    Raises:
        UsageError: If no image can be read.
        StorageError: If the folder is not writable.
    """
    with phase(progress, len(manifest), "Reading images", "image"):
        return PixelCache.open(manifest, preprocess, folder, on_progress=progress_callback(progress))


def exclude_training_cases(manifest: Manifest, bundle: Bundle) -> tuple[Manifest, ExcludedCases]:
    """Returns the cases outside the training and validation splits of a bundle's run, and the excluded cases.

    The files are identified by the hashes in ``splits.csv``, if the bundle is still inside the folder of its run.

    Raises:
        UsageError: If all cases are excluded.
    """
    splits = None if bundle.folder is None else bundle.folder.parent / "splits.csv"
    if splits is None or not splits.is_file():
        return manifest, []
    with splits.open(newline="", encoding="utf-8") as stream:
        split_by_hash = {row.get("sha256"): row.get("split") for row in csv.DictReader(stream)}
    case_splits = [
        split_by_hash.get(file_hash(case.path, case.name)) if case.path.is_file() else None for case in manifest.cases
    ]
    excluded = [
        {"path": case.name, "reason": f"an image of the {split} split of this network's run"}
        for case, split in zip(manifest.cases, case_splits, strict=True)
        if split in ("train", "validation")
    ]
    if len(excluded) == len(manifest):
        raise UsageError(
            "The network was trained on every image of this data",
            "An experiment evaluates a classifier on images that it was not trained on",
            "Use other data, or the test split of the run",
        )
    return manifest.subset(i for i, split in enumerate(case_splits) if split not in ("train", "validation")), excluded


def exclude_near_duplicates(
    manifest: Manifest, bundle: Bundle, folder: Path, progress: Progress
) -> tuple[Manifest, ExcludedCases]:
    """Returns the cases that are not near duplicates of a bundle's training images, and the excluded cases.

    No case is excluded if the bundle has no fingerprints of training images.

    Raises:
        CheckFailedError: If every case is excluded.
    """
    if not bundle.seen_images:
        return manifest, []
    cache = open_cache(manifest, bundle.preprocess, folder, progress)
    groups = leakage_groups(cache.manifest, cache.thumbnails)
    leaked = leakage.find_leakage(bundle, manifest, cache, groups, folder)
    excluded: ExcludedCases = list(leaked.as_dict()["excluded"])
    paths = {entry["path"] for entry in excluded}
    return manifest.subset(i for i, case in enumerate(manifest.cases) if case.name not in paths), excluded
