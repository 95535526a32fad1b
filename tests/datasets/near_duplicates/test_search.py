"""Copies of all kinds are found among phantoms, and other slices and other patients are left apart."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from reslink.datasets.near_duplicates import features, groups, search, similar_rows


def test_duplicates_of_all_kinds_are_found_and_nothing_else(planted: Any) -> None:
    found = {(pair.first, pair.second) for pair in groups.find_duplicates(planted.thumbnails)}
    hits = [(int(planted.source[copy]), int(copy)) in found for copy in planted.copies]
    true = [planted.source[first] == planted.source[second] for first, second in found]
    assert np.mean(hits) >= 0.98
    assert np.mean(true) >= 0.98


def test_duplicate_groups_are_those_of_the_slices(planted: Any) -> None:
    numbers = np.array(groups.duplicate_groups(planted.thumbnails))
    assert np.mean(numbers[planted.copies] == numbers[planted.source[planted.copies]]) >= 0.98
    assert len(set(numbers[: planted.slices].tolist())) == planted.slices  # neighboring slices are not merged


def heads(count: int) -> NDArray[np.uint8]:
    """Different heads, of which the last tenth are mirrored copies of the first."""
    rng, radius = np.random.default_rng(0), np.hypot(*(np.mgrid[:64, :64] - 31.5) / 30)
    noise = rng.normal(size=(count, 64, 64)).astype(np.float32)
    gray = 110 + 200 * ndimage.gaussian_filter(noise, (0, 2, 2)) + 8 * noise
    made = np.where(radius < 0.9, np.clip(gray, 20, 200), np.where(radius < 1, 255, 0)).astype(np.uint8)
    made[count - count // 10 :] = made[: count // 10, :, ::-1]
    return made


def in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept, and every group, block and part has a size of its own."""
    for module, name, size in (
        *((search, "KEPT_IMAGES", 0), (similar_rows, "PRODUCTS", 4000), (search, "GROUP_SIZE", 33)),
        *((groups, "BLOCK_SIZE", 50), (groups, "GROUP_SIZE", 21)),
    ):
        monkeypatch.setattr(module, name, size)


def test_planes_that_are_not_kept_give_the_same_pairs(planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit by bit, also from a file."""
    nobody = [None] * len(planted.thumbnails)
    expected = groups.find_duplicates(planted.thumbnails)
    similar = groups._similar_pairs(planted.thumbnails, nobody, nobody)
    np.save(tmp_path / "thumbnails.npy", planted.thumbnails)
    in_small_chunks(monkeypatch)
    stored = np.load(tmp_path / "thumbnails.npy", mmap_mode="r")
    assert groups.find_duplicates(stored) == expected
    assert {tuple(pair) for pair in groups._similar_pairs(stored, nobody, nobody)} == {tuple(pair) for pair in similar}
    assert len(similar) > 100


@pytest.mark.parametrize(
    "find", [groups.find_duplicates, lambda pictures: groups._similar_pairs(pictures, *[[None] * len(pictures)] * 2)]
)
def test_memory_hardly_grows_with_the_number_of_images(find: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What remains for each image are its code and its rows in the index, not its planes (16 KB each) and spectra."""
    for module, name, size in (
        *((search, "KEPT_IMAGES", 0), (similar_rows, "INDEX_MIN_IMAGES", 0), (similar_rows, "BOUND_MIN_IMAGES", 0)),
        *((groups, "BLOCK_SIZE", 64),),
        *((search, "GROUP_SIZE", 32), (groups, "GROUP_SIZE", 32)),
        *((search, "CHUNK_SIZE", 64), (groups, "CHUNK_SIZE", 64), (features, "CHUNK_SIZE", 64)),
    ):
        monkeypatch.setattr(module, name, size)

    def peak(count: int) -> int:
        pictures = heads(count)
        tracemalloc.start()
        try:
            find(pictures)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    smaller, larger = peak(500), peak(1000)  # in this order: the first also computes the rotation of the codes
    assert (larger - smaller) / 500 < 1500
