"""The unit of values whose file states none: HU in any storage, MR, ambiguous values, and gaps around a head."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache

import builders as b
import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from reslink.bundles.scope import Scope
from reslink.datasets.phantom.cohort import render_slice
from reslink.datasets.phantom.tissue import Sequence
from reslink.errors import InputError, UsageError
from reslink.imaging.image import Image
from reslink.imaging.limits import ImagingWarning
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.imaging.spellings import parse_unit

AFFINE = np.diag([-1.0, -1.0, 5.0, 1.0])
Values = NDArray[np.float64]
Change = Callable[[Values], Values]


@lru_cache
def volume(sequence: Sequence) -> Values:
    """Three slices of a synthetic head, (x, y, z)."""
    planes = [render_slice(4, 1, level=level, sequence=sequence, size=128).pixels for level in (0.0, 10.0, 20.0)]
    return np.stack(planes, -1).astype(np.float64).transpose(1, 0, 2)


@pytest.fixture(scope="module")
def ct() -> Values:
    return volume("CT")


def read(values: NDArray[np.generic], unit: str | None = None) -> tuple[Image, list[str]]:
    """Reads values as NIfTI and as NPY; both must agree. Returns the image and the warnings."""
    results = []
    for data in (nibabel.Nifti1Image(values, AFFINE, dtype=values.dtype).to_bytes(), b.npy(values.transpose(2, 1, 0))):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            image = read_image(data, unit)
        assert all(warning.category is ImagingWarning for warning in caught)
        results.append((image, [str(warning.message) for warning in caught]))
    (image, texts), (other, other_texts) = results
    assert (image.unit, image.modality, image.notes, texts) == (other.unit, other.modality, other.notes, other_texts)
    np.testing.assert_array_equal(image.pixels, other.pixels)
    return image, texts


HU_STORED: dict[str, Change] = {
    "whole numbers": lambda v: np.rint(v).astype(np.int16),
    "fractions": lambda v: v + 0.25,
    "resampled": lambda v: ndimage.shift(v, (0.33, 0.2, 0), order=3, mode="nearest").astype(np.float32),
    "clipped to -1024 and 3071": lambda v: np.clip(v, -1024, 3071),
    "clipped to -1000 and 1000": lambda v: np.clip(v, -1000, 1000),
    "clipped to -500 and 1300": lambda v: np.clip(v, -500, 1300),
    "clipped to -200 and 200": lambda v: np.clip(v, -200, 200),
    "clipped to -100 and 300": lambda v: np.clip(v, -100, 300),
    "clipped to -20 and 180": lambda v: np.clip(v, -20, 180),
    "clipped to 0 and 80": lambda v: np.clip(v, 0, 80),
    "clipped to 0 and 100, resampled": lambda v: np.clip(ndimage.shift(v, (0.4, 0, 0), order=1, mode="nearest"), 0, 100),
    "corners of -3024": lambda v: np.where(_corners(v), -3024, v),
    "64-bit integers": lambda v: np.rint(v).astype(np.int64),
    "brain and skull without fat": lambda v: np.where((v > -20) & (v < 70) | (v > 300), v, -1000),
    "brain alone, background of -1000": lambda v: np.where(_center(v, 1.3), v, -1000),
}


def _corners(values: Values) -> NDArray[np.bool_]:
    x, y = np.ogrid[-1 : 1 : values.shape[0] * 1j, -1 : 1 : values.shape[1] * 1j]
    return np.broadcast_to((np.hypot(x, y) > 1.05)[..., None], values.shape)


@pytest.mark.parametrize("storage", HU_STORED)
def test_hu_are_recognized_in_any_storage_without_a_warning(ct: Values, storage: str) -> None:
    stored = HU_STORED[storage](ct)
    image, texts = read(stored)
    assert (image.unit, image.modality, texts, image.notes) == ("HU", "CT", [], ())
    np.testing.assert_allclose(image.pixels, stored.transpose(2, 1, 0), atol=1e-3)


CONVERTED: dict[str, tuple[Change, str]] = {
    "unsigned, + 1024": (lambda v: np.clip(np.rint(v) + 1024, 0, 4095).astype(np.uint16), "HU + 1024"),
    "floats, + 1024": (lambda v: v + 1024.0, "HU + 1024"),
    "+ 1000": (lambda v: np.clip(v, -1000, None) + 1000.0, "HU + 1000"),
    "+ 32768": (lambda v: np.rint(v) + 32768.0, "HU + 32768"),
    "/ 1000": (lambda v: v / 1000, "HU / 1000"),
    "/ 1000 + 1": (lambda v: np.clip(v, -1000, None) / 1000 + 1, "HU / 1000 + 1"),
    "scaled to 0 to 1": (lambda v: (np.clip(v, -1000, 1000) + 1000) / 2000, "scaled to 0 to 1"),
}


@pytest.mark.parametrize("storage", CONVERTED)
def test_hu_with_an_offset_or_a_scale_are_converted_and_this_is_said_once(ct: Values, storage: str) -> None:
    change, name = CONVERTED[storage]
    image, texts = read(change(ct))
    assert (image.unit, image.modality) == ("HU", "CT")
    assert len(texts) == 1
    assert name in texts[0]
    assert image.notes == (texts[0].removeprefix("the image "),)
    expected = read(ct)[0]
    for plane, wanted in zip(image.slices(), expected.slices(), strict=True):
        difference = Preprocess(size=128).pixels(plane).astype(int) - Preprocess(size=128).pixels(wanted)
        assert np.abs(difference).max() <= 4  # one HU is 3.2 gray levels of the brain window


MR_STORED: dict[str, Change] = {
    "as acquired": lambda v: v,
    "whole numbers": lambda v: np.rint(v).astype(np.int16),
    "z-scores": lambda v: (v - v.mean()) / v.std(),
    "z-scores of the head": lambda v: (v - v[v > 50].mean()) / v[v > 50].std(),
    "z-scores in hundredths": lambda v: np.rint(100 * (v - v.mean()) / v.std()),
    "mean removed": lambda v: v - v.mean(),
    "-1 to 1": lambda v: 2 * v / v.max() - 1,
    "0 to 1": lambda v: v / v.max(),
    "0 to 1000": lambda v: 1000 * v / v.max(),
    "0 to 4095, whole numbers": lambda v: np.rint(4095 * v / v.max()).astype(np.int32),
    "percentiles clipped, 0 to 100": lambda v: 100 * np.clip(v / np.percentile(v, 98), 0, 1),
    "resampled, with negative overshoot": lambda v: ndimage.shift(v, (0.4, 0.3, 0), order=3),
    "bias field corrected": lambda v: v * np.exp(np.linspace(-0.5, 0.5, len(v)))[:, None, None] - 3,
    "brain only": lambda v: np.where(_center(v), v, 0),
    "brain only, z-scores": lambda v: np.where(_center(v), (v - v[_center(v)].mean()) / v[_center(v)].std(), 0),
}


def _center(values: Values, shrink: float = 1.0) -> NDArray[np.bool_]:
    x, y = np.ogrid[-1 : 1 : values.shape[0] * 1j, -1 : 1 : values.shape[1] * 1j]
    return np.broadcast_to((np.hypot(x * 1.8, y * 1.5) < 1 / shrink)[..., None], values.shape)


@pytest.mark.parametrize("sequence", ["T1", "T2", "FLAIR"])
@pytest.mark.parametrize("storage", MR_STORED)
def test_mr_is_never_taken_for_hu(sequence: Sequence, storage: str) -> None:
    values = MR_STORED[storage](volume(sequence))
    image, texts = read(values)
    assert (image.unit, image.modality, texts) == ("MR", None, [])
    np.testing.assert_allclose(image.pixels, values.transpose(2, 1, 0), rtol=1e-6, atol=1e-6)


def test_values_that_may_be_hu_or_not_cause_a_warning_that_names_the_option(ct: Values) -> None:
    brain = np.where(_center(ct), np.clip(ct, 1, 79), 0)  # without skull and air nothing tells that these are HU
    image, texts = read(brain)
    assert image.unit == "MR"
    assert len(texts) == 1
    assert "may be CT in HU or not" in texts[0]
    assert "--unit hu, mr or gray" in texts[0]
    assert read(brain, "hu")[0].unit == "HU"
    assert read(brain, "hu")[1] == []
    assert read(brain, "mr")[1] == []


@pytest.mark.parametrize(("unit", "expected"), [("hu", ("HU", "CT")), ("MR", ("MR", "MR")), ("grey", ("gray", None))])
def test_a_stated_unit_decides(ct: Values, unit: str, expected: tuple[str, str | None]) -> None:
    image, texts = read(ct, unit)
    assert (image.unit, image.modality) == expected
    assert texts == []
    np.testing.assert_array_equal(image.pixels, ct.transpose(2, 1, 0).astype(np.float32))


DOUBTFUL: dict[str, Change] = {
    "percentiles clipped, -100 to 100": lambda v: 200 * _clipped(v) - 100,
    "percentiles clipped, -150 to 250": lambda v: 400 * _clipped(v) - 150,
    "a small brain on a background of -1000": lambda v: np.where(_center(v, 3.3), 300 * v / v.max() - 200, -1000),
    "a brain on a background of -1000": lambda v: np.where(_center(v) & (v > 0), 250 * v / v.max(), -1000),
    "a head on a background of -1024": lambda v: np.where(v > 0.15 * v.max(), 200 * v / v.max(), -1024),
}


def _clipped(values: Values) -> Values:
    low, high = np.percentile(values, (40, 95))
    return np.clip((values - low) / (high - low), 0, 1)


def slice_file(kind: str, plane: NDArray[np.floating]) -> bytes:
    """Returns one slice as a file that states no unit."""
    if kind == "NIfTI":
        return nibabel.Nifti1Image(plane.T[:, :, None], AFFINE, dtype=np.float32).to_bytes()
    return b.npy(plane) if kind == "NPY" else b.tiff(plane.astype(np.float32), 1)


def warned(data: bytes, unit: str | None = None) -> tuple[Image, int]:
    """Returns the image and the number of warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return read_image(data, unit), len(caught)


