"""The one way from an image to the network's input."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageDraw
from pydantic import ValidationError
from scipy import ndimage

from reslink.errors import InputError
from reslink.imaging.image import Image
from reslink.imaging.preprocess import (
    WINDOWS,
    Preprocess,
    _as_uint8_if_exact,
    _percentile_range,
    _scaled,
    square_pixels,
    uint8_quantiles,
)

SMALL = Preprocess(size=64)


def head(side: int = 200, *, white: float = 255, seed: int = 0) -> Image:
    """An MR-like head: scalp, dark skull, structured brain; black outside."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    radius = np.hypot(y / 0.4, x / 0.3)
    values = np.select([radius > 1, radius > 0.93, radius > 0.86], [0, 0.8, 0.1], 0.45 + 0.1 * np.sin(20 * x) * np.cos(17 * y))
    values = np.where(radius <= 1, values + rng.normal(0, 0.02, values.shape), 0)
    return Image(np.rint(np.clip(values, 0, 1) * white).astype(np.float32), "gray", white=white)


def hounsfield(*values: float) -> Image:
    return Image(np.tile(np.repeat(np.array(values, np.float32), 40), (40 * len(values), 1)), "HU")


images = st.builds(
    Image,
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70),
        elements=st.floats(-(2.0**126), 2.0**126, width=32)
        | st.floats(-1100, 3000, width=32)
        | st.just(np.nan)
        | st.just(np.inf),
    ),
    st.sampled_from(["HU", "MR", "gray"]),
    inverted=st.booleans(),
)


def test_values_too_small_for_a_whole_factor_give_no_warning():
    pixels = np.zeros((20, 20), np.float32)
    pixels[5:15, 5:15] = 8.5e-41  # 255 / 8.5e-41 is beyond float32, and infinity times 0 is not a number
    assert Preprocess(size=64, isolate_head=False).pixels(Image(pixels, "MR")).shape == (1, 64, 64)


@settings(max_examples=40, deadline=None)
@given(images, st.sampled_from(["brain", "bone", "three"]), st.booleans(), st.sampled_from([1, 3]))
def test_any_image_gives_the_stated_shape_type_and_range(image: Image, window: str, isolate: bool, channels: int) -> None:
    before = image.pixels.copy()
    preprocess = Preprocess.model_validate({"size": 64, "window": window, "isolate_head": isolate, "channels": channels})
    pixels = preprocess.pixels(image)
    assert pixels.shape == (preprocess.planes, 64, 64)
    assert pixels.dtype == np.uint8
    values = preprocess(image)
    assert values.shape == (channels, 64, 64)
    assert values.dtype == np.float32
    assert values.min() >= -1
    assert values.max() <= 3
    assert preprocess.resized_head_mask(image).shape == (64, 64)
    np.testing.assert_array_equal(image.pixels, before)


@pytest.mark.parametrize(
    ("window", "dark", "middle", "bright"),
    [("brain", 0, 40, 80), ("subdural", -32.5, 75, 182.5), ("stroke", 20, 40, 60), ("bone", -800, 600, 2000)],
)
def test_the_edges_of_a_window_become_black_and_white(window: str, dark: float, middle: float, bright: float) -> None:
    preprocess = Preprocess.model_validate({"size": 120, "window": window, "isolate_head": False})
    row = preprocess.pixels(hounsfield(dark, middle, bright))[0, 60]
    assert [int(row[i]) for i in (15, 60, 105)] in ([0, 127, 255], [0, 128, 255])


def test_three_windows_are_three_planes() -> None:
    image = hounsfield(-500, 40, 70, 1000)
    pixels = Preprocess(size=64, window="three", isolate_head=False).pixels(image)
    alone = [Preprocess(size=64, window=name, isolate_head=False).pixels(image)[0] for name in ("brain", "subdural", "bone")]
    np.testing.assert_array_equal(pixels, alone)


def test_three_windows_of_a_picture_are_one_thrice() -> None:
    pixels = Preprocess(size=64, window="three").pixels(head())
    np.testing.assert_array_equal(pixels[0], pixels[2])


def test_window_names_match_the_settings() -> None:
    names = Preprocess.model_json_schema()["properties"]["window"]["enum"]
    assert {*WINDOWS, "three"} == set(names)


