"""Kinds of near duplicates of phantom images."""

from __future__ import annotations

import numpy as np
import pytest

from reslink.datasets.phantom.duplicates import DUPLICATE_KINDS, MAX_CROP, GrayImage


@pytest.fixture
def pixels(rng: np.random.Generator) -> GrayImage:
    """A bright disc with texture on black."""
    rows, columns = np.mgrid[:96, :80]
    inside = np.hypot((rows - 48) / 40, (columns - 40) / 32) < 1
    return np.where(inside, rng.integers(80, 200, inside.shape), 0).astype(np.uint8)


@pytest.mark.parametrize("kind", DUPLICATE_KINDS)
def test_the_random_generator_alone_decides_the_change(kind: str, pixels: GrayImage) -> None:
    before = pixels.copy()
    once, again = (DUPLICATE_KINDS[kind](pixels, np.random.default_rng(3)) for _ in range(2))
    assert (once.dtype, once.ndim) == (np.uint8, 2)
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(pixels, before)


def test_a_turned_image_is_one_of_eight(pixels: GrayImage, rng: np.random.Generator) -> None:
    sides = [np.rot90(pixels, quarter) for quarter in range(4)]
    views = {view.tobytes() for side in sides for view in (side, side[:, ::-1])}
    turned = {DUPLICATE_KINDS["mirrored, rotated"](pixels, rng).tobytes() for _ in range(60)}
    assert turned == views


def test_crops_remove_at_most_a_tenth_at_each_side(pixels: GrayImage, rng: np.random.Generator) -> None:
    for _ in range(20):
        cropped = DUPLICATE_KINDS["crop of the picture"](pixels, rng)
        assert all(after >= before * (1 - 2 * MAX_CROP) - 1 for before, after in zip(pixels.shape, cropped.shape, strict=True))
