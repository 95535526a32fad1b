"""Rows of several arrays, read like one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reslink.datasets.cache.sharded_rows import ShardedRows, StoredRows


@pytest.fixture
def whole(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (9, 2, 3), np.uint8)


@pytest.fixture
def rows(whole: NDArray[np.uint8]) -> ShardedRows:
    """Rows 0 to 3, 4 and 5 to 8, the last ones stored in reverse order."""
    places = [(0, i) for i in range(4)] + [(1, 0)] + [(2, i) for i in (3, 2, 1, 0)]
    shards, numbers = np.array(places, np.int64).T
    return ShardedRows([whole[:4], whole[4:5], whole[5:][::-1].copy()], shards, numbers)


INDICES = [
    np.array([8, 0, 4, 4, 5]),
    [3, 4],
    np.arange(9) % 2 == 0,
    slice(None),
    slice(2, 7, 2),
    slice(None, None, -1),
    np.zeros(0, np.int64),
    0,
    -1,
    np.int64(5),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_are_those_of_the_whole_array(whole: NDArray[np.uint8], rows: ShardedRows, index: Any) -> None:
    np.testing.assert_array_equal(rows[index], whole[index])
    assert (rows[index].shape, rows[index].dtype) == (whole[index].shape, whole.dtype)


def test_behave_like_an_array(whole: NDArray[np.uint8], rows: ShardedRows) -> None:
    assert (len(rows), rows.shape, rows.ndim, rows.dtype) == (9, (9, 2, 3), 3, whole.dtype)
    np.testing.assert_array_equal(np.asarray(rows), whole)
    np.testing.assert_array_equal(np.concatenate([rows, rows]), np.concatenate([whole, whole]))
    np.testing.assert_array_equal(np.stack([rows[i] for i in range(len(rows))]), whole)
    assert np.asarray(rows, np.float32).dtype == np.float32
    with pytest.raises(IndexError):
        rows[9]


def test_stored_rows_are_opened_again(whole: NDArray[np.uint8], tmp_path: Path) -> None:
    maps = []
    for name, part in (("a", whole[:4]), ("b", whole[4:5]), ("c", whole[5:])):
        np.save(tmp_path / f"{name}.npy", part)
        maps.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    places = np.array([0, 0, 0, 0, 1, 2, 2, 2, 2]), np.array([0, 1, 2, 3, 0, 0, 1, 2, 3])
    wanted = np.array([8, 0, 2, 8])
    stored = StoredRows.of(ShardedRows(maps, *places), wanted)
    assert [file.name for file in stored.files] == ["a.npy", "c.npy"]
    np.testing.assert_array_equal(stored.open()[:], whole[wanted])
    one = StoredRows.of(maps[2], np.array([3, 1]))
    np.testing.assert_array_equal(one.open()[:], whole[[8, 6]])


def test_a_batch_is_a_copy(whole: NDArray[np.uint8], rows: ShardedRows) -> None:
    before = whole.copy()
    rows[[0, 1]][:] = 0
    np.testing.assert_array_equal(whole, before)
