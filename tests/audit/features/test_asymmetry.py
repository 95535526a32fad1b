"""Asymmetry features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from reslink.audit.features import asymmetry
from reslink.audit.features.asymmetry import HEAD_SIDE, NUM_FEATURES, QUANTILES, asymmetry_features, brain_mask, isolated_head
from reslink.imaging.image import Image


def picture(spot: tuple[int, int] | None = None, both: bool = False) -> np.ndarray:
    """A head with a skull, two dark ventricles and, on request, a bright spot on one side or on both."""
    y, x = np.ogrid[:HEAD_SIDE, :HEAD_SIDE]
    distance = np.hypot((y - 63.5) / 60, (x - 63.5) / 50)
    pixels = np.where(distance < 1, 255, 0).astype(np.uint8)
    grain = np.random.default_rng(0).integers(84, 97, (HEAD_SIDE, HEAD_SIDE // 2), np.uint8)
    pixels[distance < 0.82] = np.hstack([grain, grain[:, ::-1]])[distance < 0.82]
    for column in (53, 74):
        pixels[np.hypot(y - 62, (x - column) * 2) < 16] = 40
    row, column = spot or (-99, -99)
    for side in (column, HEAD_SIDE - 1 - column) if both else (column,):
        pixels[np.hypot(y - row, x - side) < 7] = 200
    return pixels


def unmatched(pixels: np.ndarray) -> float:
    """Returns the largest bright contrast that the other half lacks, at the second scale."""
    return float(asymmetry_features(pixels)[len(QUANTILES) + 22 + 6 + 8 + 3])


def test_the_brain_is_inside_the_skull() -> None:
    pixels = picture()
    mask = brain_mask(pixels)
    assert mask.sum() > 4000
    assert not mask[pixels == 255].any()


def test_without_a_skull_it_is_the_head_without_its_rim() -> None:
    pixels = picture()
    pixels[pixels == 255] = 120
    assert not brain_mask(pixels)[[5, 60], [63, 15]].any()
    assert brain_mask(pixels).sum() > 6000


def test_a_lesion_on_one_side_stands_out() -> None:
    assert unmatched(picture((40, 40))) > 4 * unmatched(picture())


def test_the_same_on_both_sides_does_not() -> None:
    assert unmatched(picture((40, 40), both=True)) < 0.5 * unmatched(picture((40, 40)))


@pytest.mark.parametrize("turn", [lambda p: p[:, ::-1], lambda p: p[::-1], np.rot90, lambda p: p.T])
def test_mirrored_and_rotated_heads_have_similar_features(turn: Callable[[np.ndarray], np.ndarray]) -> None:
    lesion = picture((40, 40))
    turned = np.ascontiguousarray(turn(lesion))
    assert unmatched(turned) == pytest.approx(unmatched(lesion), rel=0.3)
    assert unmatched(turned) > 3 * unmatched(np.ascontiguousarray(turn(picture())))


@pytest.mark.parametrize("pixels", [np.zeros((HEAD_SIDE, HEAD_SIDE), np.uint8), np.full((HEAD_SIDE, HEAD_SIDE), 255, np.uint8)])
def test_a_blank_picture_gives_finite_numbers(pixels: np.ndarray) -> None:
    features = asymmetry_features(pixels)
    assert features.shape == (NUM_FEATURES,) == (79,)
    assert np.isfinite(features).all()


def test_noise_gives_finite_numbers(rng: np.random.Generator) -> None:
    assert np.isfinite(asymmetry_features(rng.integers(0, 255, (HEAD_SIDE, HEAD_SIDE), np.uint8))).all()


def test_only_the_head_is_visible() -> None:
    pixels = np.zeros((256, 256), np.float32)
    pixels[60:200, 70:190] = 100
    pixels[5:10, 5:10] = 255
    shown = isolated_head(Image(pixels, "gray", white=255.0))
    assert shown.shape == (HEAD_SIDE, HEAD_SIDE)
    assert (shown > 0).mean() > 0.5


@pytest.mark.parametrize("side", [32, 33])
def test_rotations_are_those_of_scipy(rng: np.random.Generator, side: int) -> None:
    planes = rng.normal(size=(2, side, side)).astype(np.float32)
    rotated = asymmetry._rotate(planes, asymmetry.ALL_TILTS)
    for (turns, angle), pair in zip(asymmetry.ALL_TILTS, rotated, strict=True):
        for plane, found in zip(planes, pair, strict=True):
            expected = ndimage.rotate(np.rot90(plane, turns).copy(), angle, reshape=False, order=1)
            np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("shift", [0, 3, 29])
def test_the_shift_of_the_mirror_image_is_found(rng: np.random.Generator, shift: int) -> None:
    half = rng.normal(size=(2, 32, 16)).astype(np.float32)
    symmetric = np.concatenate([half, half[:, :, ::-1]], axis=2)
    similarity = asymmetry._symmetry(np.roll(symmetric, shift, axis=2)[None])[0]
    assert similarity.argmax() == 2 * shift % 32
    assert similarity.max() == pytest.approx(2, abs=1e-4)
