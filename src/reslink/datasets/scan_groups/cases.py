"""Scan groups of cases, whose image files are read once more: a pixel cache holds the isolated head only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reslink.datasets.cache.decode import map_jobs, read_slice
from reslink.datasets.cache.shards import choose_workers
from reslink.datasets.case import Case
from reslink.datasets.near_duplicates.thumbnails import Thumbnails
from reslink.datasets.scan_groups.groups import scan_groups
from reslink.datasets.scan_groups.signatures import Signature, join_signatures, scan_signature
from reslink.errors import InputError, ReslinkError, UsageError


def group_scans(cases: Sequence[Case], thumbnails: Thumbnails, pictures: Sequence[int] | None = None) -> list[int]:
    """Groups cases that probably come from one scan, by their pictures alone.

    Args:
        cases: The cases, each a slice.
        thumbnails: (n, 64, 64) uint8, one per case.
        pictures: Number of the picture that each case shows; near duplicates have the same one. None if each shows another.

    Returns:
        One group number per case.

    Raises:
        UsageError: If cases are series, whose slices are known to come from one scan.
        InputError: If an image can no longer be read.
    """
    if len({case.name for case in cases}) < len(cases):
        raise UsageError(
            "Series cannot be grouped by scan",
            "Scans are recognized among single slices; a series is one scan",
            "Group by both, which is the default",
        )
    if not cases:
        return []
    signatures: list[Signature] = []
    for result in map_jobs(_signature, list(cases), choose_workers(len(cases))):
        if isinstance(result, str):
            raise InputError(
                result, "Every image that was read before is read again", "Check that no file was changed or removed"
            )
        signatures.append(result)
    return scan_groups(join_signatures(signatures, thumbnails), None if pictures is None else np.array(pictures, np.intp))


def _signature(case: Case) -> Signature | str:
    try:
        return scan_signature(read_slice(case.path, case.name, case.unit))
    except ReslinkError as error:
        return str(error)
