"""Symmetric parts of spectra: correlations in all orientations of a spectrum by a quarter of the operations.

Rotation by 90° and the flip commute on a spectrum, which rotation by 180° does not change. So a spectrum is the sum of four
parts, which each of the two either keeps or negates, and an eighth of a part determines all of it. The parts of different
kinds are orthogonal in every orientation.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

from reslink.datasets.near_duplicates.features import MAX_FREQUENCY, Features, orient
from reslink.datasets.near_duplicates.search import SPECTRUM_ORIENTATIONS

_SIGNS: Final = hadamard(len(SPECTRUM_ORIENTATIONS)).astype(np.float32)
"""(4, 4) sign of each part (row) in each of the orientations 0, 1, 4 and 5 (column)."""


def symmetric_parts(spectrum_planes: Features) -> Features:
    """Returns (4, n, 114) parts of (n, 33, 33) spectra, as ``oriented_correlations`` needs them."""
    octant, weights = _octant()
    oriented = np.stack([orient(spectrum_planes, orientation)[:, octant] for orientation in SPECTRUM_ORIENTATIONS])
    return np.asarray(np.tensordot(_SIGNS, oriented * weights, 1), np.float32)


def oriented_correlations(first: Features, second: Features) -> Features:
    """Returns the correlations of spectra in each orientation of the first.

    Args:
        first: (4, n, 114) parts of spectra.
        second: (4, m, 114) parts of spectra.

    Returns:
        (4, n, m) in the order of ``SPECTRUM_ORIENTATIONS``.
    """
    products = first @ second.transpose(0, 2, 1)
    return np.asarray((_SIGNS @ products.reshape(len(_SIGNS), -1)).reshape(products.shape), np.float32)


@cache
def _octant() -> tuple[NDArray[np.bool_], Features]:
    """Returns the mask of an eighth of the 33×33 frequencies, and the root of the share of each in a sum over the 33×33."""
    rows, columns = np.mgrid[-MAX_FREQUENCY : MAX_FREQUENCY + 1, -MAX_FREQUENCY : MAX_FREQUENCY + 1]
    octant = (rows >= 0) & (columns >= rows) & (np.hypot(rows, columns) <= MAX_FREQUENCY)
    occurrences = np.where((rows == 0) | (rows == columns), 4, 8)  # frequency 0 has no power
    return octant, (np.sqrt(occurrences[octant]) / len(SPECTRUM_ORIENTATIONS)).astype(np.float32)