@pytest.mark.parametrize("kind", ["NIfTI", "NPY", "TIFF"])
@pytest.mark.parametrize("storage", DOUBTFUL)
def test_mr_that_may_be_hu_states_no_modality(kind: str, storage: str) -> None:
    data = slice_file(kind, DOUBTFUL[storage](volume("FLAIR"))[..., 1].T)
    image, count = warned(data)
    assert (image.unit, image.modality, count) == ("HU", None, 1)
    assert [Scope(modality=modality).refusal(image.stated) for modality in ("CT", "MR")] == [None, None]
    stated, count = warned(data, "mr")
    assert (stated.unit, stated.modality, count) == ("MR", "MR", 0)
    stated, count = warned(data, "hu")
    assert (stated.unit, stated.modality, count) == ("HU", "CT", 0)


@pytest.mark.parametrize("kind", ["NIfTI", "NPY", "TIFF"])
@pytest.mark.parametrize("offset", [0, 1024])
def test_hu_beyond_doubt_state_ct_unless_the_user_states_another_unit(ct: Values, kind: str, offset: int) -> None:
    plane = ct[..., 1].T + offset
    data = slice_file(kind, plane)
    image, _ = warned(data)
    assert (image.unit, image.modality) == ("HU", "CT")
    for unit, modality in (("mr", "MR"), ("gray", None)):
        stated, count = warned(data, unit)
        assert (stated.modality, count) == (modality, 0)
        np.testing.assert_allclose(stated.pixels, plane, atol=1e-3)


