"""Candidate pairs and their features."""

from __future__ import annotations

import numpy as np
import pytest
from tests.datasets.scan_groups.conftest import Scans

from reslink.datasets.scan_groups.model import pair_model
from reslink.datasets.scan_groups.pairs import find_pairs
from reslink.datasets.scan_groups.signatures import Signatures


def subset(signatures: Signatures, rows: list[int]) -> Signatures:
    return Signatures(tuple(p[rows] for p in signatures.planes), signatures.heads[rows], signatures.numbers[rows])


def test_pairs_do_not_depend_on_the_order_of_the_images(scans: Scans) -> None:
    count = len(scans.images)
    pairs, reverse = find_pairs(scans.signatures), find_pairs(subset(scans.signatures, list(range(count))[::-1]))
    assert (pairs.first < pairs.second).all()
    assert pairs.features.shape[1] == len(pair_model().mean)
    mirrored = {
        (count - 1 - j, count - 1 - i): row for row, (i, j) in enumerate(zip(reverse.first, reverse.second, strict=True))
    }
    assert set(mirrored) == set(zip(pairs.first, pairs.second, strict=True))
    rows = [mirrored[pair] for pair in zip(pairs.first, pairs.second, strict=True)]
    np.testing.assert_allclose(reverse.features[rows], pairs.features, atol=2e-3)


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 0), (2, 1)])
def test_few_images(scans: Scans, count: int, expected: int) -> None:
    pairs = find_pairs(subset(scans.signatures, list(range(count))))
    assert len(pairs.first) == len(pairs.features) == expected
    assert np.isfinite(pairs.features).all()