def test_text_outside_the_head_changes_no_pixel() -> None:
    image = head()
    picture = Picture.fromarray(image.pixels.astype(np.uint8))
    ImageDraw.Draw(picture).text((4, 4), "DOE^JOHN 1970\nR", fill=255)
    ImageDraw.Draw(picture).text((150, 185), "120 kV", fill=200)
    for corner in ((36, 20), (150, 172)):  # in the crop to the head, but not on the head
        ImageDraw.Draw(picture).text(corner, "L", fill=255)
    written = Image(np.asarray(picture, np.float32), "gray", white=255)
    assert (written.pixels != image.pixels).sum() > 100
    np.testing.assert_array_equal(Preprocess().pixels(written), Preprocess().pixels(image))
    assert (Preprocess(isolate_head=False).pixels(written) != Preprocess(isolate_head=False).pixels(image)).any()


def test_what_is_not_head_is_the_lowest_value() -> None:
    image = head()
    noisy = replace(image, pixels=np.where(image.pixels == 0, np.float32(12), image.pixels))
    pixels, inside = Preprocess().pixels(noisy)[0], Preprocess().resized_head_mask(noisy)
    far = ~ndimage.binary_dilation(inside, iterations=3)
    assert far.sum() > 5000
    assert (pixels[far] == 0).all()


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 50), st.floats(-500, 500))
def test_brightness_and_contrast_change_nothing(gain: float, offset: float) -> None:
    image = head()
    other = replace(image, pixels=(image.pixels.astype(np.float64) * gain + offset).astype(np.float32))
    plain, changed = (Preprocess().pixels(i).astype(int) for i in (image, other))
    assert np.abs(plain - changed).max() <= 1


def test_eight_and_sixteen_bits_agree() -> None:
    eight = head()
    sixteen = Image(eight.pixels * np.float32(257), "gray", white=65535)
    plain, deep = (Preprocess().pixels(i).astype(int) for i in (eight, sixteen))
    assert np.abs(plain - deep).max() <= 1


def test_monochrome1_is_turned_over_after_the_window() -> None:
    image = hounsfield(0, 40, 80)
    turned = Preprocess(isolate_head=False).pixels(replace(image, inverted=True))
    np.testing.assert_array_equal(turned, 255 - Preprocess(isolate_head=False).pixels(image))
    positive = head()
    negative = replace(positive, pixels=(255 - positive.pixels).astype(np.float32), inverted=True)
    plain, back = (Preprocess().pixels(i).astype(int) for i in (positive, negative))
    assert np.abs(plain - back).max() <= 1


@pytest.mark.parametrize("inverted", [False, True])
def test_padding_is_black_and_counts_for_no_percentile(inverted: bool) -> None:
    image = head()
    padding = np.zeros(image.pixels.shape, np.bool_)
    padding[:, :30] = True
    whole = Preprocess(isolate_head=False, size=200)
    pixels = whole.pixels(replace(image, padding=padding, inverted=inverted))[0]
    assert (pixels[:, :28] == 0).all()
    loud = replace(image, pixels=np.where(padding, np.float32(1e6), image.pixels), padding=padding, inverted=inverted)
    np.testing.assert_array_equal(whole.pixels(loud)[0], pixels)


@pytest.mark.parametrize("isolate", [False, True])
def test_a_blank_image_is_black(isolate: bool) -> None:
    blank = Image(np.full((50, 80), 117, np.float32), "gray")
    preprocess = Preprocess(isolate_head=isolate)
    assert not preprocess.pixels(blank).any()
    assert preprocess.placement(blank).head_found is (False if isolate else None)
    assert not preprocess.resized_head_mask(blank).any()


def test_almost_blank_images_are_scaled_by_their_extremes() -> None:
    pixels = np.zeros((100, 100), np.float32)
    pixels[50, 50] = 9
    result = Preprocess(isolate_head=False, size=100).pixels(Image(pixels, "gray"))
    assert result.max() == 255


def dot(image: Image, row: int, column: int) -> NDArray[np.bool_]:
    mask = np.zeros(image.pixels.shape, np.bool_)
    mask[row - 2 : row + 3, column - 2 : column + 3] = True
    return mask


def center(values: NDArray[np.generic]) -> NDArray[np.float64]:
    weights = values.astype(np.float64)
    return np.array([(axis * weights).sum() / weights.sum() for axis in np.indices(values.shape)])


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("crop", [np.s_[:, :], np.s_[10:150, :], np.s_[:, 70:180]])
def test_a_dot_goes_to_the_network_and_back(isolate: bool, crop: tuple[slice, slice]) -> None:
    image = Image(head().pixels[crop].copy(), "gray")
    place = Preprocess(isolate_head=isolate).placement(image)
    for row, column in ((60, 80), (100, 70), (90, 40)):
        there = place.to_network(dot(image, row, column))
        assert there.any()
        back = place.to_image(there.astype(np.float32))
        assert back.shape == image.pixels.shape
        assert np.abs(center(back) - (row, column)).max() < 1


