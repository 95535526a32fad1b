"""Which cases belong together: those of one patient, near copies of one image, or both joined."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates import groups
from reslink.datasets.near_duplicates.thumbnails import Thumbnails
from reslink.errors import UsageError, nearest

GroupBy = Literal["both", "patient", "twin", "none"]


def group_cases(manifest: Manifest, thumbnails: Thumbnails | None, by: GroupBy, *, alike: bool = True) -> list[str]:
    """Returns the group of each case; a group never stands on two sides of a split.

    Args:
        manifest: The cases.
        thumbnails: (n, 64, 64) uint8, one a case; not needed for ``patient`` and ``none``.
        by: ``patient``: cases of one patient, an image without a known patient is alone; ``twin``: near copies,
            whatever the patient; ``both``: the two joined; ``none``: each image is alone.
        alike: Whether near copies include images that merely look alike, as ``twins.groups`` says.

    Returns:
        One group name a case.

    Raises:
        UsageError: If ``by`` is another word, or thumbnails are needed and missing.
    """
    if by not in get_args(GroupBy):
        raise UsageError(
            f"Grouping by {by!r} was asked for",
            f"Cases are grouped by {', '.join(get_args(GroupBy))}",
            nearest(by, get_args(GroupBy)),
        )
    if by == "none":
        return [case.name for case in manifest.cases]
    if by == "patient":
        return [f"patient {case.patient_id}" if case.patient_id else case.name for case in manifest.cases]
    if thumbnails is None:
        raise UsageError("No thumbnails were given", f"Grouping by {by} compares images", "Open the images' cache first")
    return groups.groups(manifest if by == "both" else _without_patients(manifest), thumbnails, alike=alike)


def _without_patients(manifest: Manifest) -> Manifest:
    return replace(manifest, cases=tuple(replace(case, patient_id=None) for case in manifest.cases))
