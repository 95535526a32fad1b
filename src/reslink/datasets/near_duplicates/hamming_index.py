"""Index of binary codes for nearest-neighbor search by Hamming distance: a join on bands of bits.

Two codes are compared if at least one of their 24 bands of 20 bits differs in at most one bit (multi-index hashing: Norouzi,
Punjani and Fleet, "Fast search in Hamming space with multi-index hashing", CVPR 2012). For each band, the index is the list of
rows sorted by their value, and where each of the 2^20 values begins in it: 96 bytes a code beside the code itself, and 100 MB.

faiss is not used: IndexBinaryMultiHash needs 2.4 KB a code, takes ten times as long to build, and as long to search.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

BITS: Final = 1024
BYTES: Final = BITS // 8
SEED: Final = b"reslink fingerprint 1"
BANDS: Final = 24
BAND_BITS: Final = 20
COMPARED: Final = 1 << 16
"""Number of pairs of codes that are compared at once."""

_CHUNK: Final = 8192

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


def distance_of(correlation: float) -> int:
    """Returns the expected Hamming distance of the codes of two rows with this correlation, in bits."""
    return int(np.arccos(correlation) / np.pi * BITS)


class HammingIndex:
    """Index of binary codes, searchable by Hamming distance. Codes without a bit, those of blank images, are never found.

    Args:
        codes: (n, 128) uint8.
    """

    def __init__(self, codes: Codes) -> None:
        self._codes = codes
        used = np.flatnonzero(codes.any(axis=1)).astype(np.int32)
        self._rows = np.empty((BANDS, len(used)), np.int32)
        self._starts = np.zeros((BANDS, (1 << BAND_BITS) + 1), np.int32)
        values = _band_values(codes[used])
        for band in range(BANDS):
            self._rows[band] = used[np.argsort(values[:, band], kind="stable")]
            np.cumsum(np.bincount(values[:, band], minlength=1 << BAND_BITS), out=self._starts[band, 1:])

    def search(self, queries: Codes, distance: int) -> Iterator[tuple[Numbers, Numbers, Numbers]]:
        """Yields batches of (query row, indexed row, distance) for pairs that differ in at most ``distance`` bits.

        A pair may be in several batches. The search is approximate. It misses fewer than 1 in 1,000 of the pairs that differ in
        10 % of the bits, about 1 in 100 at 15 % and 2 in 10 at 20 %.

        Args:
            queries: (m, 128) uint8.
            distance: Largest Hamming distance in bits.
        """
        flips = np.concatenate([[0], 1 << np.arange(BAND_BITS)]).astype(np.int32)
        values = _band_values(queries)
        values = values[used := np.flatnonzero(queries.any(axis=1))]
        for band in range(BANDS):
            keys = (values[:, band, None] ^ flips).ravel()
            begins, ends = self._starts[band][keys], self._starts[band][keys + 1]
            for asked, positions in _ranges(begins, ends):
                query, row = used[asked // len(flips)], self._rows[band][positions]
                bits = np.bitwise_count((queries[query] ^ self._codes[row]).view(np.uint64)).sum(axis=1, dtype=np.intp)
                near = np.flatnonzero(bits <= distance)
                yield query[near], row[near].astype(np.intp), bits[near]


def _band_values(codes: Codes) -> NDArray[np.int32]:
    """Returns the value of each band of (n, 128) codes, (n, 24)."""
    places = (1 << np.arange(BAND_BITS)).astype(np.float32)  # sums up to 2^20 are exact
    values = np.empty((len(codes), BANDS), np.int32)
    for start in range(0, len(codes), _CHUNK):
        bits = np.unpackbits(codes[start : start + _CHUNK, : BANDS * BAND_BITS // 8], axis=1)
        values[start : start + _CHUNK] = bits.reshape(-1, BANDS, BAND_BITS).astype(np.float32) @ places
    return values


def _ranges(begins: NDArray[np.int32], ends: NDArray[np.int32]) -> Iterator[tuple[Numbers, Numbers]]:
    """Yields (range, position) for all positions of ranges, in parts of at most ``COMPARED`` positions."""
    filled = np.flatnonzero(ends > begins)
    begins, lengths = begins[filled], (ends - begins)[filled]
    last = np.cumsum(lengths, dtype=np.intp)
    for start in range(0, int(last[-1]) if len(last) else 0, COMPARED):
        places = np.arange(start, min(start + COMPARED, int(last[-1])))
        of = np.searchsorted(last, places, side="right")
        yield filled[of], begins[of] + places - (last[of] - lengths[of])
