"""Input statistics: finite for whatever comes, the same however an image is turned, and known numbers for plain shapes."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from reslink.imaging.input_statistics import (
    MIN_BRAIN_SHARE,
    NAMES,
    SCALES,
    SIDE,
    _contrasts,
    _distance,
    brain_share,
    input_statistics,
    min_brain_share,
)
from reslink.imaging.preprocess import Preprocess


def disc(side=224, radius=80, gray=120, ring=0):
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    r = np.hypot(y, x)
    return np.where(r < radius - ring, gray, np.where(r < radius, 255, 0)).astype(np.uint8)[None]


def named(pixels):
    return dict(zip(NAMES, input_statistics(pixels[None])[0], strict=True))


def test_a_disc_has_the_numbers_of_a_disc():
    found = named(disc(radius=80, gray=120))
    assert found["area"] == pytest.approx(np.pi * 80**2 / 224**2, rel=0.05)
    assert found["box_fill"] == pytest.approx(np.pi / 4, rel=0.05)
    assert found["elongation"] == 1
    assert found["depth"] == pytest.approx(1 / np.sqrt(np.pi), rel=0.1)
    assert found["quantile_0.5"] == pytest.approx(120 / 255, abs=0.01)
    assert found["shell_5_mean"] == pytest.approx(120 / 255, abs=0.01)
    assert found["core_quantile_0.9"] == pytest.approx(120 / 255, abs=0.01)


def test_a_white_skull_stands_in_the_outer_shells_alone():
    plain, skull = named(disc()), named(disc(ring=12))
    assert skull["shell_1_mean"] > plain["shell_1_mean"] + 0.3
    assert skull["shell_5_mean"] == pytest.approx(plain["shell_5_mean"], abs=0.01)
    assert skull["contrast_3"] > plain["contrast_3"] + 0.3
    assert skull["contrast_3_core"] == pytest.approx(plain["contrast_3_core"], abs=0.1)


def test_they_stay_when_the_image_is_turned(rng):
    head = disc(ring=10).copy()
    head[0, 60:150, 80:110] = rng.integers(0, 255, (90, 30))
    turned = [np.rot90(head, k, axes=(1, 2)) for k in range(4)]
    turned += [image[:, :, ::-1] for image in turned]
    found = input_statistics(np.stack(turned))
    np.testing.assert_allclose(found, np.broadcast_to(found[0], found.shape), atol=0.03)


@pytest.mark.parametrize("side", [64, 100, 224, 512])
@pytest.mark.parametrize("planes", [1, 3])
def test_every_size_and_number_of_planes(side, planes):
    found = input_statistics(np.repeat(disc(side, 0.35 * side)[None], planes, axis=1))
    assert found.shape == (1, len(NAMES))
    assert found[0, 0] == pytest.approx(np.pi * 0.35**2, rel=0.1)


@pytest.mark.parametrize("what", ["black", "white", "one pixel", "noise", "one line"])
def test_what_is_no_head_has_finite_numbers(what, rng):
    pixels = np.zeros((1, 1, 224, 224), np.uint8)
    if what == "white":
        pixels[:] = 255
    elif what == "one pixel":
        pixels[0, 0, 5, 5] = 255
    elif what == "noise":
        pixels[:] = rng.integers(0, 256, pixels.shape)
    elif what == "one line":
        pixels[0, 0, 100] = 255
    found = input_statistics(pixels)
    assert found.shape == (1, len(NAMES))
    assert np.isfinite(found).all()


def test_no_image_gives_no_row():
    assert input_statistics(np.zeros((0, 1, 64, 64), np.uint8)).shape == (0, len(NAMES))


def test_distances_and_contrasts_are_those_of_scipy(rng):
    head = disc(side=SIDE, radius=20)[0] > 0
    framed = np.pad(head, 1)
    np.testing.assert_array_equal(_distance(head), ndimage.distance_transform_edt(framed)[1:-1, 1:-1])
    gray = rng.random((SIDE, SIDE))
    smooth = [gray, *(ndimage.uniform_filter(gray, scale) for scale in SCALES)]
    bands = [finer - coarser for finer, coarser in pairwise(smooth)]
    core = _distance(head) > 8
    expected = [np.log(band[where].std() + 0.01) for band in bands for where in (head, core)]
    np.testing.assert_allclose(_contrasts(gray, head, core), expected, rtol=1e-9)


def slice_of(radius: float, size: int = 192, gray: int = 110, bone: float = 0.05) -> np.ndarray:
    """A brain of a radius in a skull and a thin scalp; lengths are shares of the side."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    r, skull = np.hypot(y, x), radius + bone
    return np.where(r < radius, gray, np.where(r < skull, 255, np.where(r < skull + 0.01, 110, 0))).astype(np.uint8)


def neck(size: int = 192) -> np.ndarray:
    """A block of muscle around a vertebra, within fat."""
    muscle, vertebra = slice_of(0.4, size, bone=0), slice_of(0.05, size, bone=0.05)
    return np.where(vertebra > 0, vertebra, muscle).astype(np.uint8)


@pytest.mark.parametrize("size", [128, 192, 224])
@pytest.mark.parametrize("radius", [0.1, 0.25, 0.4])
def test_the_brain_share_is_that_of_the_head_at_every_size(size: int, radius: float) -> None:
    found = brain_share(slice_of(radius, size)[None, None])
    assert found == pytest.approx((radius / (radius + 0.06)) ** 2, rel=0.1)


@pytest.mark.parametrize("gray", [30, 110, 190])
def test_dark_and_bright_brains_are_measured_alike(gray: int) -> None:
    assert brain_share(slice_of(0.3, gray=gray)[None, None]) == pytest.approx((0.3 / 0.36) ** 2, rel=0.1)


def test_pieces_of_face_neck_vertex_and_air_are_no_brain() -> None:
    face = np.zeros((128, 128), np.uint8)
    face[::16, :] = 255
    face[2::16, 8:60] = face[3::16, 70:120] = 110  # thin sheets of muscle
    vertex, air, bone = slice_of(0.15, bone=0.3), np.zeros((128, 128), np.uint8), np.full((128, 128), 255, np.uint8)
    shares = [brain_share(picture[None, None])[0] for picture in (face, neck(), vertex, air, bone)]
    assert max(shares) < MIN_BRAIN_SHARE
    assert shares[1] < 0.05, "of the neck only the spinal canal is within bone"
    assert shares[3:] == [0, 0]


def test_a_gap_in_the_skull_is_allowed() -> None:
    gap = slice_of(0.4)
    gap[:30] = 0
    assert brain_share(gap[None, None])[0] > 0.6


def test_the_largest_piece_counts_and_only_the_first_plane() -> None:
    two = np.zeros((1, 3, 128, 128), np.uint8)
    two[0, 0, 5:123, 5:123] = 255
    two[0, 0, 10:50, 10:50] = two[0, 0, 70:120, 70:120] = 110
    two[0, 1:] = 110
    assert brain_share(two)[0] == pytest.approx(50 * 50 / 118**2, rel=0.05)
    assert brain_share(two[:0]).shape == (0,)


def test_brain_is_recognized_on_isolated_heads_in_a_brain_window_only() -> None:
    assert min_brain_share("CT", Preprocess()) == MIN_BRAIN_SHARE
    assert min_brain_share("CT", Preprocess(window="three")) == MIN_BRAIN_SHARE
    for modality, settings in (("MR", {}), (None, {}), ("CT", {"window": "stroke"}), ("CT", {"isolate_head": False})):
        assert min_brain_share(modality, Preprocess(**settings)) is None
