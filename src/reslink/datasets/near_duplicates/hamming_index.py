"""Index of binary codes for nearest-neighbor search by Hamming distance, with faiss (extra ``audit``).

Two codes are compared if at least one of their 24 hashes differs in at most one bit (multi-index hashing: Norouzi, Punjani
and Fleet, "Fast search in Hamming space with multi-index hashing", CVPR 2012). The hashes are long enough that a bucket
holds less than one code on average, so that the work per query hardly grows with the number of codes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

from reslink.errors import UsageError
from reslink.files import install_command

BITS: Final = 1024
BYTES: Final = BITS // 8
SEED: Final = b"reslink fingerprint 1"
HASHES: Final = 24
MAX_CODES_OF_20_BITS: Final = 200_000
"""Up to this number of codes a hash has 20 bits, beyond it 24."""

QUERY_BATCH: Final = 8192

Codes = NDArray[np.uint8]
Numbers = NDArray[np.intp]


def faiss_available() -> bool:
    """Returns whether faiss is installed."""
    return importlib.util.find_spec("faiss") is not None


@cache
def rotation() -> NDArray[np.float32]:
    """Returns the fixed (1024, 1024) rotation: three Hadamard transforms with sign flips from a published seed between them.

    Pseudo-random rotations for hashing: Andoni et al., "Practical and optimal LSH for angular distance", NeurIPS 2015,
    section 5.
    """
    flips = np.unpackbits(np.frombuffer(hashlib.shake_256(SEED).digest(3 * BYTES), np.uint8)).reshape(3, BITS)
    mixing = hadamard(BITS).astype(np.float32) / np.float32(np.sqrt(BITS))
    result = np.eye(BITS, dtype=np.float32)
    for row in flips.astype(np.float32) * 2 - 1:
        result = mixing @ (row[:, None] * result)
    result.flags.writeable = False
    return result


def binary_codes(rows: NDArray[np.float32]) -> Codes:
    """Returns the signs of rows after the rotation (SimHash: Charikar, STOC 2002, section 3).

    Args:
        rows: (n, k) float32, k up to 1,024.

    Returns:
        (n, 128) uint8; all 0 for a row of zeros. Two rows at an angle of a radians differ in about 1024 a / π bits.
    """
    return np.packbits(rows @ rotation()[:, : rows.shape[1]].T > 0, axis=1)


class HammingIndex:
    """Index of binary codes, searchable by Hamming distance.

    Args:
        rows: (n, 128) uint8.

    Raises:
        UsageError: If faiss is not installed.
    """

    def __init__(self, rows: Codes) -> None:
        if not faiss_available():
            raise UsageError(
                "The index of near duplicates needs faiss, which is not installed",
                "It belongs to the extra 'audit' of reslink",
                f"Run: {install_command('audit')}",
            )
        with warnings.catch_warnings():  # SWIG types have no __module__, which Python 3.12 deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            import faiss

        self._index: Any = faiss.IndexBinaryMultiHash(BITS, HASHES, 20 if len(rows) <= MAX_CODES_OF_20_BITS else 24)
        self._index.nflip = 1
        self._index.add(np.ascontiguousarray(rows))

    def search(self, queries: Codes, distance: int) -> Iterator[tuple[Numbers, Numbers, Numbers]]:
        """Yields batches of (query row, indexed row, distance) for pairs that differ in at most ``distance`` bits.

        The search is approximate. It misses fewer than 1 in 1,000 of the pairs that differ in 10 % of the bits, about 1 in 100
        at 15 % (7 in 100 with more than 200,000 codes) and 2 in 10 at 20 % (45 in 100).

        Args:
            queries: (m, 128) uint8.
            distance: Largest Hamming distance in bits.
        """
        for start in range(0, len(queries), QUERY_BATCH):
            limits, distances, rows = self._index.range_search(
                np.ascontiguousarray(queries[start : start + QUERY_BATCH]), distance + 1
            )
            counts = np.diff(limits.astype(np.intp))
            yield np.repeat(np.arange(start, start + len(counts)), counts), rows.astype(np.intp), distances.astype(np.intp)
