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
from reslink.datasets import twins
from reslink.datasets.leakage import PATIENT, TWIN, recognised, spread
from reslink.datasets.loading import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.errors import GateError, UsageError

UNKNOWN: Final = "unknown"
NONE: Final = "none found"
LEFT_OUT: Final = "left out"
ALLOWED: Final = "allowed"


@dataclass(frozen=True)
class Leakage:
    """Which of the cases to judge are linked to the training data, and what is done about it.

    Attributes:
        names: The cases that could be read, in the order of their rows.
        reasons: Why a row is linked; None where nothing is known of the training images.
        allowed: Whether linked cases are judged all the same.
    """

    names: list[str]
    reasons: Mapping[int, str] | None
    allowed: bool

    @property
    def status(self) -> str:
        """``unknown``, ``none found``, ``left out`` or ``allowed``."""
        if self.reasons is None:
            return UNKNOWN
        return NONE if not self.reasons else ALLOWED if self.allowed else LEFT_OUT

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows to judge."""
        out = {} if self.allowed else self.reasons or {}
        return np.array([row for row in range(len(self.names)) if row not in out], np.int64)

    def as_dict(self) -> dict[str, Any]:
        """Returns what an evaluation says of linked cases.

        ``excluded`` are the cases left out and ``linked`` those judged all the same, each with ``path`` and ``reason``;
        ``n_excluded``; and ``leakage`` with ``status``, ``n_linked`` (null where unknown) and a ``message``.
        """
        found = [{"path": self.names[row], "reason": reason} for row, reason in sorted((self.reasons or {}).items())]
        excluded = [] if self.allowed else found
        return {
            "excluded": excluded,
            "n_excluded": len(excluded),
            "linked": found if self.allowed else [],
            "leakage": {
                "status": self.status,
                "n_linked": None if self.reasons is None else len(found),
                "message": self._message(),
            },
        }

    def _message(self) -> str:
        share = f"{len(self.reasons or ())} of {len(self.names)} cases are linked to the training data"
        return {
            UNKNOWN: "Whether the network learned from these images is not known: the bundle keeps no fingerprints",
            NONE: "No case is a near copy of a training image",
            LEFT_OUT: f"{share} and were left out",
            ALLOWED: f"{share} and were judged all the same, as was asked for: every figure may be too good",
        }[self.status]


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
    """Finds the cases that are linked to the images a bundle learned from.

    They are known by the fingerprints in the bundle; a link that is beyond doubt tells about the whole patient and the
    whole twin group. Where the data set states a split and the bundle learned from its training part, patients and near
    copies must not stand on both sides.

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
    bundle = replace(bundle, training_images=bundle.seen_images)  # those it was calibrated on count as well
    names = [case.name for case in cache.manifest.cases]
    if known is not None:
        return Leakage(names, {row: known[name] for row, name in enumerate(names) if name in known}, allowed)
    images = bundle.training_images
    direct = {} if images is None else recognised(images, cache.thumbnails)
    torn = _torn(bundle, manifest, cache, folder, split, suspicious=bool(direct))
    if torn and not allowed:
        raise _refused_split(names, torn, split)
    reasons = {**spread(cache.manifest, groups, direct), **torn}
    found = Leakage(names, None if images is None and not torn else reasons, allowed)
    if not len(found.rows):
        raise _all_linked(found)
    return found


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
    assert bundle.training_images is not None  # noqa: S101  (the caller looked)
    trained = recognised(bundle.training_images, suspects.thumbnails)
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
        f"All {len(found.names)} images are linked to the training data of the bundle",
        "A figure is reported on images that the network did not learn from, and that are no near copies of those",
        "Give other data, or add --allow-leakage: every figure then says so",
    )
