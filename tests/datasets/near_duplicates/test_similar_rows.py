"""Similar rows are found by comparing all of them, or by an index of the nearest."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from reslink.datasets.near_duplicates import groups, similar_rows
from reslink.datasets.near_duplicates.features import Features, unit_rows
from reslink.datasets.near_duplicates.similar_rows import most_similar, search_rows
from reslink.errors import UsageError


@pytest.fixture(params=["all pairs", "index"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "index":
        monkeypatch.setattr(similar_rows, "INDEX_MIN_IMAGES", 0)
        monkeypatch.setattr(similar_rows, "BOUND_MIN_IMAGES", 0)
    return str(request.param)


def clusters(rng: np.random.Generator) -> Features:
    """60 clusters of 5 rows, which correlate by about 0.9 in a cluster and not at all between clusters."""
    centers = np.repeat(rng.normal(size=(60, 300)), 5, axis=0)
    return unit_rows((centers + 0.33 * rng.normal(size=centers.shape)).astype(np.float32).reshape(-1, 15, 20))


def pairs_of(found: Any) -> dict[tuple[int, int], float]:
    return {(int(i), int(j)): float(c) for part in found for i, j, c in zip(*part, strict=True)}


def test_similar_rows_are_found_with_their_correlation(way: str, rng: np.random.Generator) -> None:
    rows = clusters(rng)
    pairs = pairs_of(search_rows(iter([rows[:100], rows[100:]]), 300, 0.7)(rows[200:]))
    assert set(pairs) == {(i, j) for j in range(100) for i in range(300) if i // 5 == (j + 200) // 5}
    tolerance = 1e-5 if way == "all pairs" else 0.1  # the index estimates correlations from signs
    assert all(abs(c - rows[i] @ rows[j + 200]) < tolerance for (i, j), c in pairs.items())


def test_each_pair_may_be_asked_for_once(way: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    rows = clusters(rng)
    monkeypatch.setattr(similar_rows, "PRODUCTS", 3000)  # blocks of 30 rows
    pairs = pairs_of(search_rows(iter([rows]), 300, 0.7)(rows[100:200], 100))
    earlier = {(i, j) for i, j in pairs if i < j + 100}
    assert earlier == {(i, j) for j in range(100) for i in range(j + 100) if i // 5 == (j + 100) // 5}
    assert way == "index" or max(i for i, _ in pairs) < 200


def test_rows_without_contrast_are_similar_to_nothing(way: str, rng: np.random.Generator) -> None:
    rows = clusters(rng)
    rows[::5] = 0
    pairs = pairs_of(search_rows(iter([rows]), 300, 0.7)(rows))
    assert not any(i % 5 == 0 or j % 5 == 0 for i, j in pairs)
    assert len(pairs) == 60 * 16


def test_of_a_large_data_set_the_most_similar_pairs_of_each_image_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    images: NDArray[np.intp] = np.array([4, 2, 4, 4, 2, 7])
    correlation = np.array([0.5, 0.6, 0.9, 0.7, 0.8, 0.1], np.float32)
    monkeypatch.setattr(similar_rows, "MAX_NEIGHBORS", 2)
    assert most_similar(images, correlation, 10_000).tolist() == [0, 1, 2, 3, 4, 5]
    assert most_similar(images, correlation, 10_001).tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("index_from", [0, 10**6])
def test_bounded_comparisons_find_the_planted_duplicates_too(
    planted: Any, index_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of all 13 kinds, with the recall and precision that all pairs reach."""
    monkeypatch.setattr(similar_rows, "INDEX_MIN_IMAGES", index_from)
    monkeypatch.setattr(similar_rows, "BOUND_MIN_IMAGES", 0)
    found = {(pair.first, pair.second) for pair in groups.find_duplicates(planted.thumbnails)}
    assert np.mean([(int(planted.source[copy]), int(copy)) in found for copy in planted.copies]) >= 0.98
    assert np.mean([planted.source[first] == planted.source[second] for first, second in found]) >= 0.98


def test_many_almost_equal_images_are_one_group_without_all_their_pairs(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    inside = np.hypot(*(np.mgrid[:64, :64] - 31.5) / np.array([30, 26])[:, None, None]) < 1
    scout = rng.integers(60, 200, (64, 64))
    images = np.where(inside, scout + rng.integers(-2, 3, (60, 64, 64)), 0).astype(np.uint8)
    monkeypatch.setattr(similar_rows, "INDEX_MIN_IMAGES", 0)
    monkeypatch.setattr(similar_rows, "BOUND_MIN_IMAGES", 0)
    monkeypatch.setattr(similar_rows, "MAX_NEIGHBORS", 5)
    monkeypatch.setattr(similar_rows, "FOUND_NEIGHBORS", 6)
    assert len(set(groups.duplicate_groups(images))) == 1
    assert len(groups.find_duplicates(images)) <= 60 * 5


def test_the_slices_of_its_own_scan_hide_no_other_patient(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """A patient with two IDs: each slice has nine nearer ones of its own."""
    inside = np.hypot(*(np.mgrid[:64, :64] - 31.5) / np.array([30, 26])[:, None, None]) < 1

    def smooth(count: int, scale: float) -> NDArray[np.float64]:
        noise: NDArray[np.float64] = ndimage.gaussian_filter(rng.normal(size=(count, 64, 64)), (0, 2, 2))
        return noise / noise.std() * scale

    head = smooth(1, 25)
    scans = np.concatenate([head + smooth(1, 5) + smooth(10, 2) for _ in range(2)])
    images = np.where(inside, np.clip(110 + scans, 20, 200), 0).astype(np.uint8)
    patients = ["A"] * 10 + ["B"] * 10
    expected = groups._similar_pairs(images, patients, [None] * 20)
    assert len(expected) > 50
    monkeypatch.setattr(similar_rows, "INDEX_MIN_IMAGES", 0)
    monkeypatch.setattr(similar_rows, "BOUND_MIN_IMAGES", 0)
    monkeypatch.setattr(similar_rows, "MAX_NEIGHBORS", 2)
    found = groups._similar_pairs(images, patients, [None] * 20)
    assert {tuple(pair) for pair in found} <= {tuple(pair) for pair in expected}
    assert len(found) == 20


def test_a_missing_package_is_named_before_images_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    similar_rows.check_index(50_000)
    with pytest.raises(UsageError, match="'faiss' is not installed"):
        similar_rows.check_index(50_001)
