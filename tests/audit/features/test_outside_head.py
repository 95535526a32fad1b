"""Features of the pixels outside the head: included and excluded information."""

from __future__ import annotations

import numpy as np
import pytest

from reslink.audit.features import outside_head
from reslink.audit.features.outside_head import FEATURE_NAMES, outside_head_features, outside_head_mask
from reslink.imaging.head_mask import head_mask
from reslink.imaging.image import Image


def head(radius: float = 70, brain: float = 90, size: int = 256) -> np.ndarray:
    y, x = np.ogrid[:size, :size]
    distance = np.hypot(y - size / 2, (x - size / 2) * 1.2)
    pixels = np.zeros((size, size), np.float32)
    pixels[distance < radius] = 255
    pixels[distance < radius - 10] = brain
    return pixels


def image(pixels: np.ndarray) -> Image:
    return Image(pixels.astype(np.float32).copy(), "gray", white=255.0)


def test_each_number_has_a_name() -> None:
    features = outside_head_features(image(head()))
    assert features is not None
    assert features.shape == (len(FEATURE_NAMES),) == (78,)
    assert np.isfinite(features).all()


def test_the_head_and_its_rim_are_not_outside() -> None:
    picture = image(head())
    outside = outside_head_mask(picture)
    assert not (outside & head_mask(picture)).any()
    assert not outside[picture.pixels > 0].any()
    assert outside.mean() > 0.4


def test_the_brain_does_not_change_the_features(rng: np.random.Generator) -> None:
    plain, odd = head(), head()
    odd[100:150, 100:150] += rng.integers(0, 100, (50, 50))
    assert outside_head_features(image(plain)) == pytest.approx(outside_head_features(image(odd)))


@pytest.mark.parametrize("radius", [45, 60, 90])
def test_the_size_of_the_head_does_not_change_the_features(radius: float) -> None:
    assert outside_head_features(image(head(radius))) == pytest.approx(outside_head_features(image(head(70))))


def test_letters_in_a_corner_change_the_features() -> None:
    marked = head()
    marked[10:20, 10:60:4] = 255
    plain, lettered = outside_head_features(image(head())), outside_head_features(image(marked))
    assert plain is not None
    assert lettered is not None
    changed = {FEATURE_NAMES[i] for i in np.flatnonzero(plain != lettered)}
    assert "share of bright pixels, top left corner" in changed
    assert "share of bright pixels, bottom right corner" not in changed


def test_a_picture_without_a_head_has_no_features() -> None:
    assert outside_head_features(image(np.zeros((128, 128)))) is None


@pytest.mark.parametrize("shape", [(256, 256), (301, 199), (64, 90), (9, 40)])
def test_levels_are_counted_as_pixels_are_measured(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    """Also in zones that a head fills, and that have too few pixels to be measured."""
    levels = np.clip(rng.normal(40, 60, shape), 0, 255).astype(np.uint8)
    levels[: shape[0] // 3] = 3
    outside = rng.random(shape) < 0.7
    outside[shape[0] // 5 :, shape[1] // 2 :] = False
    values, fine = levels / np.float32(255), rng.random(shape).astype(np.float32)
    measured = outside_head._measure_zones(values, fine, outside)
    counted = outside_head._count_zones(levels, fine, outside)
    np.testing.assert_allclose(counted, measured, atol=2e-6)
    share = FEATURE_NAMES.index("share of bright pixels, left side")
    left = levels[:, : max(2, round(0.2 * shape[1]))][outside[:, : max(2, round(0.2 * shape[1]))]]
    assert counted[share] == pytest.approx((left > 0.35 * 255).mean() if left.size >= 25 else counted[4], abs=1e-6)
