"""Corruptions: what each does to an image, in which unit, and that severity means what it says."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Picture
from scipy import ndimage

from reslink.datasets.corruptions import CORRUPTIONS, SEVERITIES, Original, corrupt, get_corruption
from reslink.errors import InputError, UsageError
from reslink.imaging.image import Image

KINDS = tuple(CORRUPTIONS)
SHAPES_CHANGE = ("crop",)


def head(unit: str = "gray", side: int = 128) -> Image:
    """A head with a skull, brain texture and a bright lesion."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    r = np.hypot(y, x * 1.2)
    texture = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((side, side)), side / 40)
    brain = 0.4 + 0.4 * texture + 0.3 * (np.hypot(y + 0.1, x - 0.08) < 0.06)
    unit_values = np.where(r < 0.36, brain, np.where(r < 0.42, 1.0, 0.0))
    if unit == "HU":
        hu = np.where(r < 0.36, 80 * brain, np.where(r < 0.42, 1000, -1000))
        return Image(hu.astype(np.float32), "HU", "CT", source="head")
    if unit == "MR":
        return Image((unit_values * 900).astype(np.float32), "MR", "MR", source="head")
    return Image(np.rint(np.clip(unit_values, 0, 1) * 255).astype(np.float32), "gray", white=255.0, source="head")


def change(kind: str, severity: int, unit: str = "gray") -> float:
    """Mean absolute difference of the pixels; what a crop takes away counts as its share."""
    image = head(unit)
    spoiled = corrupt(Original(image, "a"), kind, severity).pixels
    if spoiled.shape != image.pixels.shape:
        return 1 - spoiled.size / image.pixels.size
    return float(np.abs(spoiled - image.pixels).mean())


def test_the_list_of_corruptions() -> None:
    wanted = "noise blur motion bias_field ghosting contrast jpeg resolution rotation crop window_shift"
    assert set(KINDS) == set(wanted.split())
    assert SEVERITIES == (1, 2, 3, 4, 5)
    for corruption in CORRUPTIONS.values():
        steps = np.diff(corruption.levels)
        assert (steps > 0).all() or (steps < 0).all()


