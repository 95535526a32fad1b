"""What the probe of the outside sees, and what it must not see."""

from __future__ import annotations

import numpy as np
import pytest

from reslink.audit.features.outside_head import FEATURES, outside, outside_features
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
    return Image(pixels.astype(np.float32).copy(), "grey", white=255.0)


def test_each_number_has_a_name() -> None:
    found = outside_features(image(head()))
    assert found is not None
    assert found.shape == (len(FEATURES),) == (78,)
    assert np.isfinite(found).all()


def test_the_head_and_its_rim_lie_not_outside() -> None:
    picture = image(head())
    free = outside(picture)
    assert not (free & head_mask(picture)).any()
    assert not free[picture.pixels > 0].any()
    assert free.mean() > 0.4


def test_the_brain_leaves_no_mark(rng: np.random.Generator) -> None:
    plain, odd = head(), head()
    odd[100:150, 100:150] += rng.integers(0, 100, (50, 50))
    assert outside_features(image(plain)) == pytest.approx(outside_features(image(odd)))


@pytest.mark.parametrize("radius", [45, 60, 90])
def test_the_size_of_the_head_leaves_no_mark(radius: float) -> None:
    assert outside_features(image(head(radius))) == pytest.approx(outside_features(image(head(70))))


def test_letters_in_a_corner_do() -> None:
    marked = head()
    marked[10:20, 10:60:4] = 255
    plain, lettered = outside_features(image(head())), outside_features(image(marked))
    assert plain is not None
    assert lettered is not None
    changed = {FEATURES[i] for i in np.flatnonzero(plain != lettered)}
    assert "share of bright pixels, top left corner" in changed
    assert "share of bright pixels, bottom right corner" not in changed


def test_a_picture_without_a_head_is_not_judged() -> None:
    assert outside_features(image(np.zeros((128, 128)))) is None
