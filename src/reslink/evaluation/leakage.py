"""Cases that a network learned from, and near copies of them, are left out of its figures, or every figure says so."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.bundle import Bundle
from reslink.bundles.fingerprints import TrainingImages
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.leakage import CALIBRATION, PATIENT, TWIN, recognised, spread
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates import groups as twins
from reslink.datasets.near_duplicates.thumbnails import Thumbnails
from reslink.errors import GateError, UsageError

UNKNOWN: Final = "unknown"
NONE: Final = "none found"
LEFT_OUT: Final = "left out"
ALLOWED: Final = "allowed"
_UNKNOWN: Final = (
    "Whether the network learned from these images is not known: the bundle keeps no fingerprints of its training images"
)


@dataclass(frozen=True)
class Leakage:
    """Which of the cases to judge are linked to the training or calibration data, and what is done about it.

    Attributes:
        names: The cases that could be read, in the order of their rows.
        reasons: Why a row is linked.
        allowed: Whether linked cases are judged all the same.
        known: Whether the training images are known; those of the calibration may be where they are not.
    """

    names: list[str]
    reasons: Mapping[int, str]
    allowed: bool
    known: bool = True

    @property
    def status(self) -> str:
        """``unknown``, ``none found``, ``left out`` or ``allowed``."""
        if self.reasons and self.allowed:
            return ALLOWED
        return UNKNOWN if not self.known else LEFT_OUT if self.reasons else NONE

    @property
    def linked_to(self) -> str:
        """``training``, ``calibration`` or ``training or calibration``: the data that the linked cases are linked to."""
        why = set(self.reasons.values())
        return " or ".join(
            name for name, linked in (("training", why - set(CALIBRATION)), ("calibration", why & set(CALIBRATION))) if linked
        )

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows to judge."""
        out = {} if self.allowed else self.reasons
        return np.array([row for row in range(len(self.names)) if row not in out], np.int64)

    def as_dict(self) -> dict[str, Any]:
        """Returns what an evaluation says of linked cases.

        ``excluded`` are the cases left out and ``linked`` those judged all the same, each with ``path`` and ``reason``;
        ``n_excluded``; and ``leakage`` with ``status``, ``n_linked`` (null where unknown) and a ``message``.
        """
        found = [{"path": self.names[row], "reason": reason} for row, reason in sorted(self.reasons.items())]
        excluded = [] if self.allowed else found
        return {
            "excluded": excluded,
            "n_excluded": len(excluded),
            "linked": found if self.allowed else [],
            "leakage": {
                "status": self.status,
                "n_linked": None if self.status == UNKNOWN else len(found),
                "message": self._message(),
            },
        }

    def _message(self) -> str:
        share = f"{len(self.reasons)} of {len(self.names)} cases are linked to the {self.linked_to} data"
        parts = []
        if self.reasons and self.allowed:
            parts.append(f"{share} and were judged all the same, as was asked for: every figure may be too good")
        elif self.reasons:
            parts.append(f"{share} and were left out")
        if not self.known:
            parts.append(_UNKNOWN)
        return ". ".join(parts or ["No case is a near copy of a training image"])


def find(
    bundle: Bundle,
    manifest: Manifest,
    cache: PixelCache,
    groups: list[str],
    folder: Path,
    *,
    split: str | None = None,
    allowed: bool = False,
    known: Mapping[str, str] | None = None,
) -> Leakage:
    """Finds the cases that are linked to the images a bundle learned from, or those its decision was fitted on.

    They are known by the fingerprints in the bundle, where it keeps them; a link that is beyond doubt tells about the
    whole patient and the whole twin group. Where the data set states a split and the bundle learned from its training
    part, patients and near copies must not stand on both sides.

    Args:
        bundle: The bundle.
        manifest: The whole data set, all of its splits.
        cache: The cases to judge.
        groups: The group of each of these, patients and near copies joined.
        folder: Where decoded images are kept.
        split: The split that the cases to judge are called.
        allowed: Judge linked cases all the same.
        known: Why a case is linked, by its name, where that was found when the data was divided.

    Raises:
        GateError: If the stated split has a patient or near copies on both sides, or every case is linked, unless allowed.
    """
    names = [case.name for case in cache.manifest.cases]
    if known is not None:
        return Leakage(names, {row: known[name] for row, name in enumerate(names) if name in known}, allowed)
    learned = _recognised(bundle.training_images, cache.thumbnails)
    tuned = _recognised(bundle.calibration_images, cache.thumbnails)  # "cleared" speaks of training images alone
    torn = _torn(bundle, manifest, cache, folder, split, suspicious=bool(learned or tuned))
    if torn and not allowed:
        raise _refused_split(names, torn, split)
    why = (spread(cache.manifest, groups, tuned, CALIBRATION), spread(cache.manifest, groups, learned), torn)
    found = Leakage(names, {**why[0], **why[1], **why[2]}, allowed, known=bundle.training_images is not None)
    if not len(found.rows):
        raise _all_linked(found)
    return found


