"""Masks and planes by OpenCV are what SciPy makes of them."""

import numpy as np
import pytest
from PIL import Image as Picture
from scipy import ndimage

from reslink.imaging import morphology


def disc(radius):
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * radius + radius


@pytest.fixture(params=[(128, 128), (128, 97), (9, 128), (3, 5), (1, 1)], ids=str)
def masks(request, rng):
    """Blobs and grains, some that touch the border, all and nothing."""
    found = [np.zeros(request.param, np.bool_), np.ones(request.param, np.bool_)]
    for share in (0.1, 0.5, 0.9):
        grains = rng.random(request.param)
        found += [grains < share, ndimage.uniform_filter(grains, 7) < 0.4 + share / 5]
    return found


@pytest.mark.parametrize("radius", [1, 2, 3, 4])
def test_opening_closing_and_dilation(masks, radius):
    for mask in masks:
        before = mask.copy()
        np.testing.assert_array_equal(morphology.opening(mask, radius), ndimage.binary_opening(mask, disc(radius)))
        np.testing.assert_array_equal(morphology.dilate(mask, radius), ndimage.binary_dilation(mask, disc(radius)))
        wide = ndimage.binary_closing(np.pad(mask, radius), disc(radius))
        np.testing.assert_array_equal(morphology.closing(mask, radius), wide[radius:-radius, radius:-radius])
        np.testing.assert_array_equal(mask, before)


@pytest.mark.parametrize("iterations", [1, 2, 6])
def test_crosses(masks, iterations):
    for mask in masks:
        dilated, eroded = (
            ndimage.binary_dilation(mask, iterations=iterations),
            ndimage.binary_erosion(mask, iterations=iterations),
        )
        np.testing.assert_array_equal(morphology.dilate_cross(mask, iterations), dilated)
        np.testing.assert_array_equal(morphology.erode_cross(mask, iterations), eroded)


def test_filling(masks):
    for mask in masks:
        np.testing.assert_array_equal(morphology.fill_holes(mask), ndimage.binary_fill_holes(mask))


@pytest.mark.parametrize("shape", [(128, 97), (2, 9), (1, 4), (1, 1)])
@pytest.mark.parametrize("side", [3, 7])
def test_gray_opening(rng, shape, side):
    values = rng.random(shape).astype(np.float32)
    expected = ndimage.grey_opening(values, size=(side, side), mode="nearest")
    np.testing.assert_array_equal(morphology.gray_opening(values, side), expected)


@pytest.mark.parametrize("shape", [(128, 97), (2, 9), (1, 1)])
def test_local_extremes(rng, shape):
    values = rng.normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(morphology.local_maximum(values, 9, 11), ndimage.maximum_filter(values, size=(9, 11)))
    np.testing.assert_array_equal(morphology.local_minimum(values, 9, 11), ndimage.minimum_filter(values, size=(9, 11)))


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("shape", [(128, 97), (2, 9), (1, 1)])
def test_smoothing(rng, shape, side):
    values = rng.random(shape).astype(np.float32)
    expected = ndimage.uniform_filter(values, side, mode="nearest")
    np.testing.assert_allclose(morphology.box_mean(values, side), expected, atol=1e-6)


def test_pieces(masks):
    for mask in masks:
        pieces, count = morphology.label_components(mask)
        expected, number = ndimage.label(mask)
        assert count == number
        assert len({*zip(pieces.ravel().tolist(), expected.ravel().tolist(), strict=True)}) == len({*expected.ravel().tolist()})
        np.testing.assert_array_equal(pieces > 0, mask)


@pytest.mark.parametrize("shape", [(256, 256), (512, 256), (1024, 768), (300, 200), (640, 640), (64, 96)])
def test_box_resize_equals_pillow(rng, shape):
    whole = rng.integers(0, 65536, shape).astype(np.float32)
    fractions = rng.random(shape).astype(np.float32)
    for ratio in (0.5, 2, 4, 5, 8, 3.7):
        size = round(shape[1] / ratio), round(shape[0] / ratio)
        expected = np.asarray(Picture.fromarray(whole).resize(size, Picture.Resampling.BOX))
        np.testing.assert_array_equal(morphology.box_resize(whole, *size), expected)
        expected = np.asarray(Picture.fromarray(fractions).resize(size, Picture.Resampling.BOX))
        np.testing.assert_allclose(morphology.box_resize(fractions, *size), expected, rtol=1e-6)