def test_units_that_do_not_exist_or_contradict_the_file_are_refused(ct: Values) -> None:
    with pytest.raises(UsageError, match=r"The unit 'HUU' is not valid\. The units are HU, MR and gray\. Did you mean 'HU'\?"):
        parse_unit("HUU")
    picture = b.saved(b.Pillow.fromarray(np.zeros((32, 32), np.uint8)), "PNG")
    with pytest.raises(InputError, match=r"has 8-bit values, but the unit HU was stated\. HU need 16 bits"):
        read_image(picture, "hu")
    assert read_image(picture, "mr").modality == "MR"
    header = b.written(b.dataset(np.zeros((32, 32), np.int16), Modality="CT", RescaleSlope=1, RescaleIntercept=-1024))
    with pytest.raises(InputError, match="The unit MR was stated for the image, but its header states CT"):
        read_image(header, "mr")
    assert read_image(header, "hu").unit == "HU"


@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf, 1e30, -1e30])
def test_a_background_without_a_measurement_is_background(ct: Values, fill: float) -> None:
    outside = _corners(ct)
    image, texts = read(np.where(outside, fill, ct))
    assert image.unit == "HU"
    assert len(texts) == 1
    assert "read as background" in texts[0]
    assert image.padding is not None
    np.testing.assert_array_equal(image.padding, outside.transpose(2, 1, 0))
    np.testing.assert_array_equal(image.pixels[~image.padding], ct.transpose(2, 1, 0).astype(np.float32)[~image.padding])
    assert np.isfinite(image.pixels).all()
    plain = read(ct)[0].slices()[1]
    np.testing.assert_array_equal(Preprocess(size=64).pixels(image.slices()[1]), Preprocess(size=64).pixels(plain))


def test_a_brain_surrounded_by_nan_is_read_and_a_pocket_that_other_slices_open_is_background() -> None:
    values = volume("T1")
    brain = np.where(_center(values), values, np.nan)
    brain[60:64, 60:64, 1:] = np.nan  # not open at a side of its slice, nor in the next one
    with pytest.raises(InputError, match="32 values within the head are not finite"):
        read_image(nibabel.Nifti1Image(brain, AFFINE).to_bytes())
    brain[60:, 60:64, 2] = np.nan
    image, _ = read(brain)
    assert image.padding is not None
    assert image.padding[1, 62, 62]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(64, 64, 1), (60, 70, 0), (64, 64, slice(None))])
def test_values_within_the_head_that_are_not_finite_are_an_error(ct: Values, value: float, where: tuple[int, ...]) -> None:
    broken = ct.copy()
    broken[where] = value
    for data in (nibabel.Nifti1Image(broken, AFFINE).to_bytes(), b.npy(broken.transpose(2, 1, 0))):
        with pytest.raises(InputError, match=r"values within the head are not finite \(NaN or infinity\)"):
            read_image(data)


def test_masks_keep_their_values() -> None:
    mask = np.zeros((64, 64, 3))
    mask[20:40, 0:30] = 1
    for scale in (1, 255, 1000, 1024, 1e5):
        image, texts = read(mask * scale)
        assert texts == []
        np.testing.assert_array_equal(image.pixels, (mask * scale).transpose(2, 1, 0))
