"""The data of a training run: images mapped from disk, their classes and groups, and the split of each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.fingerprints import TrainingImages
from reslink.bundles.scope import Scope
from reslink.datasets import leakage, splits
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.case import HOLDOUT, MAX_SOURCES, SPLITS
from reslink.datasets.grouping import group_cases
from reslink.datasets.label_conflicts import check_label_conflicts, conflicts_of_cache, describe_conflicts
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.groups import find_duplicates, leakage_groups
from reslink.datasets.several_sources import check_several_sources
from reslink.datasets.shared_images import shared_images
from reslink.errors import UsageError, counted, listed
from reslink.imaging.input_statistics import input_statistics
from reslink.imaging.preprocess import Preprocess
from reslink.labels import ABSENT, PRESENT, case_noun
from reslink.training.monitoring.progress import Progress, phase, progress_callback
from reslink.training.recipe.recipe import Recipe

Indices = NDArray[np.int64]

_SCOPE_IMAGES = 300
"""Number of training images that the modality detector looks at."""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The readable cases of a data set and their splits.

    Attributes:
        manifest: The cases that could be read, in the order of the cache.
        cache: Their pixels; a series has several rows.
        targets: (n,) class index of each case; (n, K) states of several labels at once.
        groups: The group of each case, as the recipe groups: patient, near duplicates, or both.
        splits: The split of each case: train, validation, test or holdout.
        digest: SHA-256 of the whole data set, including unreadable files.
        joined_groups: The group of each case with patients and near duplicates joined, whatever the recipe groups by, and
            without images that are only similar. Leakage is checked with these groups.
        seen_by_ancestors: Why a case of the validation or test split was left out, because an ancestor of a fine-tuned network
            was trained on it or its patient, by case name. With ``data.allow_leakage`` these cases are not left out.
        soft_targets: (n, K) float32, distributions over the classes that are learned instead of the classes; None for those.
        label_conflicts: A sentence about images with several labels that ``data.allow_conflicts`` accepts; None without them.
    """

    manifest: Manifest
    cache: PixelCache
    targets: Indices
    groups: Sequence[str]
    splits: Sequence[str]
    digest: str
    joined_groups: Sequence[str]
    label_conflicts: str | None = None
    soft_targets: NDArray[np.float32] | None = None
    seen_by_ancestors: Mapping[str, str] = field(default_factory=dict)

    def indices(self, split: str) -> Indices:
        """Returns the cache indices of the cases of a split."""
        return np.flatnonzero(np.array(self.splits) == split)

    def names(self, indices: Indices) -> list[str]:
        """Returns the names of cases: paths relative to the data set's root."""
        return [self.manifest.cases[i].name for i in indices]

    def counts(self) -> dict[str, dict[str, int]]:
        """Returns the number of images of each class, or in which each of several labels is present, in each split."""
        splits = [*SPLITS, *([HOLDOUT] if HOLDOUT in self.splits else [])]
        counts = {split: self.manifest.subset(self.indices(split).tolist()).label_counts() for split in splits}
        return {split: {label: n[label] for label in self.manifest.labels.names} for split, n in counts.items()}

    def sources(self) -> dict[str, dict[str, int]]:
        """Returns the number of images of each source in each split; empty if the data set states no sources."""
        named = [(case.source or "not stated", split) for case, split in zip(self.manifest.cases, self.splits, strict=True)]
        counts = Counter(named)
        names = sorted({name for name, _ in named})
        if not any(case.source for case in self.manifest.cases):
            return {}
        return {name: {split: n for split in (*SPLITS, HOLDOUT) if (n := counts[name, split])} for name in names}

    def split_source(self, folds: int | None = None) -> str:
        """Returns ``given`` if the data set states the splits (or the folds), ``drawn`` if reslink drew them.

        Of several data sets of which only some state a split, it is ``partly given``.
        """
        if not has_given_split(self.manifest, folds):
            return "drawn"
        return "partly given" if folds is None and any(splits.without_split(self.manifest)) else "given"

    def summary(self, folds: int | None = None) -> list[str]:
        """Returns sentences with the number of images of each class in each split, of patients, and with missing classes."""
        counts, images = self.counts(), Counter(self.splits)
        sizes = [
            f"{split} {images[split]} ({', '.join(f'{label} {k}' for label, k in n.items())})" for split, n in counts.items()
        ]
        patients = len({case.patient_id for case in self.manifest.cases if case.patient_id is not None})
        noun, slices = ("Series", f", {len(self.cache.pixels)} slices") if self.cache.is_series else ("Images", "")
        lacking = [
            f"The {split} split has no case of {', '.join(label for label, k in n.items() if not k)}; "
            "metrics that need them are undefined."
            for split, n in counts.items()
            if images[split] and not all(n.values())
        ]
        sources = [
            f"{name} {sum(n.values())} ({', '.join(f'{split} {k}' for split, k in n.items())})"
            for name, n in self.sources().items()
        ]
        return [
            f"{noun}: {', '.join(sizes)}{slices}; {patients or 'no'} patients; the split is {self.split_source(folds)}.",
            *([f"Sources: {', '.join(sources)}."] if 1 < len(sources) <= MAX_SOURCES else []),
            *lacking,
        ]

    def leaked_cases(self) -> dict[str, str]:
        """Returns the leaked cases outside the training split, with the reason for each, by case name."""
        leaked = leakage.leaked_cases(self.manifest, self.joined_groups, self.splits)
        return {**self.seen_by_ancestors, **leaked}

    def scope(self, preprocess: Preprocess) -> Scope:
        """Returns the images that a bundle of this data is for, by what the training files state, or by how they look."""
        rows = self._training_rows()
        stated = [self.cache.stated[row] for row in rows]
        silent = rows[[item.modality is None for item in stated]]
        statistics = None
        if len(silent) and preprocess.isolate_head:
            sample = silent[np.unique(np.linspace(0, len(silent) - 1, _SCOPE_IMAGES).astype(np.int64))]
            statistics = input_statistics(np.asarray(self.cache.pixels[sample]))
        return Scope.of_training(stated, statistics).with_brain_rule(preprocess)

    def training_images(self) -> TrainingImages:
        """Returns the fingerprints of the training split for the bundle."""
        cases = self.cache.case_of_row.tolist()
        groups, splits = [self.joined_groups[case] for case in cases], [self.splits[case] for case in cases]
        return leakage.fingerprint_training_images(self.cache.row_manifest, self.cache.thumbnails, groups, splits)

    def _training_rows(self) -> Indices:
        return self.cache.rows_of(self.indices("train"))


