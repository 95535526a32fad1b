"""Label conflicts: an image and its copies or near duplicates that have different labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from reslink.datasets.case import Case
from reslink.datasets.near_duplicates.groups import DuplicatePair, connected_groups
from reslink.errors import CheckFailedError
from reslink.printable_names import printable

if TYPE_CHECKING:
    from reslink.datasets.cache.pixel_cache import PixelCache

MIN_CONFLICT_CORRELATION: Final = 0.94
"""Minimum correlation at which two images with different labels count as the same image.

Neighboring slices can correctly have different labels: among the 2,799 slices of 88 glioma patients, three pairs of neighbors
with and without a lesion are near duplicates, with a correlation of at most 0.934."""

_SHOWN_PAIRS: Final = 3


def label_conflicts(
    cases: Sequence[Case], pairs: Iterable[DuplicatePair] = (), hashes: Sequence[str] | None = None
) -> list[list[int]]:
    """Returns the rows of each image that occurs with several labels, the largest group first.

    Args:
        cases: The cases.
        pairs: Their near duplicates.
        hashes: SHA-256 of the file of each case; None leaves out the comparison of files.
    """
    near = ((pair.first, pair.second) for pair in pairs if pair.correlation >= MIN_CONFLICT_CORRELATION)
    same = () if hashes is None else _pairs_with_two_labels(cases, hashes)
    conflicting = [pair for pair in (*near, *same) if cases[pair[0]].contradicts(cases[pair[1]])]
    members: dict[int, list[int]] = defaultdict(list)
    for i, group in enumerate(connected_groups(len(cases), np.array(conflicting, np.intp).reshape(-1, 2))):
        members[group].append(i)
    return sorted((rows for rows in members.values() if len(rows) > 1), key=lambda rows: (-len(rows), rows))


def conflicts_of_cache(cache: PixelCache, duplicates: Iterable[DuplicatePair]) -> list[list[int]]:
    """Returns the rows of each case that occurs with several labels, as :func:`label_conflicts` does.

    Only the files of series are compared: two series with different labels may share slices, such as those without a lesion.

    Args:
        cache: The decoded cases.
        duplicates: Near duplicates among the rows of the cache.
    """
    return label_conflicts(cache.manifest.cases, () if cache.is_series else duplicates, cache.hashes)


def check_label_conflicts(cases: Sequence[Case], conflicts: Sequence[Sequence[int]]) -> None:
    """Refuses images with several labels.

    Args:
        cases: The cases.
        conflicts: The result of :func:`label_conflicts`.

    Raises:
        CheckFailedError: If there is a conflict; the message has the number of images and names some pairs.
    """
    if conflicts:
        sources = ({cases[row].source for row in rows} - {None} for rows in conflicts)
        trust = "; --labels-from SET corrects them by a data set that you trust" if max(map(len, sources)) > 1 else ""
        raise CheckFailedError(
            describe_conflicts(cases, conflicts),
            "Identical images and near duplicates have one label; otherwise the model learns noise and its metrics are wrong",
            f"Remove the wrong files or correct their labels; reslink audit DATA lists all of them{trust}. "
            "Or add --allow-conflicts to use them as they are",
        )


def describe_conflicts(cases: Sequence[Case], conflicts: Sequence[Sequence[int]]) -> str:
    """Returns a sentence, without the final period, with the number of images with several labels and some pairs."""
    shown = [_describe_pair(cases, rows) for rows in conflicts[:_SHOWN_PAIRS]]
    more = ", and more" if len(conflicts) > _SHOWN_PAIRS else ""
    return f"{sum(map(len, conflicts))} of {len(cases)} images have a copy or near duplicate with another label: " + (
        ", ".join(shown) + more
    )


def _pairs_with_two_labels(cases: Sequence[Case], hashes: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yields pairs of rows that connect all copies of each file with several labels."""
    rows_by_hash: dict[str, list[int]] = defaultdict(list)
    for row, key in enumerate(hashes):
        rows_by_hash[key].append(row)
    for rows in rows_by_hash.values():
        one_of_each = {cases[row].label: row for row in rows}
        for row in rows:
            yield from ((row, other) for other in one_of_each.values() if cases[row].contradicts(cases[other]))


def _describe_pair(cases: Sequence[Case], rows: Sequence[int]) -> str:
    first, second = next(
        (cases[one], cases[other])
        for i, one in enumerate(rows)
        for other in rows[i + 1 :]
        if cases[one].contradicts(cases[other])
    )
    return " and ".join(f"{printable(case.name)} ({case.label})" for case in (first, second))
