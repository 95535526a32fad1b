"""Leakage: cases that are judged although the network learned from the same patient or the same image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.fingerprints import DIGEST, TrainingImages
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.fingerprints import fingerprint, links
from reslink.datasets.near_duplicates.thumbnails import Thumbnails
from reslink.errors import GateError
from reslink.files import sha256

TWIN: Final = "twin of a training image"
PATIENT: Final = "patient of the training data"
TWIN_OF_TWIN: Final = "twin of an image that is linked to the training data"
TRAINING: Final = (TWIN, PATIENT, TWIN_OF_TWIN)
CALIBRATION: Final = (
    "calibration image",
    "patient of the calibration data",
    "twin of an image that is linked to the calibration data",
)
"""Why a case is linked: by itself, by its patient, or by its twin."""

CERTAIN: Final = 0.9
"""Estimated correlation from which a link also tells about the other images of the patient or twin group. Links between
other people's slices, among 841 glioma slices and 1,958 of other patients, went up to 0.85."""


def check_torn(manifest: Manifest, groups: Sequence[str], sides: Sequence[str | None], which: str = "split") -> None:
    """Refuses a division in which a patient or a set of near copies stands on two sides.

    Args:
        manifest: The cases.
        groups: The group of each case, patients and near copies joined.
        sides: The side of each case.
        which: What the division is called in the message.

    Raises:
        GateError: If a group or a patient is torn, with the names of two of its cases.
    """
    patients = [case.patient_id for case in manifest.cases]
    for keys, what in ((patients, "A patient"), (groups, "A group of near copies")):
        first: dict[str, int] = {}
        for i, key in enumerate(keys):
            j = first.setdefault(key, i) if key else i
            if sides[i] != sides[j]:
                raise GateError(
                    f"{what} stands on two sides of the {which}: {manifest.cases[j].name} in {sides[j]}, "
                    f"{manifest.cases[i].name} in {sides[i]}",
                    "All images of a patient, and near copies, stand on one side",
                    "Divide anew with reslink split DATA --out split.csv; train and evaluate also take --allow-leakage, and "
                    "every figure then says so",
                )


def linked_cases(manifest: Manifest, groups: Sequence[str], sides: Sequence[str]) -> dict[str, str]:
    """Returns why a case outside the training part is linked to it, by case name; cases that are not linked are left out.

    Args:
        manifest: The cases.
        groups: The group of each case, patients and near copies joined.
        sides: The side of each case, ``train`` or another.
    """
    trained = [i for i, side in enumerate(sides) if side == "train"]
    patients = {manifest.cases[i].patient_id for i in trained} - {None}
    learned = {groups[i] for i in trained}
    return {
        case.name: PATIENT if case.patient_id in patients else TWIN
        for case, group, side in zip(manifest.cases, groups, sides, strict=True)
        if side != "train" and (group in learned or case.patient_id in patients)
    }


def training_images(manifest: Manifest, thumbnails: Thumbnails, groups: Sequence[str], sides: Sequence[str]) -> TrainingImages:
    """Returns what a bundle keeps of its training images.

    Args:
        manifest: The cases.
        thumbnails: (n, 64, 64) uint8, one a case.
        groups: The group of each case, patients and near copies joined.
        sides: The side of each case; fingerprints are those of ``train``.
    """
    train = np.array([side == "train" for side in sides], np.bool_)
    linked = linked_cases(manifest, groups, sides)
    others = [i for i in np.flatnonzero(~train).tolist() if manifest.cases[i].name not in linked]
    kept = fingerprint(np.asarray(thumbnails[train]))
    alike = sorted({others[query] for query, _, _ in links(kept, np.asarray(thumbnails[others]))}) if others else []
    return TrainingImages(kept, _digests(thumbnails, alike))


def recognised(images: TrainingImages, thumbnails: Thumbnails) -> dict[int, float]:
    """Finds the near copies of a network's training images, or of the images that its decision was fitted on.

    Args:
        images: What its bundle keeps of them.
        thumbnails: (m, 64, 64) uint8 of the cases.

    Returns:
        The highest estimated correlation with one of these images, by the index of the case; cases that are no near copy,
        or were compared at training and found to be none, are left out.
    """
    cleared = {row.tobytes() for row in images.cleared}
    found: dict[int, float] = defaultdict(float)
    for query, _, alike in links(images.fingerprints, np.asarray(thumbnails)):
        found[query] = max(found[query], alike)
    digests = _digests(thumbnails, sorted(found))
    return {i: found[i] for i, digest in zip(sorted(found), digests, strict=True) if digest.tobytes() not in cleared}


def spread(
    manifest: Manifest, groups: Sequence[str], found: dict[int, float], words: tuple[str, str, str] = TRAINING
) -> dict[int, str]:
    """Returns why each case is linked to the training images: by itself, by its patient, or by its twin.

    Args:
        manifest: The cases.
        groups: The group of each case, patients and near copies joined.
        found: The near copies of training images, as ``recognised`` returns them.
        words: What the three reasons are called: ``TRAINING`` or ``CALIBRATION``.
    """
    certain = [i for i, alike in found.items() if alike >= CERTAIN]
    patients = {manifest.cases[i].patient_id for i in certain} - {None}
    known = {groups[i] for i in certain}
    reasons: dict[int, str] = {}
    for i, (case, group) in enumerate(zip(manifest.cases, groups, strict=True)):
        if i in found:
            reasons[i] = words[0]
        elif case.patient_id in patients:
            reasons[i] = words[1]
        elif group in known:
            reasons[i] = words[2]
    return reasons


def _digests(thumbnails: Thumbnails, rows: Sequence[int]) -> NDArray[np.uint8]:
    """(len(rows), 32) SHA-256 of thumbnails."""
    digests = [bytes.fromhex(sha256(np.ascontiguousarray(thumbnails[i]).tobytes())) for i in rows]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST).copy()