@pytest.mark.parametrize("unit", ["gray", "HU", "MR"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_keeps_unit_shape_and_range_and_leaves_the_original_alone(kind: str, unit: str) -> None:
    image = head(unit)
    before = image.pixels.copy()
    for severity in SEVERITIES:
        spoiled = corrupt(Original(image, "a"), kind, severity)
        assert (spoiled.unit, spoiled.modality, spoiled.white) == (image.unit, image.modality, image.white)
        assert (spoiled.pixels.shape == image.pixels.shape) == (kind not in SHAPES_CHANGE)
        assert np.isfinite(spoiled.pixels).all()
        if image.white:
            assert spoiled.pixels.min() >= 0
            assert spoiled.pixels.max() <= image.white
            assert (spoiled.pixels == np.rint(spoiled.pixels)).all()
    assert (image.pixels == before).all()


@pytest.mark.parametrize("unit", ["gray", "HU", "MR"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_severity_changes_more(kind: str, unit: str) -> None:
    changes = [change(kind, severity, unit) for severity in SEVERITIES[1:]]  # at severity 1 this image may stay as it is
    assert changes == sorted(changes)
    assert changes[0] < changes[-1]


def test_the_same_seed_and_name_give_the_same_image_and_others_another() -> None:
    image = head()
    one = corrupt(Original(image, "a", 1), "noise", 3).pixels
    assert (one == corrupt(Original(image, "a", 1), "noise", 3).pixels).all()
    assert (one != corrupt(Original(image, "b", 1), "noise", 3).pixels).any()
    assert (one != corrupt(Original(image, "a", 2), "noise", 3).pixels).any()


def test_a_kind_draws_the_same_numbers_at_each_severity() -> None:
    image = head("HU")
    noise = [corrupt(Original(image, "a"), "noise", s).pixels - image.pixels for s in (1, 5)]
    ratio = CORRUPTIONS["noise"].levels[4] / CORRUPTIONS["noise"].levels[0]
    np.testing.assert_allclose(noise[1], noise[0] * ratio, rtol=2e-2, atol=0.05)


def test_noise_has_the_strength_that_it_states_in_hounsfield_units() -> None:
    image = head("HU", 256)
    for severity, level in zip(SEVERITIES, CORRUPTIONS["noise"].levels, strict=True):
        error = corrupt(Original(image, "a"), "noise", severity).pixels - image.pixels
        assert error.std() == pytest.approx(80 * level, rel=0.02)
        assert abs(error.mean()) < 0.2


def test_noise_of_magnitude_images_is_rician() -> None:
    image = head("MR", 256)
    original = Original(image, "a")
    spoiled = corrupt(original, "noise", 4).pixels
    sigma = CORRUPTIONS["noise"].levels[3] * original.display_width
    air = image.pixels == 0
    assert spoiled[air].mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.02)  # the mean of a Rayleigh distribution


def test_window_shift_in_hounsfield_units_is_a_shift() -> None:
    image = head("HU")
    gap = corrupt(Original(image, "a"), "window_shift", 2).pixels - image.pixels
    assert abs(gap[0, 0]) == pytest.approx(8.0)
    assert np.ptp(gap) < 1e-3


def test_window_shift_of_a_picture_leaves_the_background_black() -> None:
    image = head()
    for severity in SEVERITIES:
        assert (corrupt(Original(image, "a"), "window_shift", severity).pixels[image.pixels == 0] == 0).all()


def test_jpeg_of_a_picture_equals_pillow() -> None:
    image = head()
    file = io.BytesIO()
    Picture.fromarray(image.pixels.astype(np.uint8)).save(file, "JPEG", quality=15)
    expected = np.asarray(Picture.open(file), np.float32)
    assert (corrupt(Original(image, "a"), "jpeg", 4).pixels == expected).all()


def test_jpeg_of_a_ct_keeps_bone_and_air() -> None:
    image = head("HU")
    spoiled = corrupt(Original(image, "a"), "jpeg", 5).pixels
    assert np.abs(spoiled - image.pixels).max() < 80
    assert spoiled.min() < -900


def test_resolution_leaves_a_smaller_image_alone() -> None:
    small = head(side=64)
    assert corrupt(Original(small, "a"), "resolution", 1) is small
    assert (corrupt(Original(small, "a"), "resolution", 5).pixels != small.pixels).any()


def test_a_crop_takes_the_share_of_the_head_that_it_states() -> None:
    image = head()
    original = Original(image, "a")
    for severity, level in zip(SEVERITIES, CORRUPTIONS["crop"].levels, strict=True):
        spoiled = corrupt(original, "crop", severity)
        axis = int(spoiled.pixels.shape[0] == image.pixels.shape[0])
        where = np.flatnonzero(original.head.any(axis=1 - axis))
        extent, beyond = np.ptp(where) + 1, (where[0], 127 - where[-1])
        lost = image.pixels.shape[axis] - spoiled.pixels.shape[axis]
        assert min(abs(lost - side - level * extent) for side in beyond) <= 1


def test_rotation_turns_padding_too() -> None:
    image = head("HU")
    padding = np.zeros(image.pixels.shape, bool)
    padding[:10] = True
    spoiled = corrupt(Original(replace(image, padding=padding), "a"), "rotation", 5)
    assert spoiled.padding is not None
    assert spoiled.padding.shape == padding.shape
    assert (spoiled.padding != padding).any()


def test_pixels_without_a_measurement_stay_out_of_the_statistics() -> None:
    image = head("HU")
    pixels = image.pixels.copy()
    pixels[:5] = np.nan
    for kind in KINDS:
        assert np.isfinite(corrupt(Original(replace(image, pixels=pixels), "a"), kind, 3).pixels).all()


def test_an_unknown_kind_names_the_nearest_and_a_wrong_severity_is_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean 'ghosting'"):
        get_corruption("gosting")
    with pytest.raises(UsageError, match="severity is 6"):
        corrupt(Original(head(), "a"), "noise", 6)


def test_a_volume_and_an_image_without_pixels_are_refused() -> None:
    volume = Image(np.zeros((3, 16, 16), np.float32), "HU")
    with pytest.raises(InputError, match="one slice"):
        Original(volume, "a")
    empty = Image(np.full((16, 16), np.nan, np.float32), "HU")
    with pytest.raises(InputError, match="no measured pixel"):
        Original(empty, "a")


def test_a_flat_image_gives_no_nan() -> None:
    flat = Image(np.zeros((64, 64), np.float32), "gray", white=255.0)
    for kind in KINDS:
        assert np.isfinite(corrupt(Original(flat, "a"), kind, 5).pixels).all()
