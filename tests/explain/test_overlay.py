"""Heat maps over an image."""

from __future__ import annotations

import numpy as np
import pytest

from reslink.explain.overlay import CONTOUR, contour, overlay, unit_range


@pytest.fixture
def gray(rng) -> np.ndarray:
    return rng.integers(0, 200, (40, 60)).astype(np.uint8)


def test_the_hot_spot_is_bright_and_the_rest_stays_gray(gray):
    heat = np.zeros((40, 60), np.float32)
    heat[10:14, 30:36] = 5.0
    rgb = overlay(gray, heat)
    assert rgb.shape == (40, 60, 3)
    assert rgb.dtype == np.uint8
    cold = heat == 0
    np.testing.assert_array_equal(rgb[cold], np.repeat(gray[cold][:, None], 3, axis=1))
    hot = rgb[10:14, 30:36].astype(int)
    assert (hot[..., 0] > hot[..., 2]).all()
    assert (hot[..., 0] >= gray[10:14, 30:36]).all()


def test_only_visible_pixels_are_colored(gray):
    heat = np.tile(np.linspace(0, 1, 60, dtype=np.float32), (40, 1))
    visible = np.zeros((40, 60), bool)
    visible[:, 20:40] = True
    rgb = overlay(gray, heat, visible=visible)
    np.testing.assert_array_equal(rgb[~visible], np.repeat(gray[~visible][:, None], 3, axis=1))
    assert (rgb[:, 39, 0] > rgb[:, 39, 2]).all(), "the highest visible value is the brightest"
    np.testing.assert_array_equal(overlay(gray, heat, visible=np.zeros((40, 60), bool)), overlay(gray, heat))


def test_higher_is_hotter_never_the_other_way():
    ramp = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (4, 1))
    rgb = overlay(np.zeros((4, 256), np.uint8), ramp).astype(int).sum(axis=2)[0]
    assert (np.diff(rgb) >= -2).all()
    assert rgb[-1] > rgb[128] > rgb[0]
    assert (np.diff(unit_range(ramp)[0]) >= 0).all()


@pytest.mark.parametrize("value", [0.0, 0.7, -3.0, np.nan, np.inf])
def test_a_flat_map_gives_the_image(gray, value):
    rgb = overlay(gray, np.full((40, 60), value, np.float32))
    np.testing.assert_array_equal(rgb, np.repeat(gray[..., None], 3, axis=2))


def test_single_values_that_are_not_finite_do_not_spread(gray):
    heat = np.zeros((40, 60), np.float32)
    heat[5, 5] = np.nan
    heat[20:30, 20:30] = 1
    scaled = unit_range(heat)
    assert np.isfinite(scaled).all()
    assert scaled[5, 5] == 0
    assert scaled[25, 25] == 1


def test_a_small_map_is_enlarged_in_place(gray):
    heat = np.zeros((4, 6), np.float32)
    heat[3, 0] = 1
    rgb = overlay(np.zeros_like(gray), heat).astype(int).sum(axis=2)
    row, column = np.unravel_index(rgb.argmax(), rgb.shape)
    assert row >= 30
    assert column < 10


def test_the_contour_lies_around_the_mask(gray):
    mask = np.zeros((40, 60), bool)
    mask[10:20, 10:20] = True
    rim = contour(mask)
    assert not (rim & mask).any()
    assert rim.sum() == 40
    rgb = overlay(gray, np.zeros((40, 60), np.float32), mask)
    assert (rgb[rim] == CONTOUR).all()
    assert not contour(np.zeros((5, 5), bool)).any()


def test_inputs_are_not_changed(gray):
    heat = np.ones((40, 60), np.float32)
    heat[0, 0] = np.nan
    kept = gray.copy(), heat.copy()
    overlay(gray, heat, gray > 100)
    np.testing.assert_array_equal(gray, kept[0])
    np.testing.assert_array_equal(heat, kept[1])
