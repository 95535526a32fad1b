"""Groups of cases that must stay in one split: the same patient, near duplicates of one image, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

from reslink.errors import UsageError, suggest

if TYPE_CHECKING:
    from reslink.datasets.manifest import Manifest
    from reslink.datasets.near_duplicates.groups import DuplicatePair
    from reslink.datasets.near_duplicates.thumbnails import Thumbnails

GroupBy = Literal["patient", "duplicate", "both", "none"]


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
            near duplicates of one image, whatever their patient. ``both`` joins the two. ``none`` groups nothing.
        duplicates: The result of ``find_duplicates`` with the patients, which ``both`` uses; None computes it.
        include_similar: Also group images that look alike but are not near duplicates; see ``leakage_groups``.

    Returns:
        One group name per case.

    Raises:
        UsageError: If ``by`` is unknown, or thumbnails are needed and missing.
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

    if by == "both":
        return leakage_groups(manifest, thumbnails, duplicates, include_similar=include_similar)
    return leakage_groups(_without_patients(manifest), thumbnails, include_similar=include_similar)


def _without_patients(manifest: Manifest) -> Manifest:
    return replace(manifest, cases=tuple(replace(case, patient_id=None) for case in manifest.cases))
