"""Near duplicates between data sets that were joined, or between the sources of one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from reslink.datasets.near_duplicates.groups import DuplicatePair
from reslink.errors import counted


def shared_images(sets: Sequence[str], pairs: Iterable[DuplicatePair], *, together: bool = False) -> list[str]:
    """Returns a sentence, without the final period, for every two data sets that share images.

    Args:
        sets: The data set of each case; '' if none were joined.
        pairs: Near duplicates among them, by row.
        together: Whether near duplicates are kept in one split.
    """
    between: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for pair in pairs:
        (first, i), (second, j) = sorted((sets[row], row) for row in (pair.first, pair.second))
        if first and first != second:
            between[first, second].append((i, j))
    kept = "; they stay in one split" if together else ""
    return [
        f"{first} and {second} share images: {counted(len({i for i, _ in rows}), 'image')} of {first} and "
        f"{len({j for _, j in rows})} of {second} are near duplicates of each other ({counted(len(rows), 'pair')}){kept}"
        for (first, second), rows in sorted(between.items())
    ]
