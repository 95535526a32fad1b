"""Rows of several arrays that are read like one array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike, NDArray

UInt8Array = NDArray[np.uint8]


class ShardedRows:
    """Rows of several memory-mapped arrays, which can be indexed by rows like one array.

    Args:
        arrays: The arrays, contiguous; their rows have the same shape.
        shard_of_row: (n,) the array of each row.
        row_in_shard: (n,) its row there.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, arrays: Sequence[UInt8Array], shard_of_row: NDArray[np.int64], row_in_shard: NDArray[np.int64]) -> None:
        self._maps = arrays
        self._arrays = [array.view(np.ndarray) for array in arrays]  # rows of np.memmap are slow to index
        self._bytes = [array.reshape(-1).data for array in self._arrays]  # copied faster than rows of arrays
        self._shards, self._rows = shard_of_row, row_in_shard
        self.shape: tuple[int, ...] = (len(shard_of_row), *arrays[0].shape[1:])
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> UInt8Array:
        """Returns one row as a read-only view for a number, or a copy of some rows for a slice, numbers or a mask."""
        shards, rows = self._shards[index], self._rows[index]
        if np.ndim(shards) == 0:
            return np.asarray(self._arrays[shards][rows])
        result = np.empty((len(rows), *self.shape[1:]), np.uint8)
        target, size = result.reshape(-1).data, math.prod(self.shape[1:])
        for i, (shard, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
            target[i * size : (i + 1) * size] = self._bytes[shard][row * size : (row + 1) * size]
        return result

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Returns a copy of all rows."""
        return self[:].astype(dtype or np.uint8, copy=False)

    def stored(self, rows: NDArray[np.int64]) -> StoredRows:
        """Returns where some rows are stored; the arrays must be memory-mapped files."""
        numbers, shards = np.unique(self._shards[rows], return_inverse=True)
        files = [Path(str(self._maps[number].filename)) for number in numbers.tolist()]
        return StoredRows(files, shards, self._rows[rows])


@dataclass(frozen=True)
class StoredRows:
    """Where some rows of a cache are stored; another process can open them.

    Attributes:
        files: The files of the arrays.
        shard_of_row: (n,) the file of each row.
        row_in_shard: (n,) its row there.
    """

    files: list[Path]
    shard_of_row: NDArray[np.int64]
    row_in_shard: NDArray[np.int64]

    @classmethod
    def of(cls, array: UInt8Array | ShardedRows, rows: NDArray[np.int64]) -> StoredRows:
        """Returns where some rows of an array of a :class:`~reslink.datasets.cache.pixel_cache.PixelCache` are stored."""
        if isinstance(array, ShardedRows):
            return array.stored(rows)
        return cls([Path(str(array.filename))], np.zeros(len(rows), np.int64), rows)  # type: ignore[attr-defined]

    def open(self) -> ShardedRows:
        """Maps the rows for reading.

        Raises:
            OSError: If a file is missing.
        """
        return ShardedRows([open_memmap(file, mode="r") for file in self.files], self.shard_of_row, self.row_in_shard)