def test_a_dot_lies_where_the_pixels_say() -> None:
    image = head()
    mask = dot(image, 90, 110)
    marked = replace(image, pixels=np.where(mask, np.float32(255), image.pixels * np.float32(0.5)))
    preprocess = Preprocess(percentiles=(0.0, 100.0))
    bright = preprocess.pixels(marked)[0] > 250
    assert np.abs(center(bright) - center(preprocess.placement(marked).to_network(mask))).max() < 1


def test_a_coarse_map_comes_back_in_place() -> None:
    image = head()
    place = Preprocess().placement(image)
    heat = np.zeros((7, 7), np.float32)
    heat[3, 3] = 1
    assert np.abs(center(place.to_image(heat)) - (99.5, 99.5)).max() < 2


def test_masks_and_maps_of_a_wrong_shape_are_refused() -> None:
    place = SMALL.placement(head())
    with pytest.raises(InputError, match=r"mask of the shape \(3, 4\).*the same shape as its image"):
        place.to_network(np.zeros((3, 4), np.bool_))
    with pytest.raises(InputError, match=r"map of the shape \(3, 4\).*square"):
        place.to_image(np.zeros((3, 4), np.float32))


@pytest.mark.parametrize("shape", [(2, 30, 30), (0, 5), (5,)])
def test_only_slices_are_taken(shape: tuple[int, ...]) -> None:
    image = Image(np.zeros(shape, np.float32), "gray", source="a.nii")
    for use in (SMALL.pixels, SMALL.placement, SMALL.resized_head_mask):
        with pytest.raises(InputError, match=r"a\.nii has the shape .*Image\.slices"):
            use(image)


def test_normalize_is_the_stated_formula() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
    values = Preprocess(mean=0.3, std=0.2).normalize(pixels)
    assert values.shape == (5, 3, 8, 8)
    np.testing.assert_allclose(values[:, 1], (pixels[:, 0] / 255 - 0.3) / 0.2, rtol=1e-5, atol=1e-6)
    assert Preprocess(channels=1).normalize(pixels).shape == (5, 1, 8, 8)


def test_settings_survive_json_and_keep_their_digest() -> None:
    one = Preprocess(size=96, window="three", percentiles=(1.0, 98.0), mean=0.1)
    assert Preprocess.model_validate_json(one.model_dump_json()) == one
    assert Preprocess.model_validate(json.loads(one.model_dump_json())) == one
    code = f"from reslink.imaging.preprocess import Preprocess as P; print(P(**{one.model_dump()!r}).digest())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == one.digest() != Preprocess().digest()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SMALL.size = 128  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 63}, "greater than or equal to 64"),
        ({"size": "224"}, "valid integer"),
        ({"channels": 2}, "1 or 3"),
        ({"window": "liver"}, "'brain'"),
        ({"color": True}, "Extra inputs"),
        ({"std": 0.0}, "greater than 0"),
        ({"mean": float("nan")}, "finite"),
        ({"percentiles": (50.0, 50.0)}, "0 <= low < high <= 100"),
        ({"percentiles": (-1.0, 50.0)}, "0 <= low < high <= 100"),
        ({"isolate_head": 1}, "valid boolean"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Preprocess.model_validate(wrong)


def test_counted_percentiles_are_those_of_numpy_to_the_bit(rng):
    for n in (1, 2, 3, 7, 200, 3001):
        for top in (1, 2, 17, 256):
            values = rng.integers(0, top, n).astype(np.uint8)
            for percentiles in ((0.5, 99.5), (0.0, 100.0), (49.9, 50.1), (33.3, 66.7)):
                expected = tuple(np.percentile(values.astype(np.float64), percentiles))
                assert _percentile_range(values, percentiles) == _percentile_range(values.astype(np.float32), percentiles)
                assert tuple(uint8_quantiles(values, [percent / 100 for percent in percentiles])) == expected


@pytest.mark.parametrize("inverted", [False, True])
def test_bytes_are_shown_as_their_floats_are_to_the_bit(inverted, rng):
    values = rng.integers(0, 256, (90, 70)).astype(np.uint8)
    keep = rng.random(values.shape) < 0.8
    for low, high in ((0.0, 255.0), (3.2, 190.7), (100.0, 101.0), (7.0, 7.0), (-5.0, 300.0)):
        found = _scaled(values, keep, low, high, inverted=inverted)
        np.testing.assert_array_equal(found, _scaled(values.astype(np.float32), keep, low, high, inverted=inverted))
        assert not found[~keep].any()


def test_only_whole_numbers_become_bytes(rng):
    whole = rng.integers(0, 256, (9, 7)).astype(np.float32)
    assert _as_uint8_if_exact(whole, 255.0).dtype == np.uint8
    assert _as_uint8_if_exact(whole, 65535.0) is whole
    parts = whole + np.float32(0.25)  # no whole numbers, whatever the image says
    assert _as_uint8_if_exact(parts, 255.0) is parts
    parts[0, 0] = np.nan
    assert _as_uint8_if_exact(parts, 255.0) is parts


PARTS = (0.0, 0.005, 0.02, 1 / 3, 0.499, 0.5, 0.501, 0.9, 0.995, 1.0)


@pytest.mark.parametrize("top", [1, 2, 17, 256])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 200, 3001])
def test_counted_quantiles_are_those_of_numpy(n, top, rng):
    values = rng.integers(0, top, n).astype(np.uint8)
    np.testing.assert_array_equal(uint8_quantiles(values, PARTS), np.quantile(values.astype(np.float64), PARTS))


