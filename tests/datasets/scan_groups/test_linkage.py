"""Average linkage of sparse pairs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from reslink.datasets.scan_groups.linkage import average_linkage


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_groups_are_those_of_average_linkage_with_the_missing_pairs_filled_in(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = np.argwhere(np.triu(rng.random((40, 40)) < 0.3, 1))
    similarity = rng.normal(0, 3, len(pairs))
    filled = np.full((40, 40), -2.0)
    filled[tuple(pairs.T)] = filled[tuple(pairs[:, ::-1].T)] = np.maximum(similarity, -2)
    np.fill_diagonal(filled, 20)
    expected = fcluster(linkage(squareform(20 - filled), "average"), 20 + 0.5, "distance")
    groups = average_linkage(40, pairs, similarity, -2, -0.5)
    assert 1 < len(set(groups)) < 40
    assert [[a == b for b in groups] for a in groups] == [[a == b for b in expected] for a in expected]


def test_one_similar_pair_does_not_chain_two_groups() -> None:
    triangles = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)]
    pairs = np.array([*triangles, (2, 3)])
    assert average_linkage(7, pairs, np.array([5.0] * 6 + [4.0]), -3, -1.5) == [0, 0, 0, 1, 1, 1, 2]
    assert average_linkage(2, np.array([(0, 1)]), np.array([4.0]), -3, -1.5) == [0, 0]


def test_nothing_to_link() -> None:
    assert average_linkage(0, np.zeros((0, 2), np.intp), np.zeros(0), -3, 0) == []
    assert average_linkage(2, np.zeros((0, 2), np.intp), np.zeros(0), -3, 0) == [0, 1]
