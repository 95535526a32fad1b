"""The index finds the codes that differ in the fewest bits."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from reslink.datasets.near_duplicates import hamming_index
from reslink.datasets.near_duplicates.hamming_index import HammingIndex
from reslink.errors import UsageError

Codes = NDArray[np.uint8]


def random_codes(rng: np.random.Generator, count: int) -> Codes:
    return rng.integers(0, 256, (count, hamming_index.BYTES), dtype=np.uint8)


def flipped(codes: Codes, share: float, rng: np.random.Generator) -> Codes:
    return codes ^ np.packbits(rng.random((len(codes), hamming_index.BITS)) < share, axis=1)


def found(index: HammingIndex, queries: Codes, count: int) -> dict[tuple[int, int], int]:
    return {(int(query), int(row)): int(bits) for query, row, bits in zip(*index.nearest(queries, count), strict=True)}


@pytest.mark.parametrize(("share", "least"), [(0.0, 1.0), (0.2, 1.0), (0.35, 0.97)])
def test_the_nearest_code_is_found_with_its_distance(share: float, least: float, rng: np.random.Generator) -> None:
    codes = random_codes(rng, 2000)
    queries = flipped(codes[:400], share, rng)
    truth = np.unpackbits(codes[:400] ^ queries, axis=1).sum(axis=1)
    hits = found(HammingIndex(codes), queries, 1)
    assert len(hits) == 400
    own = {query: bits for (query, row), bits in hits.items() if query == row}
    assert len(own) >= least * 400
    assert all(bits == truth[query] for query, bits in own.items())


def test_the_neighbors_are_those_of_a_full_search(rng: np.random.Generator) -> None:
    groups = np.repeat(random_codes(rng, 100), 10, axis=0)
    codes = flipped(groups, 0.2, rng)
    distances = np.unpackbits(codes[:50, None] ^ codes[None], axis=2).sum(axis=2)
    expected = {(query, int(row)) for query in range(50) for row in np.argsort(distances[query], kind="stable")[:10]}
    hits = found(HammingIndex(codes), codes[:50], 10)
    assert len(set(hits) & expected) >= 0.98 * len(expected)
    assert all(bits == distances[query, row] for (query, row), bits in hits.items())


def test_the_same_codes_give_the_same_neighbors(rng: np.random.Generator) -> None:
    codes = random_codes(rng, 3000)
    queries = random_codes(rng, 200)
    first, second = (HammingIndex(codes).nearest(queries, 8) for _ in range(2))
    assert [part.tolist() for part in first] == [part.tolist() for part in second]


def test_of_equal_codes_the_first_is_found(rng: np.random.Generator) -> None:
    """A thousand equal codes would hide all others from a graph of neighbors."""
    equal, others = np.repeat(random_codes(rng, 1), 1000, axis=0), random_codes(rng, 20)
    index = HammingIndex(np.concatenate([equal[:1], others, equal]))
    assert found(index, equal[:2], 1) == {(0, 0): 0, (1, 0): 0}
    assert found(index, others, 1) == {(i, i + 1): 0 for i in range(20)}


def test_the_distance_of_signs_gives_the_correlation(rng: np.random.Generator) -> None:
    first = rng.normal(size=(300, 398)).astype(np.float32)
    second = 0.8 * first + 0.6 * rng.normal(size=first.shape).astype(np.float32)
    bits = np.unpackbits(hamming_index.binary_codes(first) ^ hamming_index.binary_codes(second), axis=1).sum(axis=1)
    assert abs(hamming_index.correlation_of(bits).mean() - 0.8) < 0.01


def test_the_rotation_is_fixed_and_orthogonal() -> None:
    rotation = hamming_index.rotation()
    assert np.allclose(rotation @ rotation.T, np.eye(hamming_index.BITS), atol=1e-4)
    assert hamming_index.binary_codes(np.array([[1.1, -2.3, 3.7, 0.9]], np.float32)).tobytes().hex()[:16] == "4d7d4551ca017884"


def test_codes_of_blank_images_are_found_by_no_query(rng: np.random.Generator) -> None:
    codes = random_codes(rng, 4)
    codes[[0, 2]] = 0
    assert {pair for pair, bits in found(HammingIndex(codes), codes, 4).items() if bits == 0} == {(1, 1), (3, 3)}
    assert {row for _, row in found(HammingIndex(codes), codes, 4)} == {1, 3}
    assert found(HammingIndex(codes[:1]), codes, 4) == {}


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UsageError, match=r"'faiss' is not installed\. It belongs to the extra 'audit'"):
        HammingIndex(random_codes(rng, 2))
