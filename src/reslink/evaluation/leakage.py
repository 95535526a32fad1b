"""Train/test leakage: cases that overlap with the training data are excluded from an evaluation, or its metrics are marked."""

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
from reslink.datasets.leakage import (
    CALIBRATION_REASONS,
    NEAR_DUPLICATE,
    SAME_PATIENT,
    find_training_duplicates,
    leakage_reasons,
)
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.fingerprints import Queries
from reslink.datasets.near_duplicates.groups import leakage_groups
from reslink.errors import CheckFailedError, UsageError
from reslink.evaluation.cases import RunOptions

UNKNOWN: Final = "unknown"
NONE: Final = "none found"
EXCLUDED: Final = "excluded"
ALLOWED: Final = "allowed"
_UNKNOWN: Final = (
    "The bundle holds no fingerprints of its training images, or of those of an ancestor, so it is unknown whether the network "
    "was trained on these images"
)


@dataclass(frozen=True)
class Leakage:
    """The cases that overlap with the training or calibration data, and how they are handled.

    Attributes:
        names: The names of the cases that could be read, in the order of their rows.
        reasons: Why a case is leaked, by row.
        allowed: Whether leaked cases are evaluated all the same.
        fingerprints_available: Whether the training images are known. The calibration images may be known without them.
    """

    names: list[str]
    reasons: Mapping[int, str]
    allowed: bool
    fingerprints_available: bool = True

    @property
    def status(self) -> str:
        """``unknown``, ``none found``, ``excluded`` or ``allowed``."""
        if self.reasons and self.allowed:
            return ALLOWED
        return UNKNOWN if not self.fingerprints_available else EXCLUDED if self.reasons else NONE

    @property
    def leaked_from(self) -> str:
        """``training``, ``calibration`` or ``training or calibration``: the data that the leaked cases overlap with."""
        reasons = set(self.reasons.values())
        sources = {"training": reasons - set(CALIBRATION_REASONS), "calibration": reasons & set(CALIBRATION_REASONS)}
        return " or ".join(name for name, matching in sources.items() if matching)

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows to evaluate."""
        excluded = {} if self.allowed else self.reasons
        return np.array([row for row in range(len(self.names)) if row not in excluded], np.int64)

    def as_dict(self) -> dict[str, Any]:
        """Returns the entries of ``evaluation.json`` about leakage.

        ``excluded`` lists the excluded cases and ``leaked`` the leaked cases that were evaluated, each with ``path`` and
        ``reason``; ``n_excluded``; and ``leakage`` with ``status``, ``n_leaked`` (null if unknown) and ``message``.
        """
        leaked = [{"path": self.names[row], "reason": reason} for row, reason in sorted(self.reasons.items())]
        excluded = [] if self.allowed else leaked
        return {
            "excluded": excluded,
            "n_excluded": len(excluded),
            "leaked": leaked if self.allowed else [],
            "leakage": {
                "status": self.status,
                "n_leaked": None if self.status == UNKNOWN else len(leaked),
                "message": self._message(),
            },
        }

    def _message(self) -> str:
        count = f"{len(self.reasons)} of {len(self.names)} cases overlap with the {self.leaked_from} data"
        sentences = []
        if self.reasons and self.allowed:
            sentences.append(f"{count} and were evaluated because leakage was allowed: every metric may be too high")
        elif self.reasons:
            sentences.append(f"{count} and were excluded")
        if not self.fingerprints_available:
            sentences.append(_UNKNOWN)
        return ". ".join(sentences or ["No case is a near duplicate of a training image"])


def find_leakage(
    bundle: Bundle,
    manifest: Manifest,
    cache: PixelCache,
    groups: list[str],
    folder: Path,
    options: RunOptions | None = None,
) -> Leakage:
    """Finds the cases that overlap with the training or calibration data of a bundle.

    The overlap is found with the fingerprints in the bundle. A certain match marks the whole patient and the whole duplicate
    group. If the data set states a split and the bundle was trained on its training split, no patient and no near duplicate may
    be in both splits.

    Args:
        bundle: The bundle.
        manifest: The whole data set, with all splits.
        cache: The cases to evaluate.
        groups: The group of each of these cases; patients and near duplicates are joined.
        folder: Folder of decoded images.
        options: The options ``split``, ``allow_leakage``, ``leaked_cases`` and ``cluster`` are used.

    Raises:
        CheckFailedError: If a patient or near duplicate is in both splits, or every case is leaked, unless this is allowed.
    """
    options = options or RunOptions()
    names, given = [case.name for case in cache.manifest.cases], options.leaked_cases
    if given is not None:
        reasons = {row: given[name] for row, name in enumerate(names) if name in given}
        return Leakage(names, reasons, options.allow_leakage, fingerprints_available=bundle.knows_seen_images)
    seen, calibration = bundle.seen_images, _calibration_images(bundle)
    queries = Queries.of(np.asarray(cache.thumbnails)) if seen or calibration else None
    trained = cache.matched_cases(find_training_duplicates(seen, cache.thumbnails, queries))
    # The exemptions in training_images do not apply to calibration images.
    calibrated = cache.matched_cases(find_training_duplicates(calibration, cache.thumbnails, queries))
    between_splits = _leaked_between_splits(bundle, manifest, cache, folder, options, matched=bool(trained or calibrated))
    if between_splits and not options.allow_leakage:
        raise _leaking_split(names, between_splits, options.split)
    reasons = {
        **leakage_reasons(cache.manifest, groups, calibrated, CALIBRATION_REASONS),
        **leakage_reasons(cache.manifest, groups, trained),
        **between_splits,
    }
    leaks = Leakage(names, reasons, options.allow_leakage, fingerprints_available=bundle.knows_seen_images)
    if not len(leaks.rows):
        raise _all_leaked(leaks)
    return leaks


def _calibration_images(bundle: Bundle) -> tuple[TrainingImages, ...]:
    return () if bundle.calibration_images is None else (bundle.calibration_images,)


def mark_leakage(result: Any, leakage: Leakage) -> None:
    """Adds ``"leakage": true`` to every estimate of an evaluation if leaked cases were evaluated."""
    if leakage.status == ALLOWED:
        mark_estimates(result)


def mark_estimates(result: Any) -> None:
    """Adds ``"leakage": true`` to every estimate with an interval in a tree of dicts and lists."""
    for value in result.values() if isinstance(result, dict) else result if isinstance(result, list) else ():
        mark_estimates(value)
    if isinstance(result, dict) and {"ci_low", "ci_high"} <= result.keys():
        result["leakage"] = True


def _leaked_between_splits(
    bundle: Bundle, manifest: Manifest, cache: PixelCache, folder: Path, options: RunOptions, *, matched: bool
) -> dict[int, str]:
    """Returns the rows whose patient or near duplicate is in the training split that the data set states.

    Decoding the training split is expensive, so it is only done if there is a reason: a match with a training image of the
    bundle, or a patient in both splits. Training cases that the bundle was not trained on do not count.
    """
    if options.split in (None, "train"):
        return {}
    cases = cache.manifest.cases
    train_rows = [i for i, case in enumerate(manifest.cases) if case.split == "train"]
    shared_patients = {case.patient_id for case in cases} & {manifest.cases[i].patient_id for i in train_rows} - {None}
    if not bundle.seen_images:
        return {row: SAME_PATIENT for row, case in enumerate(cases) if case.patient_id in shared_patients}
    candidates = train_rows if matched else [i for i in train_rows if manifest.cases[i].patient_id in shared_patients]
    if not candidates:
        return {}
    training = manifest.subset(candidates)
    if options.cluster is not None:
        options.cluster.fill_cache(training, bundle.preprocess, folder, bundle.case)
    with suppress(UsageError):  # none of the candidates can be read, so there is nothing to compare with
        opened = PixelCache.open(training, bundle.preprocess, folder, case=bundle.case)
        return cache.by_case(_overlap(bundle, cache, opened))
    return {}


def _overlap(bundle: Bundle, cache: PixelCache, candidates: PixelCache) -> dict[int, str]:
    """Returns the rows that overlap with those candidates that the bundle was trained or calibrated on."""
    trained = find_training_duplicates([*bundle.seen_images, *_calibration_images(bundle)], candidates.thumbnails)
    own, others = cache.row_manifest.cases, candidates.row_manifest.cases
    both = replace(cache.manifest, cases=(*own, *others))
    groups = leakage_groups(both, np.concatenate([cache.thumbnails, candidates.thumbnails]), include_similar=False)
    trained_groups = {groups[len(own) + row] for row in trained}
    trained_patients = {others[row].patient_id for row in trained} - {None}
    return {
        row: SAME_PATIENT if case.patient_id in trained_patients else NEAR_DUPLICATE
        for row, case in enumerate(own)
        if groups[row] in trained_groups
    }


def _leaking_split(names: list[str], leaked: Mapping[int, str], split: str | None) -> CheckFailedError:
    first = min(leaked)
    return CheckFailedError(
        f"{len(leaked)} of {len(names)} cases of the split {split!r} overlap with the training split of the same table; "
        f"the first is {names[first]} ({leaked[first]})",
        "An evaluation needs a split without patients or near duplicates of the training split",
        "Make a new split with reslink split and train again. Or omit --split to exclude the leaked cases. Or add "
        "--allow-leakage to evaluate them; every metric is then marked",
    )


def _all_leaked(leaks: Leakage) -> CheckFailedError:
    return CheckFailedError(
        f"All {len(leaks.names)} images overlap with the {leaks.leaked_from} data of the bundle",
        "An evaluation needs images that were not used for training or calibration, nor near duplicates of those",
        "Use other data, or add --allow-leakage to evaluate them; every metric is then marked",
    )
