"""The index finds the codes that differ in few bits, and is used for near-duplicate search in large data sets."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from reslink.datasets.near_duplicates import groups, hamming_index, search

Codes = NDArray[np.uint8]


def random_codes(rng: np.random.Generator, count: int) -> Codes:
    return rng.integers(0, 256, (count, hamming_index.BYTES), dtype=np.uint8)


def flipped(codes: Codes, share: float, rng: np.random.Generator) -> Codes:
    return codes ^ np.packbits(rng.random((len(codes), hamming_index.BITS)) < share, axis=1)


def found(index: hamming_index.HammingIndex, queries: Codes, distance: int) -> dict[tuple[int, int], int]:
    return {
        (int(query), int(row)): int(bits)
        for part in index.search(queries, distance)
        for query, row, bits in zip(*part, strict=True)
    }


@pytest.mark.parametrize(("share", "least"), [(0.0, 1.0), (0.1, 0.995), (0.15, 0.96)])
def test_near_codes_are_found_with_their_distance(share: float, least: float, rng: np.random.Generator) -> None:
    codes = random_codes(rng, 2000)
    queries = flipped(codes[:400], share, rng)
    truth = np.unpackbits(codes[:400] ^ queries, axis=1).sum(axis=1)
    hits = found(hamming_index.HammingIndex(codes), queries, 220)
    assert {query for query, row in hits if query != row} == set()
    assert len(hits) >= least * 400
    assert all(bits == truth[query] for (query, _), bits in hits.items())


def test_codes_beyond_the_distance_are_left_out(rng: np.random.Generator) -> None:
    codes = random_codes(rng, 50)
    near = codes.copy()
    near[:, 0] ^= 255
    assert found(hamming_index.HammingIndex(codes), near, 7) == {}
    assert len(found(hamming_index.HammingIndex(codes), near, 8)) == 50


def test_the_distance_of_signs_gives_the_angle(rng: np.random.Generator) -> None:
    first = rng.normal(size=(300, 398)).astype(np.float32)
    second = 0.8 * first + 0.6 * rng.normal(size=first.shape).astype(np.float32)
    bits = np.unpackbits(hamming_index.binary_codes(first) ^ hamming_index.binary_codes(second), axis=1).sum(axis=1)
    assert abs(bits.mean() / hamming_index.BITS - np.arccos(0.8) / np.pi) < 0.005


def test_the_rotation_is_fixed_and_orthogonal() -> None:
    rotation = hamming_index.rotation()
    assert np.allclose(rotation @ rotation.T, np.eye(hamming_index.BITS), atol=1e-4)
    assert hamming_index.binary_codes(np.array([[1.1, -2.3, 3.7, 0.9]], np.float32)).tobytes().hex()[:16] == "4d7d4551ca017884"


def test_codes_of_blank_images_are_found_by_no_query(rng: np.random.Generator) -> None:
    codes = random_codes(rng, 4)
    codes[[0, 2]] = 0
    assert found(hamming_index.HammingIndex(codes), codes, 1024) == {(1, 1): 0, (3, 3): 0}
    assert found(hamming_index.HammingIndex(codes[:1]), codes, 1024) == {}


def test_pairs_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    codes = np.repeat(random_codes(rng, 3), 40, axis=0)
    expected = found(hamming_index.HammingIndex(codes), codes, 0)
    monkeypatch.setattr(hamming_index, "COMPARED", 7)
    parts = list(hamming_index.HammingIndex(codes).search(codes, 0))
    assert max(len(query) for query, _, _ in parts) == 7
    assert found(hamming_index.HammingIndex(codes), codes, 0) == expected
    assert set(expected) == {(i, j) for i in range(120) for j in range(120) if i // 40 == j // 40}


def test_the_index_finds_the_same_pairs_as_a_full_search(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    y, x = np.mgrid[:64, :64] - 31.5
    inside = np.hypot(y / 30, x / 26) < 1
    slices = np.where(inside, rng.integers(60, 200, (20, 64, 64)), 0).astype(np.uint8)
    both = np.concatenate([slices, np.rot90(slices, 1, axes=(1, 2)), np.roll(slices[:, :, ::-1], 1, axis=1)])
    of_all = [(pair.first, pair.second, pair.orientation) for pair in groups.find_duplicates(both)]
    assert len(of_all) == 60
    monkeypatch.setattr(search, "INDEX_MIN_IMAGES", 0)
    assert [(pair.first, pair.second, pair.orientation) for pair in groups.find_duplicates(both)] == of_all
