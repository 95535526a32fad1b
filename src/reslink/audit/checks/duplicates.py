"""What twins mean for a data set: groups of copies, copies on two sides of a split, one image under two labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from reslink.datasets.manifest import Case, Manifest
from reslink.datasets.near_duplicates import groups as twins
from reslink.datasets.near_duplicates.groups import TwinPair
from reslink.datasets.near_duplicates.thumbnails import Thumbnails

SAME_IMAGE: Final = 0.94
"""Correlation from which two images under two labels are called one image. Neighbouring slices may rightly have two labels:
of the 2,799 slices of 88 glioma patients three pairs of neighbours with and without lesion are alike, at 0.934 at most."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class Copies:
    """Near copies in a data set.

    Attributes:
        pairs: What is alike, row by row.
        groups: (n,) group of each case for cross-validation: patients, near copies and images that look alike joined.
    """

    pairs: list[TwinPair]
    groups: list[str]

    @classmethod
    def find(cls, manifest: Manifest, thumbnails: Thumbnails) -> Copies:
        """Looks for near copies, in all eight orientations.

        Args:
            manifest: The cases.
            thumbnails: (n, 64, 64) uint8, one a case.
        """
        patients = [case.patient_id for case in manifest.cases]
        found = twins.pairs(thumbnails, patients)
        return cls(found, twins.groups(manifest, thumbnails, found))

    def sets(self) -> list[list[int]]:
        """Returns the groups of near copies, the largest first; patients play no part."""
        return _sets(len(self.groups), ((pair.first, pair.second) for pair in self.pairs))

    def conflicts(self, cases: Sequence[Case]) -> list[list[int]]:
        """Returns the groups of one image under several labels, the largest first."""
        return _sets(len(cases), ((p.first, p.second) for p in self.pairs if _conflict(cases[p.first], cases[p.second], p)))


def _conflict(one: Case, other: Case, pair: TwinPair) -> bool:
    return one.label != other.label and pair.correlation >= SAME_IMAGE


def leaks(cases: Sequence[Case], copies: Copies) -> list[dict[str, Any]]:
    """Returns what stands on two sides of the split that the data set states.

    Args:
        cases: The cases; those without a split play no part.
        copies: Their near copies.

    Returns:
        One entry a patient and a group of near copies: ``kind`` (``patient`` or ``twins``), ``paths`` and ``splits``; a
        patient is known by his paths, his id is not repeated.
    """
    patients: dict[str, list[int]] = defaultdict(list)
    for i, case in enumerate(cases):
        if case.patient_id is not None:
            patients[case.patient_id].append(i)
    across = _sets(len(cases), ((p.first, p.second) for p in copies.pairs if _sides(cases, (p.first, p.second)) > 1))
    found = [("patient", rows) for rows in patients.values()] + [("twins", rows) for rows in across]
    return [
        {"kind": kind, "paths": [cases[i].name for i in rows], "splits": [cases[i].split for i in rows]}
        for kind, rows in found
        if _sides(cases, rows) > 1
    ]


def _sides(cases: Sequence[Case], rows: Iterable[int]) -> int:
    return len({cases[i].split for i in rows} - {None})


def _sets(count: int, pairs: Iterable[Pair]) -> list[list[int]]:
    members: dict[int, list[int]] = defaultdict(list)
    for i, group in enumerate(twins.united(count, np.array(list(pairs), np.intp).reshape(-1, 2))):
        members[group].append(i)
    return sorted((rows for rows in members.values() if len(rows) > 1), key=lambda rows: (-len(rows), rows))