def open_training_data(
    manifest: Manifest, recipe: Recipe, folder: Path, progress: Progress, seen: Sequence[TrainingImages] = ()
) -> TrainingData:
    """Decodes the images that are not in the cache yet and assigns the splits.

    Args:
        manifest: The data set.
        recipe: The recipe; its sections ``data`` and ``preprocess``, the seed, ``trainer.workers`` and
            ``trainer.verify_files`` are used.
        folder: Folder of the cache.
        progress: Receives the progress and the names of unreadable images.
        seen: Fingerprints of the training images of each ancestor of a fine-tuned network; such images are left out of the
            validation and test splits.

    Raises:
        UsageError: If too few images can be read, or the splits cannot be assigned as requested.
        CheckFailedError: If a patient or a duplicate group appears in more than one split, or an ancestor has seen a whole
            split, without ``data.allow_leakage``; or if the same image has several labels, without ``data.allow_conflicts``.
    """
    _check_sources(manifest, recipe)
    cache = _open_cache(manifest, recipe, folder, progress)
    for name, reason in cache.failed.items():
        progress.message(f"{name} is left out: {reason}")
    for note in cache.notes:
        progress.message(f"{note}.")
    readable = cache.manifest
    _check_classes(readable, cache)
    _check_sources(readable, recipe)
    rows = cache.row_manifest
    duplicates = find_duplicates(cache.thumbnails, [case.patient_id for case in rows.cases])
    conflicts = conflicts_of_cache(cache, duplicates)
    for sentence in shared_images(rows.set_names, duplicates, together=recipe.data.group_by not in ("patient", "none")):
        progress.message(f"{sentence}.")
    if not recipe.data.allow_conflicts:
        check_label_conflicts(readable.cases, conflicts)
    joined = cache.case_groups(leakage_groups(rows, cache.thumbnails, duplicates, include_similar=False))
    groups = cache.case_groups(group_cases(rows, cache.thumbnails, recipe.data.group_by, duplicates))
    given = has_given_split(readable, recipe.data.folds)
    split_of = assign_splits(readable, joined if given else groups, recipe, groups)
    _check_labels_learnable(readable, split_of)
    if recipe.data.balance_sources and (unbalanced := _unbalanced_sources(readable, split_of)):
        progress.message(f"{unbalanced}.")
    if not recipe.data.allow_leakage:
        leakage.check_group_leakage(readable, joined, split_of)
    leaked = leakage.seen_by_ancestors(readable, joined, cache.thumbnails, split_of, seen, cache.matched_cases)
    if not recipe.data.allow_leakage:
        split_of = leakage.without_seen(split_of, leaked)
    return TrainingData(
        manifest=readable,
        cache=cache,
        targets=cache.targets,
        groups=groups,
        splits=split_of,
        digest=manifest.digest(cache.file_hashes),
        joined_groups=joined,
        label_conflicts=describe_conflicts(readable.cases, conflicts) if conflicts else None,
        seen_by_ancestors={readable.cases[i].name: reason for i, reason in leaked.items()},
    )


