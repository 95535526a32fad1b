"""Binary codes of image features, and an index of them for nearest-neighbor search by Hamming distance."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

from reslink.files import optional_import

BITS: Final = 1024
BYTES: Final = BITS // 8
SEED: Final = b"reslink fingerprint 1"

LINKS: Final = 32
"""Number of neighbors that the graph of the index links to each code; twice as many at its lowest level."""

SEARCH_DEPTH: Final = 256
"""Number of nearest codes that a search follows in the graph (efSearch). With half as many, it misses twice as many codes."""

BUILD_DEPTH: Final = 64
"""The same while a code is added (efConstruction)."""

Codes = NDArray[np.uint8]
Numbers = NDArray[np.intp]


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


def correlation_of(bits: Numbers) -> NDArray[np.float32]:
    """Returns the correlation of two rows that is expected from the number of bits in which their codes differ."""
    return np.cos(np.pi * bits / BITS).astype(np.float32)


class HammingIndex:
    """Index of binary codes, searchable by Hamming distance: a graph of neighbors.

    Hierarchical navigable small worlds: Malkov and Yashunin, IEEE Trans. Pattern Analysis and Machine Intelligence 42:824,
    2020.
    The same codes in the same order give the same graph. Of equal codes, only the first is in the index. Codes without a bit,
    those of blank images, are neither in it nor found.

    Args:
        codes: (n, 128) uint8.

    Raises:
        UsageError: If faiss is not installed (extras ``audit`` and ``train``).
    """

    def __init__(self, codes: Codes) -> None:
        faiss = load_faiss()
        used = np.flatnonzero(codes.any(axis=1))
        _, first = np.unique(codes[used].view(f"V{BYTES}"), return_index=True)
        self._rows = used[np.sort(first)]
        self._index = faiss.IndexBinaryHNSW(BITS, LINKS)
        self._index.hnsw.efConstruction, self._index.hnsw.efSearch = BUILD_DEPTH, SEARCH_DEPTH
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # with several threads, the graph depends on which of them is faster
        try:
            self._index.add(codes[self._rows])
        finally:
            faiss.omp_set_num_threads(threads)

    def nearest(self, queries: Codes, count: int) -> tuple[Numbers, Numbers, Numbers]:
        """Returns the codes that are nearest to each query, as (query, row of the code, number of different bits).

        The search is approximate.

        Args:
            queries: (m, 128) uint8.
            count: Number of codes for each query.
        """
        asked = np.flatnonzero(queries.any(axis=1))
        if not len(asked) or not len(self._rows):
            return (np.zeros(0, np.intp),) * 3
        bits, found = self._index.search(queries[asked], count)
        query, place = np.nonzero(found >= 0)  # fewer are found in a small index
        return asked[query], self._rows[found[query, place]], bits[query, place].astype(np.intp)


def load_faiss() -> Any:
    """Imports faiss.

    Raises:
        UsageError: If it is not installed.
    """
    return optional_import("faiss", "audit")
