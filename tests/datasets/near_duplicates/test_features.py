"""Local contrast equals its formula with the filters of SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from reslink.datasets.near_duplicates import features
from reslink.datasets.near_duplicates.fingerprints import make_fingerprints
from reslink.datasets.near_duplicates.hamming_index import binary_codes
from reslink.imaging.morphology import erode_cross, fill_holes

Planes = NDArray[Any]


def weighted_mean(values: Planes, weight: Planes, sigma: float) -> Planes:
    total, weights = (ndimage.gaussian_filter(plane, sigma, truncate=3) for plane in (values * weight, weight))
    return total / np.maximum(weights, 0.05)


def contrast(thumbnail: Planes, mask: Planes, widths: tuple[float, float, float]) -> Planes:
    weight, values = mask.astype(np.float64), thumbnail.astype(np.float64)
    fine = weighted_mean(values, weight, widths[0])
    difference = (fine - weighted_mean(fine, weight, widths[1])) * weight
    return difference / (np.sqrt(weighted_mean(difference**2, weight, widths[2])) + 2) * weight


@pytest.mark.parametrize(("name", "widths"), [("structure_contrast", (0.7, 3.0, 4.5)), ("texture_contrast", (0.5, 1.5, 2.25))])
def test_contrast_of_soft_tissue_equals_the_formula(planted: Any, name: str, widths: tuple[float, float, float]) -> None:
    thumbnails = planted.thumbnails[: features.PLANES_IN_CACHE + 5]
    masks = features.soft_tissue_masks(thumbnails)
    expected = [contrast(*pair, widths) for pair in zip(thumbnails, masks, strict=True)]
    planes = getattr(features, name)(thumbnails, masks)
    np.testing.assert_allclose(planes, expected, atol=2e-5)
    assert ((planes != 0) <= masks).all()  # 0 means no contrast to the alignment


def test_contrast_without_the_outline_equals_the_formula(planted: Any) -> None:
    thumbnails = planted.thumbnails[: features.PLANES_IN_CACHE + 5]
    expected = [contrast(t, erode_cross(fill_holes(t > 8), 4), (1.0, 4.0, 4.0)) for t in thumbnails]
    np.testing.assert_allclose(features.outline_free_contrast(thumbnails), expected, atol=2e-5)


def test_fingerprints_equal_those_of_the_formula(planted: Any) -> None:
    """Bundles store fingerprints for years: at most one of 100,000 bits may depend on the rounding of a filter."""
    masks = features.soft_tissue_masks(planted.thumbnails)
    planes = [contrast(*pair, (0.7, 3.0, 4.5)) for pair in zip(planted.thumbnails, masks, strict=True)]
    expected = binary_codes(features.unit_rows(features.downsample(np.array(planes, np.float32))))
    different = np.unpackbits(expected ^ make_fingerprints(planted.thumbnails)).sum()
    assert different <= 8 * expected.size / 100_000 + 1