def test_counted_quantiles_keep_the_order_of_the_fractions():
    values = np.arange(101, dtype=np.uint8)
    assert uint8_quantiles(values, (0.9, 0.1, 0.5)).tolist() == [90, 10, 50]


def flattened(image: Image, axis: int) -> Image:
    """The same head with half as many pixels along an axis: means of pairs, and the spacing says so."""
    pixels = np.moveaxis(image.pixels, axis, 0)
    halved = np.moveaxis((pixels[::2] + pixels[1::2]) / 2, 0, axis)
    return replace(image, pixels=np.ascontiguousarray(halved), spacing=(2.0, 1.0) if axis == 0 else (1.0, 2.0))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("unit", ["gray", "HU"])
def test_pixels_that_are_not_square_keep_the_shape_of_the_head(axis, unit):
    image = head() if unit == "gray" else Image(head().pixels * 0.35 - np.where(head().pixels == 0, 1000, 0), "HU")
    square, other = SMALL.pixels(replace(image, spacing=(1.0, 1.0))), SMALL.pixels(flattened(image, axis))
    assert np.abs(square.astype(int) - other.astype(int)).mean() < 4
    squeezed = SMALL.pixels(replace(flattened(image, axis), spacing=None))
    assert np.abs(square.astype(int) - squeezed.astype(int)).mean() > 12, "without its spacing the head is squeezed"


def test_square_pixels_are_not_resampled():
    for spacing in (None, (0.5, 0.5), (0.4883, 0.4882)):
        image = replace(head(), spacing=spacing)
        assert square_pixels(image) is image
        np.testing.assert_array_equal(SMALL.pixels(image), SMALL.pixels(head()))
        assert SMALL.placement(image).square_shape is None


def test_maps_and_masks_keep_their_place_on_pixels_that_are_not_square():
    lesion = np.zeros((200, 200), np.float32)
    lesion[60:76, 110:130] = 1
    image = flattened(head(), 0)
    placement = SMALL.placement(image)
    mask = placement.to_network(lesion[::2])
    assert ndimage.center_of_mass(mask) == pytest.approx(
        ndimage.center_of_mass(SMALL.placement(head()).to_network(lesion)), abs=0.6
    )
    back = placement.to_image(mask.astype(np.float32))
    assert back.shape == (100, 200)
    assert ndimage.center_of_mass(back) == pytest.approx((33.75, 119.5), abs=1.5)


def test_padding_stays_padding_on_pixels_that_are_not_square():
    image = flattened(head(), 1)
    padding = np.zeros(image.pixels.shape, np.bool_)
    padding[:, :20] = True
    square = square_pixels(replace(image, padding=padding))
    assert square.pixels.shape == square.padding.shape == (200, 200)
    assert square.padding[:, :40].all()
    assert not square.padding[:, 42:].any()


def test_an_implausible_shape_of_pixels_is_refused_and_a_long_one_is_bounded():
    with pytest.raises(InputError, match=r"pixels of 1 x 40 mm.*a factor of at most 32.*Correct the pixel spacing"):
        SMALL.pixels(replace(head(), spacing=(1.0, 40.0)))
    assert max(square_pixels(replace(head(), spacing=(1.0, 30.0))).pixels.shape) == 4096