def _recognised(images: TrainingImages | None, thumbnails: Thumbnails) -> dict[int, float]:
    return {} if images is None else recognised(images, thumbnails)


def mark(result: Any, leakage: Leakage) -> None:
    """Adds ``"leakage": true`` to every figure of an evaluation whose cases are linked to the training data."""
    if leakage.status == ALLOWED:
        mark_all(result)


def mark_all(result: Any) -> None:
    """Adds ``"leakage": true`` to every figure with an interval in a tree of dicts and lists."""
    for value in result.values() if isinstance(result, dict) else result if isinstance(result, list) else ():
        mark_all(value)
    if isinstance(result, dict) and {"ci_low", "ci_high"} <= result.keys():
        result["leakage"] = True


def _torn(
    bundle: Bundle, manifest: Manifest, cache: PixelCache, folder: Path, split: str | None, *, suspicious: bool
) -> dict[int, str]:
    """Returns the rows whose patient or near copy stands in the training part that the data set states.

    Training cases are looked at only if there is a reason: a case to judge that is a near copy of a training image of
    the bundle, or a patient on both sides. Those that the bundle did not learn from do not count.
    """
    if split in (None, "train"):
        return {}
    cases = cache.manifest.cases
    others = [i for i, case in enumerate(manifest.cases) if case.split == "train"]
    shared = {case.patient_id for case in cases} & {manifest.cases[i].patient_id for i in others} - {None}
    if bundle.training_images is None:
        return {row: PATIENT for row, case in enumerate(cases) if case.patient_id in shared}
    suspects = others if suspicious else [i for i in others if manifest.cases[i].patient_id in shared]
    if not suspects:
        return {}
    with suppress(UsageError):  # not one of them can be read: nothing can be said of them
        return _linked_to(bundle, cache, PixelCache.open(manifest.subset(suspects), bundle.preprocess, folder))
    return {}


def _linked_to(bundle: Bundle, cache: PixelCache, suspects: PixelCache) -> dict[int, str]:
    """Returns the rows that are linked to those suspects that the bundle learned from."""
    images = (bundle.training_images, bundle.calibration_images)
    trained: set[int] = set().union(*(_recognised(part, suspects.thumbnails) for part in images))
    both = replace(cache.manifest, cases=(*cache.manifest.cases, *suspects.manifest.cases))
    joined = twins.groups(both, np.concatenate([cache.thumbnails, suspects.thumbnails]), alike=False)
    learned = {joined[len(cache) + row] for row in trained}
    patients = {suspects.manifest.cases[row].patient_id for row in trained} - {None}
    return {
        row: PATIENT if case.patient_id in patients else TWIN
        for row, case in enumerate(cache.manifest.cases)
        if joined[row] in learned
    }


def _refused_split(names: list[str], torn: Mapping[int, str], split: str | None) -> GateError:
    first = min(torn)
    return GateError(
        f"{len(torn)} of {len(names)} cases of the split {split!r} are linked to the training cases of the same table; "
        f"the first: {names[first]}, {torn[first]}",
        "A figure is reported on a split that has no patient and no near copy of the training part",
        "Divide anew with reslink split and train again; or leave --split out, then linked cases are left out; or add "
        "--allow-leakage, then every figure says so",
    )


def _all_linked(found: Leakage) -> GateError:
    return GateError(
        f"All {len(found.names)} images are linked to the {found.linked_to} data of the bundle",
        "A figure is reported on images that the bundle neither learned from nor was calibrated on, nor near copies of those",
        "Give other data, or add --allow-leakage: every figure then says so",
    )
