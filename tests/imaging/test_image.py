"""The image type."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reslink.imaging.image import Image, slice_format


@pytest.fixture
def volume(rng: np.random.Generator) -> Image:
    pixels = rng.random((3, 4, 5)).astype(np.float32)
    return Image(pixels, unit="HU", modality="CT", spacing=(2.0, 0.5, 0.25), padding=pixels < 0.2, source="head")


def test_pixels_are_read_only(volume: Image) -> None:
    with pytest.raises(ValueError, match="read-only"):
        volume.pixels[0, 0, 0] = 1


def test_the_slices_of_a_volume_keep_its_properties(volume: Image) -> None:
    slices = volume.slices()
    np.testing.assert_array_equal(np.stack([image.pixels for image in slices]), volume.pixels)
    np.testing.assert_array_equal(np.stack([image.padding for image in slices]), volume.padding)
    assert {(image.unit, image.modality, image.spacing, image.source) for image in slices} == {
        ("HU", "CT", (0.5, 0.25), "head")
    }
    assert slices[0].slices() == [slices[0]]


def test_slices_of_one_series_agree(volume: Image) -> None:
    image = volume.slices()[0]
    expected = slice_format(image)
    assert expected.difference(slice_format(replace(image, window=(40, 80)))) is None
    assert expected.difference(slice_format(replace(image, spacing=None))) is None, "not stated"
    assert expected.difference(slice_format(replace(image, pixels=image.pixels[1:].copy()))) == "sizes"
    assert expected.difference(slice_format(replace(image, inverted=True))) == "kinds of values"
    assert expected.difference(slice_format(replace(image, spacing=(0.5, 0.3)))) == "pixel spacings"
