"""Average linkage of pairs into groups, when most pairs are missing."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def average_linkage(
    count: int, pairs: NDArray[np.intp], similarity: NDArray[np.floating], missing: float, threshold: float
) -> list[int]:
    """Groups items by average linkage: the two most similar groups are joined, as long as they are similar enough.

    Single linkage would chain the scans of different patients through one similar pair.

    Args:
        count: Number of items.
        pairs: (k, 2) indices of the two items of each pair, each pair once.
        similarity: (k,) similarity of each pair.
        missing: Similarity of all other pairs; smaller similarities are raised to it.
        threshold: Mean similarity of the pairs between two groups from which they are joined; above ``missing``.

    Returns:
        ``count`` group numbers from 0 in the order of first appearance.
    """
    links: list[dict[int, float]] = [{} for _ in range(count)]
    excess = np.maximum(np.asarray(similarity, np.float64) - missing, 0)
    for (i, j), value in zip(pairs.tolist(), excess.tolist(), strict=True):
        links[i][j] = links[j][i] = value
    members = [[item] for item in range(count)]
    heap = [(-value, i, j, 1, 1) for i in range(count) for j, value in links[i].items() if i < j]
    heapq.heapify(heap)
    while heap and -heap[0][0] >= threshold - missing:
        _, i, j, size_i, size_j = heapq.heappop(heap)
        if (len(members[i]), len(members[j])) != (size_i, size_j):
            continue  # one of the groups has grown or was joined to another
        _join(links, i, j)
        members[i] += members[j]
        members[j] = []
        for k, total in links[i].items():
            heapq.heappush(heap, (-total / (len(members[i]) * len(members[k])), i, k, len(members[i]), len(members[k])))
    return _numbered(count, members)


def _join(links: list[dict[int, float]], i: int, j: int) -> None:
    """Adds the links of group j to those of group i."""
    del links[i][j]
    for k, total in links[j].items():
        if k != i:
            links[i][k] = links[k][i] = links[i].get(k, 0.0) + total
            del links[k][j]
    links[j] = {}


def _numbered(count: int, members: Iterable[list[int]]) -> list[int]:
    group_of = {item: number for number, items in enumerate(members) for item in items}
    order: dict[int, int] = {}
    return [order.setdefault(group_of[item], len(order)) for item in range(count)]
