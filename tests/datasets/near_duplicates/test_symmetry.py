"""Symmetric parts of spectra give the correlations in every orientation."""

from __future__ import annotations

from typing import Any

import numpy as np

from reslink.datasets.near_duplicates import symmetry
from reslink.datasets.near_duplicates.features import half_spectra, orient, spectra, structure_contrast
from reslink.datasets.near_duplicates.search import SPECTRUM_ORIENTATIONS


def test_correlations_in_all_orientations_equal_products_of_oriented_spectra(planted: Any) -> None:
    spectrum = spectra(structure_contrast(planted.thumbnails[:40]))
    first, second = spectrum[:15], spectrum[15:]
    correlations = symmetry.oriented_correlations(symmetry.symmetric_parts(first), symmetry.symmetric_parts(second))
    expected = [half_spectra(orient(first, orientation)) @ half_spectra(second).T for orientation in SPECTRUM_ORIENTATIONS]
    assert np.ptp(expected, axis=0).max() > 0.2  # the orientations differ
    np.testing.assert_allclose(correlations, expected, atol=2e-6)
