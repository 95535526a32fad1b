"""Train/test leakage: evaluation cases that show a patient or an image of the training data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.fingerprints import DIGEST, TrainingImages
from reslink.datasets.case import HOLDOUT, UNUSED
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.fingerprints import Queries, make_fingerprints, matched_queries
from reslink.datasets.near_duplicates.thumbnails import Thumbnails
from reslink.errors import CheckFailedError
from reslink.files import sha256

NEAR_DUPLICATE: Final = "near duplicate of a training image"
SAME_PATIENT: Final = "patient of the training data"
SAME_GROUP: Final = "same duplicate group as a training image"
TRAINING_REASONS: Final = (NEAR_DUPLICATE, SAME_PATIENT, SAME_GROUP)
CALIBRATION_REASONS: Final = (
    "calibration image",
    "patient of the calibration data",
    "same duplicate group as a calibration image",
)
"""Why a case is leaked: its own image, its patient, or its duplicate group."""

_EVALUATED: Final = ("validation", "test", HOLDOUT)
"""Splits that an ancestor must not have seen."""

CERTAIN_CORRELATION: Final = 0.9
"""Estimated correlation from which a match also marks the other images of the patient or duplicate group as leaked.
Matches between different patients reached at most 0.85 (841 glioma slices against 1,958 slices of other patients)."""


def check_group_leakage(
    manifest: Manifest, groups: Sequence[str], splits: Sequence[str | None], split_name: str = "split"
) -> None:
    """Refuses a split in which a patient or a duplicate group appears in more than one part.

    Args:
        manifest: The cases.
        groups: The group of each case: patients and near duplicates joined.
        splits: The split (train, validation, test, or a fold) of each case.
        split_name: Name of the whole split for the message, such as ``given split``.

    Raises:
        CheckFailedError: If a patient or a group appears in two splits; the message names two of its cases.
    """
    patients = [case.patient_id for case in manifest.cases]
    for keys, subject in ((patients, "A patient"), (groups, "A group of near duplicates")):
        first: dict[str, int] = {}
        for i, key in enumerate(keys):
            j = first.setdefault(key, i) if key else i
            if splits[i] != splits[j]:
                raise CheckFailedError(
                    f"{subject} appears in two parts of the {split_name}: {manifest.cases[j].name} in {splits[j]}, "
                    f"{manifest.cases[i].name} in {splits[i]}",
                    "All images of a patient, and all near duplicates, must be in the same part",
                    "Make a new split with reslink split DATA --out split.csv. Or add --allow-leakage to train or evaluate; "
                    "every metric is then marked as leaked",
                )


def leaked_cases(manifest: Manifest, groups: Sequence[str], splits: Sequence[str]) -> dict[str, str]:
    """Returns the leaked cases outside the training split, with the reason for each, by case name.

    Args:
        manifest: The cases.
        groups: The group of each case: patients and near duplicates joined.
        splits: The split of each case, ``train`` or another.
    """
    training_cases = [i for i, split in enumerate(splits) if split == "train"]
    training_patients = {manifest.cases[i].patient_id for i in training_cases} - {None}
    training_groups = {groups[i] for i in training_cases}
    return {
        case.name: SAME_PATIENT if case.patient_id in training_patients else NEAR_DUPLICATE
        for case, group, split in zip(manifest.cases, groups, splits, strict=True)
        if split != "train" and (group in training_groups or case.patient_id in training_patients)
    }


def fingerprint_training_images(
    manifest: Manifest, thumbnails: Thumbnails, groups: Sequence[str], splits: Sequence[str]
) -> TrainingImages:
    """Returns the fingerprints that a bundle keeps of its training images.

    Args:
        manifest: The cases.
        thumbnails: (n, 64, 64) uint8, one per case.
        groups: The group of each case: patients and near duplicates joined.
        splits: The split of each case; the cases of ``train`` are fingerprinted.
    """
    is_training = np.array([split == "train" for split in splits], np.bool_)
    leaked = leaked_cases(manifest, groups, splits)
    clean = [i for i in np.flatnonzero(~is_training).tolist() if manifest.cases[i].name not in leaked]
    fingerprints = make_fingerprints(np.asarray(thumbnails[is_training]))
    matched = matched_queries(fingerprints, Queries.of(np.asarray(thumbnails[clean]))) if clean else {}
    false_matches = sorted(clean[query] for query in matched)
    return TrainingImages(fingerprints, _thumbnail_digests(thumbnails, false_matches))


def find_training_duplicates(
    seen: Iterable[TrainingImages], thumbnails: Thumbnails, queries: Queries | None = None
) -> dict[int, float]:
    """Finds near duplicates of the images that a network was trained or calibrated on.

    Args:
        seen: Fingerprints in the bundle: those of its own images, and those of each ancestor.
        thumbnails: (m, 64, 64) uint8 of the cases.
        queries: Their contrasts and spectra; None computes them.

    Returns:
        Case index to the estimated correlation with a fingerprinted image that it matches. Cases without a match are left out,
        and so are those that training compared and cleared.
    """
    highest: dict[int, float] = {}
    for images in seen:
        queries = queries or Queries.of(np.asarray(thumbnails))
        for row, correlation in _find_in(images, thumbnails, queries).items():
            highest[row] = max(highest.get(row, 0.0), correlation)
    return highest


def _find_in(images: TrainingImages, thumbnails: Thumbnails, queries: Queries) -> dict[int, float]:
    """Returns the matches with the images of one network; what it cleared counts for its own images only."""
    cleared = {row.tobytes() for row in images.cleared}
    matched = matched_queries(images.fingerprints, queries)
    digests = _thumbnail_digests(thumbnails, sorted(matched))
    return {i: matched[i] for i, digest in zip(sorted(matched), digests, strict=True) if digest.tobytes() not in cleared}


def seen_by_ancestors(
    manifest: Manifest,
    groups: Sequence[str],
    thumbnails: Thumbnails,
    splits: Sequence[str],
    seen: Sequence[TrainingImages],
    matched_cases: Callable[[dict[int, float]], dict[int, float]] = dict,
) -> dict[int, str]:
    """Returns the cases of validation, test and hold-out that an ancestor was trained on, and why, by case index.

    The rule is that of an evaluation: a certain match also marks the other images of its patient and duplicate group.

    Args:
        manifest: The cases.
        groups: The group of each case: patients and near duplicates joined.
        thumbnails: (n, 64, 64) uint8, one per case, or per slice of a series.
        splits: The split of each case.
        seen: Fingerprints of the training images of each ancestor.
        matched_cases: From correlations by thumbnail to those by case.
    """
    matches = matched_cases(find_training_duplicates(seen, thumbnails)) if seen else {}
    reasons = leakage_reasons(manifest, groups, matches) if seen else {}
    return {i: reason for i, reason in sorted(reasons.items()) if splits[i] in _EVALUATED}


def without_seen(splits: Sequence[str], seen: Collection[int], *, can_be_allowed: bool = True) -> list[str]:
    """Returns the splits, ``unused`` for the cases that an ancestor was trained on.

    Args:
        splits: The split of each case.
        seen: The indices of these cases.
        can_be_allowed: Whether the command has ``--allow-leakage``, which the error then names.

    Raises:
        CheckFailedError: If no case of the validation or of the test split remains.
    """
    result = [UNUSED if i in seen else split for i, split in enumerate(splits)]
    for name in _EVALUATED:
        if name in splits and name not in result:
            raise CheckFailedError(
                f"An ancestor of the network was trained on every image of the {name} split, or on its patient",
                "Validation and test need images that no ancestor was trained on",
                "Use the split of the parent (its data.split_seed, or a split column), or other images"
                + (". Or add --allow-leakage; every metric is then marked" if can_be_allowed else ""),
            )
    return result


def leakage_reasons(
    manifest: Manifest,
    groups: Sequence[str],
    duplicates: dict[int, float],
    reasons: tuple[str, str, str] = TRAINING_REASONS,
) -> dict[int, str]:
    """Returns why each leaked case is leaked, by case index.

    Args:
        manifest: The cases.
        groups: The group of each case: patients and near duplicates joined.
        duplicates: Near duplicates of training images, as ``find_training_duplicates`` returns them.
        reasons: Texts for the three reasons: ``TRAINING_REASONS`` or ``CALIBRATION_REASONS``.
    """
    certain = [i for i, correlation in duplicates.items() if correlation >= CERTAIN_CORRELATION]
    leaked_patients = {manifest.cases[i].patient_id for i in certain} - {None}
    leaked_groups = {groups[i] for i in certain}
    result: dict[int, str] = {}
    for i, (case, group) in enumerate(zip(manifest.cases, groups, strict=True)):
        if i in duplicates:
            result[i] = reasons[0]
        elif case.patient_id in leaked_patients:
            result[i] = reasons[1]
        elif group in leaked_groups:
            result[i] = reasons[2]
    return result


def _thumbnail_digests(thumbnails: Thumbnails, rows: Sequence[int]) -> NDArray[np.uint8]:
    """(len(rows), 32) SHA-256 of thumbnails."""
    digests = [bytes.fromhex(sha256(np.ascontiguousarray(thumbnails[i]).tobytes())) for i in rows]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST).copy()
