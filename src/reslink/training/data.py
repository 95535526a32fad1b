"""What a run learns from: the images, mapped from disk, their classes and groups, and the part that each belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.fingerprints import TrainingImages
from reslink.datasets import leakage, splits
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.grouping import group_cases
from reslink.datasets.manifest import SPLITS, Manifest
from reslink.datasets.near_duplicates import groups as twins
from reslink.errors import UsageError
from reslink.training.monitoring.progress import Progress, so_far
from reslink.training.recipe.recipe import Recipe

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
        joined: The group of each, patients and near copies joined whatever the recipe groups by, without images that merely
            look alike; found anew where None.
    """

    manifest: Manifest
    cache: PixelCache
    targets: Indices
    groups: Sequence[str]
    parts: Sequence[str]
    digest: str
    joined: Sequence[str] | None = None

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

    def division(self, folds: int | None = None) -> str:
        """Returns whether the data set states the parts, or with folds the fold (``given``), or they were drawn (``drawn``)."""
        return "given" if is_stated(self.manifest, folds) else "drawn"

    def linked(self) -> dict[str, str]:
        """Returns why a case outside the training part is linked to it, by case name; empty for a clean division."""
        return leakage.linked_cases(self.manifest, self.joined_groups(), self.parts)

    def training_images(self) -> TrainingImages:
        """Returns the fingerprints of the training part, which the bundle keeps."""
        return leakage.training_images(self.manifest, self.cache.thumbnails, self.joined_groups(), self.parts)

    def joined_groups(self) -> Sequence[str]:
        """Returns the group of each case, patients and near copies joined whatever the recipe groups by."""
        return twins.groups(self.manifest, self.cache.thumbnails, alike=False) if self.joined is None else self.joined


def open_materials(manifest: Manifest, recipe: Recipe, folder: Path, progress: Progress) -> Materials:
    """Decodes what is not decoded yet and divides the cases into parts.

    Args:
        manifest: The data set.
        recipe: Its sections ``data`` and ``preprocess``, the seed, and ``trainer.workers`` are used.
        folder: Where the decoded images are kept.
        progress: Hears how far the decoding is, and which images could not be read.

    Raises:
        UsageError: If too few images can be read, or the cases cannot be divided as asked.
        GateError: If a patient or a set of near copies stands on two sides, and ``data.allow_leakage`` is not set.
    """
    cache = _open_cache(manifest, recipe, folder, progress)
    for name, reason in cache.failed.items():
        progress.message(f"{name} is left out: {reason}")
    for note in cache.notes:
        progress.message(f"Patients: {note}.")
    read = cache.manifest
    _check_classes(read, cache)
    copies = twins.pairs(cache.thumbnails, [case.patient_id for case in read.cases])
    joined = twins.groups(read, cache.thumbnails, copies, alike=False)
    by = recipe.data.group_by
    groups = twins.groups(read, cache.thumbnails, copies) if by == "both" else group_cases(read, cache.thumbnails, by)
    parts = divide(read, joined if is_stated(read, recipe.data.folds) else groups, recipe)
    if not recipe.data.allow_leakage:
        leakage.check_torn(read, joined, parts)
    return Materials(
        manifest=read,
        cache=cache,
        targets=cache.targets,
        groups=groups,
        parts=parts,
        digest=manifest.digest(cache.file_hashes),
        joined=joined,
    )


def _open_cache(manifest: Manifest, recipe: Recipe, folder: Path, progress: Progress) -> PixelCache:
    progress.start(len(manifest), "Reading images")
    try:
        return PixelCache.open(manifest, recipe.preprocess, folder, recipe.trainer.workers, so_far(progress))
    finally:
        progress.end()


def is_stated(manifest: Manifest, folds: int | None) -> bool:
    """Returns whether the data set states the parts of a division, or with folds the fold of its cases."""
    return any(case.split if folds is None else case.extra.get("fold") for case in manifest.cases)


def divide(manifest: Manifest, groups: Sequence[str], recipe: Recipe) -> list[str]:
    """Returns the part of each case: train, validation or test; whole groups."""
    settings, allow = recipe.data, recipe.data.allow_leakage
    seed = (recipe.seed if settings.split_seed is None else settings.split_seed) % 2**32
    if settings.folds is None:
        return list(splits.assign(manifest, groups, settings.fractions, seed, allow_leakage=allow))
    found = splits.given_folds(manifest, groups, settings.folds, allow_leakage=allow)
    if found is None:
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
