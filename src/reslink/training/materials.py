"""What a run learns from: the images, mapped from disk, their classes and groups, and the part that each belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reslink.datasets import splits, twins
from reslink.datasets.loading import PixelCache
from reslink.datasets.manifest import SPLITS, Manifest
from reslink.errors import UsageError
from reslink.training.progress import Progress
from reslink.training.recipe import Recipe
from reslink.training.sections import DataSettings

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Materials:
    """The readable cases of a data set, divided into parts.

    Attributes:
        manifest: The cases that could be read, in the order of the cache.
        cache: Their pixels.
        targets: (n,) class index of each.
        groups: The group of each: patient, near copies, or both.
        parts: The part of each: train, validation or test.
        digest: SHA-256 of the whole data set, unreadable files included.
    """

    manifest: Manifest
    cache: PixelCache
    targets: Indices
    groups: Sequence[str]
    parts: Sequence[str]
    digest: str

    def indices(self, part: str) -> Indices:
        """Returns where the cases of a part stand in the cache."""
        return np.flatnonzero(np.array(self.parts) == part)

    def names(self, indices: Indices) -> list[str]:
        """Returns the names of cases, paths below the data set's root."""
        return [self.manifest.cases[i].name for i in indices]

    def counts(self) -> dict[str, dict[str, int]]:
        """Returns the number of images of each class in each part."""
        found = Counter(zip(self.parts, (case.label for case in self.manifest.cases), strict=True))
        return {part: {label: found[part, label] for label in self.manifest.labels.names} for part in SPLITS}


def open_materials(manifest: Manifest, recipe: Recipe, folder: Path, progress: Progress) -> Materials:
    """Decodes what is not decoded yet and divides the cases into parts.

    Args:
        manifest: The data set.
        recipe: Its sections ``data`` and ``preprocess``, the seed, and ``trainer.workers`` are used.
        folder: Where the decoded images are kept.
        progress: Hears how far the decoding is, and which images could not be read.

    Raises:
        UsageError: If too few images can be read, or the cases cannot be divided as asked.
        GateError: If the data set's own split has a patient on two sides.
    """
    cache = _open_cache(manifest, recipe, folder, progress)
    for name, reason in cache.failed.items():
        progress.message(f"{name} is left out: {reason}")
    read = cache.manifest
    _check_classes(read, cache)
    groups = group_cases(read, cache.thumbnails, recipe.data)
    return Materials(
        manifest=read,
        cache=cache,
        targets=cache.targets,
        groups=groups,
        parts=divide(read, groups, recipe),
        digest=manifest.digest(cache.file_hashes),
    )


def _open_cache(manifest: Manifest, recipe: Recipe, folder: Path, progress: Progress) -> PixelCache:
    progress.start(len(manifest), "Reading images")
    done = 0

    def show(so_far: int, _total: int) -> None:
        nonlocal done
        progress.step(so_far - done)
        done = so_far

    try:
        return PixelCache.open(manifest, recipe.preprocess, folder, recipe.trainer.workers, show)
    finally:
        progress.end()


def group_cases(manifest: Manifest, thumbnails: NDArray[np.uint8], settings: DataSettings) -> list[str]:
    """Returns the group of each case, by ``data.group_by``."""
    if settings.group_by == "none":
        return [case.name for case in manifest.cases]
    if settings.group_by == "patient":
        return [f"patient {case.patient_id}" if case.patient_id else case.name for case in manifest.cases]
    if settings.group_by == "twin":
        manifest = replace(manifest, cases=tuple(replace(case, patient_id=None) for case in manifest.cases))
    return twins.groups(manifest, thumbnails)


def divide(manifest: Manifest, groups: Sequence[str], recipe: Recipe) -> list[str]:
    """Returns the part of each case: train, validation or test; whole groups."""
    settings = recipe.data
    seed = (recipe.seed if settings.split_seed is None else settings.split_seed) % 2**32
    if settings.folds is None:
        allow = settings.allow_leakage
        return list(splits.assign(manifest, groups, settings.fractions, seed, allow_leakage=allow))
    found = splits.folds(manifest, groups, settings.folds, seed)
    names = {settings.fold: "test", (settings.fold + 1) % settings.folds: "validation"}
    return [names.get(fold, "train") for fold in found]


def _check_classes(read: Manifest, cache: PixelCache) -> None:
    found = Counter(case.label for case in read.cases)
    for label in read.labels.names:
        if found[label] < 2:
            raise UsageError(
                f"Of the class {label!r} {found[label]} images could be read, and {len(cache.failed)} files could not",
                "Each class needs at least two images",
                "Repair the files named above, or add others",
            )
