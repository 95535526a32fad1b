"""Which cases a study looks at, where all of them would take too long."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from reslink.bundles.bundle import Bundle
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest, file_hash
from reslink.datasets.near_duplicates import groups as twins
from reslink.errors import UsageError
from reslink.evaluation import leakage
from reslink.imaging.preprocess import Preprocess
from reslink.training.monitoring.progress import Progress, so_far


def sample(manifest: Manifest, most: int | None, seed: int) -> Manifest:
    """Returns some cases of a data set, drawn at random, the classes in their shares and each with one case at least.

    The draw depends on the names of the cases and the seed, not on their order; a larger draw with the same seed holds
    the smaller one, but for rounding.

    Args:
        manifest: The cases.
        most: How many; None, or at least as many as there are, takes all.
        seed: Seed of the draw.

    Raises:
        UsageError: If ``most`` is below 1.
    """
    if most is not None and most < 1:
        raise UsageError(f"{most} images were asked for", "A study needs at least one image", "Ask for 300")
    if most is None or most >= len(manifest):
        return manifest
    order = sorted(range(len(manifest)), key=lambda i: manifest.cases[i].name)
    targets = np.array(manifest.targets)
    chosen: list[int] = []
    for target in np.unique(targets):
        own = np.array([i for i in order if targets[i] == target])
        share = max(1, round(most * len(own) / len(manifest)))
        chosen += np.random.default_rng([seed, int(target)]).permutation(own)[:share].tolist()
    return manifest.subset(sorted(chosen))


def open_cache(manifest: Manifest, preprocess: Preprocess, folder: Path, progress: Progress) -> PixelCache:
    """Opens the decoded images of a study and says how far that is.

    Raises:
        UsageError: If not one image can be read.
        StorageError: If the folder cannot be written to.
    """
    progress.start(len(manifest), "Reading images")
    try:
        return PixelCache.open(manifest, preprocess, folder, progress=so_far(progress))
    finally:
        progress.end()


def unseen(manifest: Manifest, bundle: Bundle) -> tuple[Manifest, list[dict[str, str]]]:
    """Returns the cases that the run of a bundle did not learn from or choose by, and those left out with the reason.

    The bundle's run, where it still lies around the bundle, says so by the hash of each file in ``splits.csv``.

    Raises:
        UsageError: If no case is left.
    """
    table = None if bundle.folder is None else bundle.folder.parent / "splits.csv"
    if table is None or not table.is_file():
        return manifest, []
    with table.open(newline="", encoding="utf-8") as stream:
        side = {row.get("sha256"): row.get("split") for row in csv.DictReader(stream)}
    sides = [side.get(file_hash(case.path, case.name)) if case.path.is_file() else None for case in manifest.cases]
    left_out = [
        {"path": case.name, "reason": f"an image of the {part} part of this network's run"}
        for case, part in zip(manifest.cases, sides, strict=True)
        if part in ("train", "validation")
    ]
    if len(left_out) == len(manifest):
        raise UsageError(
            "The network was trained with every image of this data",
            "A classifier is judged on images that it has not learned from",
            "Give other data, or the test part of the run",
        )
    return manifest.subset(i for i, part in enumerate(sides) if part not in ("train", "validation")), left_out


def unlinked(manifest: Manifest, bundle: Bundle, folder: Path, progress: Progress) -> tuple[Manifest, list[dict[str, str]]]:
    """Returns the cases that are no near copies of the images a bundle learned from, and those left out with the reason.

    Nothing is left out where the bundle keeps no fingerprints of those images.

    Raises:
        GateError: If every case is linked to the training data.
    """
    if bundle.training_images is None:
        return manifest, []
    cache = open_cache(manifest, bundle.preprocess, folder, progress)
    groups = twins.groups(cache.manifest, cache.thumbnails)
    found = leakage.find(bundle, manifest, cache, groups, folder)
    left_out = {entry["path"] for entry in found.as_dict()["excluded"]}
    kept = manifest.subset(i for i, case in enumerate(manifest.cases) if case.name not in left_out)
    return kept, list(found.as_dict()["excluded"])
