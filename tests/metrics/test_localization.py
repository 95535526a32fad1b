"""Heat maps on squares whose overlap is known."""

import numpy as np
import pytest

from reslink.errors import InputError
from reslink.metrics.localization import energy_inside, iou, pointing_game


@pytest.fixture
def mask():
    lesion = np.zeros((100, 100), bool)
    lesion[40:60, 40:60] = True
    return lesion


def peak(*points):
    heat = np.zeros((100, 100))
    for point in points:
        heat[point] = 1
    return heat


@pytest.mark.parametrize(
    ("point", "hit"),
    [((50, 50), True), ((40, 40), True), ((25, 50), True), ((24, 50), False), ((29, 29), False), ((30, 30), True)],
)
def test_pointing_with_a_tolerance_of_15_pixels(mask, point, hit):
    # (30, 30) is 14.1 pixels from the corner (40, 40), (29, 29) is 15.6
    assert pointing_game(peak(point), mask) is hit


def test_tolerance_zero_means_on_the_lesion(mask):
    assert pointing_game(peak((40, 40)), mask, tolerance=0)
    assert not pointing_game(peak((39, 40)), mask, tolerance=0)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_a_constant_map_never_points(mask, value):
    heat = np.full((100, 100), value)
    assert not pointing_game(heat, mask)
    assert not pointing_game(heat, np.ones((100, 100)))


def test_shared_maxima_must_all_hit(mask):
    assert pointing_game(peak((45, 45), (55, 55)), mask)
    assert not pointing_game(peak((45, 45), (5, 5)), mask)
    assert not pointing_game(peak((5, 50), (95, 50)), mask), "their centroid lies on the lesion, they do not"


def test_energy(mask):
    assert energy_inside(mask.astype(float), mask) == 1
    assert energy_inside(~mask, mask) == 0
    assert energy_inside(np.ones((100, 100)), mask) == pytest.approx(0.04)
    heat = np.where(mask, 3.0, 1.0)
    assert energy_inside(heat, mask) == pytest.approx(1200 / (1200 + 9600))
    assert energy_inside(np.where(mask, 1.0, -9.0), mask) == 1
    assert energy_inside(np.zeros((100, 100)), mask) == 0


def test_overlap_at_the_area_of_the_lesion(mask, rng):
    noise = rng.random((100, 100)) * 0.01
    assert iou(mask + noise, mask) == 1
    half = np.zeros((100, 100))
    half[40:60, 50:70] = 1  # as large, overlaps by half: 200 / 600
    assert iou(half + noise, mask) == pytest.approx(1 / 3)
    assert iou(1 - mask + noise, mask) == 0


def test_ties_count_as_chance(mask):
    expected = 400 * 0.04 / (800 - 400 * 0.04)
    assert iou(np.ones((100, 100)), mask) == pytest.approx(expected)
    small = peak((50, 50))  # one hot pixel, the other 399 are drawn from ties
    overlap = 1 + 399 * 399 / 9999
    assert iou(small, mask) == pytest.approx(overlap / (800 - overlap))


def test_a_mask_may_hold_any_number(mask):
    assert iou(mask * 1.0, mask * 255) == 1


@pytest.mark.parametrize("measure", [pointing_game, energy_inside, iou])
def test_what_cannot_be_measured_is_refused(mask, measure):
    with pytest.raises(InputError, match="mask is empty"):
        measure(np.ones((100, 100)), np.zeros((100, 100)))
    with pytest.raises(InputError, match=r"\(50, 50\).*\(100, 100\)"):
        measure(np.ones((50, 50)), mask)
    with pytest.raises(InputError, match="not finite"):
        measure(np.full((100, 100), np.nan), mask)
