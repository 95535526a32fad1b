"""Groups of cases that must stay in one split: the same patient, near duplicates of one image, both, or also one scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np

from reslink.errors import UsageError, suggest

if TYPE_CHECKING:
    from reslink.datasets.manifest import Manifest
    from reslink.datasets.near_duplicates.groups import DuplicatePair
    from reslink.datasets.near_duplicates.thumbnails import Thumbnails

GroupBy = Literal["patient", "duplicate", "both", "scan", "none"]
GROUP_NAMES: Final[dict[GroupBy, str]] = {
    "patient": "patients or images",
    "duplicate": "duplicate groups",
    "both": "patients or duplicate groups",
    "scan": "patients or probable scans",
    "none": "images",
}
"""What the groups are, in the plural: of a case without a patient, the second."""


def group_cases(
    manifest: Manifest,
    thumbnails: Thumbnails | None,
    by: GroupBy,
    duplicates: Sequence[DuplicatePair] | None = None,
    *,
    include_similar: bool = True,
) -> list[str]:
    """Returns the group of each case; all cases of a group belong in the same split.

    Args:
        manifest: The cases.
        thumbnails: (n, 64, 64) uint8, one per case; not needed for ``patient`` and ``none``.
        by: ``patient`` groups the cases of one patient; a case without a patient id is its own group. ``duplicate`` groups
            near duplicates of one image, whatever their patient. ``both`` joins the two. ``scan`` also joins images without a
            patient id that probably come from one scan, whose files it reads. ``none`` groups nothing.
        duplicates: The result of ``find_duplicates`` with the patients, which ``both`` uses; None computes it.
        include_similar: Also group images that look alike but are not near duplicates, see ``leakage_groups``, or with ``scan``
            those of one scan. A split that the data states is checked without them.

    Returns:
        One group name per case.

    Raises:
        UsageError: If ``by`` is unknown, thumbnails are needed and missing, or series are grouped by scan.
        InputError: If an image can no longer be read, with ``scan``.
    """
    if by not in get_args(GroupBy):
        raise UsageError(
            f"Cannot group cases by {by!r}",
            f"Cases are grouped by {', '.join(get_args(GroupBy))}",
            suggest(by, get_args(GroupBy)),
        )
    if by == "none":
        return [case.name for case in manifest.cases]
    if by == "patient":
        return [f"patient {case.patient_id}" if case.patient_id else case.name for case in manifest.cases]
    if thumbnails is None:
        raise UsageError(
            "No thumbnails were given", f"Grouping by {by} compares the images", "Open a PixelCache and pass its thumbnails"
        )
    from reslink.datasets.near_duplicates.groups import leakage_groups  # slow to import

    if by == "scan":
        joined = leakage_groups(manifest, thumbnails, duplicates, include_similar=False)
        return _with_scans(manifest, thumbnails, joined) if include_similar else joined
    if by == "both":
        return leakage_groups(manifest, thumbnails, duplicates, include_similar=include_similar)
    return leakage_groups(_without_patients(manifest), thumbnails, include_similar=include_similar)


def _with_scans(manifest: Manifest, thumbnails: Thumbnails, groups: Sequence[str]) -> list[str]:
    """Joins groups that contain images of one scan, as far as their patients are unknown."""
    from reslink.datasets.near_duplicates.groups import connected_groups, pairs_of_equal_keys
    from reslink.datasets.scan_groups.cases import group_scans  # slow to import

    unknown = [i for i, case in enumerate(manifest.cases) if case.patient_id is None]
    numbers: dict[str, int] = {}
    pictures = [numbers.setdefault(groups[i], len(numbers)) for i in unknown]
    scans: list[int | None] = [None] * len(groups)
    for i, scan in zip(unknown, group_scans([manifest.cases[i] for i in unknown], thumbnails[unknown], pictures), strict=True):
        scans[i] = scan
    pairs = np.array([*pairs_of_equal_keys(groups), *pairs_of_equal_keys(scans)], np.intp).reshape(-1, 2)
    names: dict[int, str] = {}
    return [names.setdefault(number, name) for number, name in zip(connected_groups(len(groups), pairs), groups, strict=True)]


def _without_patients(manifest: Manifest) -> Manifest:
    return replace(manifest, cases=tuple(replace(case, patient_id=None) for case in manifest.cases))
