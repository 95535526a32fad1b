"""Near duplicates in a data set: their groups, leakage between splits, and images with more than one label."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.groups import DuplicatePair, connected_groups, find_duplicates, leakage_groups
from reslink.datasets.near_duplicates.thumbnails import Thumbnails

Pair = tuple[int, int]


@dataclass(frozen=True)
class NearDuplicates:
    """Near duplicates in a data set.

    Attributes:
        pairs: Pairs of near duplicates, by row.
        groups: (n,) group of each case for cross-validation: cases of one patient, near duplicates and images that look
            alike share a group.
    """

    pairs: list[DuplicatePair]
    groups: list[str]

    @classmethod
    def find(cls, manifest: Manifest, thumbnails: Thumbnails) -> NearDuplicates:
        """Finds near duplicates in all eight orientations.

        Args:
            manifest: The cases.
            thumbnails: (n, 64, 64) uint8, one per case.
        """
        patients = [case.patient_id for case in manifest.cases]
        pairs = find_duplicates(thumbnails, patients)
        return cls(pairs, leakage_groups(manifest, thumbnails, pairs))

    def duplicate_groups(self) -> list[list[int]]:
        """Returns the rows of each group of near duplicates, the largest group first. Patients are ignored."""
        return _connected(len(self.groups), ((pair.first, pair.second) for pair in self.pairs))


def find_group_leakage(cases: Sequence[Case], near_duplicates: NearDuplicates) -> list[dict[str, Any]]:
    """Returns the patients and the near duplicates that appear in more than one split.

    Args:
        cases: The cases. Cases without a split are ignored.
        near_duplicates: Their near duplicates.

    Returns:
        One entry per patient and per group of near duplicates: ``kind`` (``patient`` or ``near_duplicates``), ``paths`` and
        ``splits``. Patient IDs are not repeated.
    """
    patients: dict[str, list[int]] = defaultdict(list)
    for i, case in enumerate(cases):
        if case.patient_id is not None:
            patients[case.patient_id].append(i)
    across = ((pair.first, pair.second) for pair in near_duplicates.pairs)
    duplicate_groups = _connected(len(cases), (rows for rows in across if _count_splits(cases, rows) > 1))
    candidates = [("patient", rows) for rows in patients.values()] + [("near_duplicates", rows) for rows in duplicate_groups]
    return [
        {"kind": kind, "paths": [cases[i].name for i in rows], "splits": [cases[i].split for i in rows]}
        for kind, rows in candidates
        if _count_splits(cases, rows) > 1
    ]


def _count_splits(cases: Sequence[Case], rows: Iterable[int]) -> int:
    return len({cases[i].split for i in rows} - {None})


def _connected(count: int, pairs: Iterable[Pair]) -> list[list[int]]:
    """Returns the connected components with at least two members, the largest first."""
    members: dict[int, list[int]] = defaultdict(list)
    for i, group in enumerate(connected_groups(count, np.array(list(pairs), np.intp).reshape(-1, 2))):
        members[group].append(i)
    return sorted((rows for rows in members.values() if len(rows) > 1), key=lambda rows: (-len(rows), rows))