def _open_cache(manifest: Manifest, recipe: Recipe, folder: Path, progress: Progress) -> PixelCache:
    was_filled = any((folder / "shards").glob("*/rows"))
    with phase(progress, len(manifest), "Reading images", case_noun(recipe.trainer.case)):
        settings, callback = recipe.trainer, progress_callback(progress)
        cache = PixelCache.open(
            manifest,
            recipe.preprocess,
            folder,
            settings.workers,
            callback,
            settings.case,
            verify=settings.verify_files,
        )
    if was_filled and cache.decoded:  # for a run with other settings than those of the cache, for example
        progress.message(f"{cache.decoded} of {len(cache)} images were not in the cache {folder} and were decoded.")
    return cache


def has_given_split(manifest: Manifest, folds: int | None) -> bool:
    """Returns whether the data set states the split of its cases, or with ``folds`` their fold."""
    return any(case.split if folds is None else case.extra.get("fold") for case in manifest.cases)


def assign_splits(
    manifest: Manifest, groups: Sequence[str], recipe: Recipe, drawn_groups: Sequence[str] | None = None
) -> list[str]:
    """Returns the split of each case: train, validation, test or, with ``data.holdout``, holdout; groups are never divided.

    Args:
        manifest: The cases.
        groups: The group of each case.
        recipe: The recipe.
        drawn_groups: See :func:`reslink.datasets.splits.assign_splits`.
    """
    settings, allow = recipe.data, recipe.data.allow_leakage
    seed = (recipe.seed if settings.split_seed is None else settings.split_seed) % 2**32
    if settings.folds is None:
        drawn = splits.assign_splits(manifest, groups, settings.fractions, seed, allow_leakage=allow, drawn_groups=drawn_groups)
        return list(drawn)
    holdout = settings.holdout
    folds = splits.given_folds(manifest, groups, settings.folds, holdout=holdout > 0, allow_leakage=allow)
    if folds is None:
        folds = splits.assign_folds_and_holdout(manifest, groups, settings.folds, holdout, seed)
    names = {None: HOLDOUT, settings.fold: "test", (settings.fold + 1) % settings.folds: "validation"}
    return [names.get(fold, "train") for fold in folds]


def _check_labels_learnable(manifest: Manifest, split_of: Sequence[str]) -> None:
    """Refuses a training split in which one of several labels has one state only."""
    if manifest.labels.exclusive:
        return
    states = np.array(manifest.targets)[np.array(split_of) == "train"]
    for k, name in enumerate(manifest.labels.names):
        n_present, n_absent = (int((states[:, k] == state).sum()) for state in (PRESENT, ABSENT))
        if not (n_present and n_absent):
            raise UsageError(
                f"In the training split the label {name!r} is present in {n_present} images and absent in {n_absent}",
                "A label is learned from images with and without it",
                "Add images of other patients, choose another data.split_seed, or leave the label out of data.labels",
            )


def _check_sources(manifest: Manifest, recipe: Recipe) -> None:
    """Refuses data of one source, which cannot be balanced."""
    if recipe.data.balance_sources:
        effect = "It draws the images of two or more sources equally often"
        check_several_sources(manifest, "data.balance_sources", effect)


def _unbalanced_sources(readable: Manifest, split_of: Sequence[str]) -> str | None:
    """Returns a sentence, without the final period, about sources that lack a class in training and so still tell the class."""
    classes: dict[str, set[str]] = defaultdict(set)
    for case, split in zip(readable.cases, split_of, strict=True):
        if split == "train":
            classes[case.source or "not stated"].add(case.label)
    lacking = {
        source: [label for label in readable.labels.names if label not in held] for source, held in sorted(classes.items())
    }
    texts = [f"{source} (no {' and no '.join(labels)})" for source, labels in lacking.items() if labels]
    if not texts:
        return None
    return (
        f"data.balance_sources cannot balance {counted(len(texts), 'source')} without training images of some class: "
        f"{listed(texts)}. The source still tells something about the class there"
    )


def _check_classes(readable: Manifest, cache: PixelCache) -> None:
    counts = readable.label_counts()
    for label in readable.labels.names:
        if counts[label] < 2:
            raise UsageError(
                f"{counted(counts[label], 'case')} of the class {label!r} could be read, and {len(cache.failed)} could not",
                "Each class needs at least two cases",
                "Repair the files named above, or add others",
            )
