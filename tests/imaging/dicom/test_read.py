"""DICOM: physical values, order and refusal, each against an array that was computed without the reader."""

from __future__ import annotations

import warnings
from typing import Any

import builders as b
import numpy as np
import pytest
from pydicom.sequence import Sequence

from reslink.errors import InputError
from reslink.imaging.image import Image
from reslink.imaging.reading import read_image

STORED = b.picture(48, 40).astype(np.uint16) * 16
CT = {"Modality": "CT", "SOPClassUID": b.CT_CLASS, "RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}
AXIAL = [1, 0, 0, 0, 1, 0]


def read(array: np.ndarray = STORED, **attributes: Any) -> Image:
    return read_image(b.written(b.dataset(array, **attributes)))


def test_ct_is_in_hounsfield_units() -> None:
    image = read(**CT, PixelSpacing=[0.5, 0.25], WindowCenter=40, WindowWidth=80)
    np.testing.assert_array_equal(image.pixels, STORED.astype(float) - 1024)
    assert (image.unit, image.modality, image.spacing, image.window) == ("HU", "CT", (0.5, 0.25), (40.0, 80.0))
    assert (image.white, image.padding, image.inverted) == (None, None, False)


def test_mr_is_an_arbitrary_intensity() -> None:
    image = read()
    assert (image.unit, image.modality) == ("MR", "MR")
    np.testing.assert_array_equal(image.pixels, STORED)


def test_a_secondary_capture_is_gray() -> None:
    image = read(b.picture(), SOPClassUID=b.SC_CLASS, Modality="CT")
    assert (image.unit, image.modality, image.white) == ("gray", "CT", 255.0)
    np.testing.assert_array_equal(image.pixels, b.picture())


def test_ct_without_a_rescale_is_not_called_hu() -> None:
    assert read(**{**CT, "RescaleSlope": "", "RescaleIntercept": "", "RescaleType": ""}).unit == "MR"


def test_signed_pixels_keep_their_sign() -> None:
    signed = STORED.astype(np.int16) - 2000
    image = read(signed, **{**CT, "RescaleSlope": 2, "RescaleIntercept": 10})
    np.testing.assert_array_equal(image.pixels, signed.astype(float) * 2 + 10)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("high", [11, 13])
def test_unused_bits_are_masked(signed: bool, high: int) -> None:
    """Old files keep overlays in the bits around the stored ones."""
    values = (STORED.astype(np.int32) % 4096) - (2048 if signed else 0)
    shift = high - 11
    dirt = np.arange(STORED.size).reshape(STORED.shape) % 16
    above, below = (dirt << (high + 1)) & 0xFFFF, dirt % (1 << shift)
    stored = (((values & 0xFFF) << shift) | above | below).astype(np.uint16)
    image = read(stored, BitsStored=12, HighBit=high, PixelRepresentation=int(signed))
    np.testing.assert_array_equal(image.pixels, values)


@pytest.mark.parametrize("limit", [None, -2010])
def test_pixel_padding_becomes_a_mask(limit: int | None) -> None:
    signed = STORED.astype(np.int16) - 200
    signed[:5, :7] = -2000
    signed[5, :7] = -2005
    more = {} if limit is None else {"PixelPaddingRangeLimit": limit}
    image = read(signed, **CT, PixelPaddingValue=-2000, **more)
    expected = signed == -2000 if limit is None else (signed <= -2000) & (signed >= -2010)
    assert image.padding is not None
    np.testing.assert_array_equal(image.padding, expected)


def test_padding_written_with_the_wrong_sign_is_understood() -> None:
    signed = STORED.astype(np.int16)
    signed[0, :9] = -2000
    ds = b.dataset(signed, **CT)
    ds.add_new(0x00280120, "US", 65536 - 2000)
    image = read_image(b.written(ds))
    assert image.padding is not None
    assert image.padding.sum() == 9


def test_monochrome1_is_marked_and_not_inverted() -> None:
    image = read(PhotometricInterpretation="MONOCHROME1")
    assert image.inverted
    np.testing.assert_array_equal(image.pixels, STORED)


def test_color_becomes_luminance() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (32, 24, 3), np.uint8)
    expected = rgb @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(read(rgb, SOPClassUID=b.SC_CLASS).pixels, expected, atol=0.51)
    planar = b.dataset(rgb, PlanarConfiguration=1)
    planar.PixelData = np.ascontiguousarray(rgb.transpose(2, 0, 1)).tobytes()
    np.testing.assert_allclose(read_image(b.written(planar)).pixels, expected, atol=0.51)


def test_a_palette_becomes_luminance() -> None:
    index = b.picture()
    lut = np.arange(256, dtype=np.uint16)[::-1].copy() * 256
    attributes: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for color in ("Red", "Green", "Blue"):
        attributes[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        attributes[f"{color}PaletteColorLookupTableData"] = lut.tobytes()
    image = read(index, **attributes)
    np.testing.assert_array_equal(image.pixels, lut[index])
    assert (image.unit, image.white) == ("gray", 65535.0)


def test_a_modality_lut_is_applied() -> None:
    lut = b.item(LUTDescriptor=[256, 0, 16], ModalityLUTType="US")
    lut.add_new(0x00283006, "US", [int(v) for v in np.arange(256) * 3 + 7])
    image = read(b.picture(), ModalityLUTSequence=Sequence([lut]))
    np.testing.assert_array_equal(image.pixels, b.picture() * 3.0 + 7)


def frame(z: float, **transformation: Any) -> Any:
    groups = b.item(PlanePositionSequence=b.sequence(ImagePositionPatient=[0, 0, z]))
    if transformation:
        groups.PixelValueTransformationSequence = b.sequence(**transformation, RescaleType="HU")
    return groups


def enhanced(places: list[float], transformations: list[dict[str, Any]]) -> dict[str, Any]:
    shared = b.item(
        PlaneOrientationSequence=b.sequence(ImageOrientationPatient=AXIAL),
        PixelMeasuresSequence=b.sequence(PixelSpacing=[0.5, 0.5], SliceThickness=9),
        FrameVOILUTSequence=b.sequence(WindowCenter=35, WindowWidth=90),
    )
    frames = [frame(z, **t) for z, t in zip(places, transformations, strict=True)]
    return {
        "Modality": "CT",
        "SOPClassUID": b.ENHANCED_CT,
        "SharedFunctionalGroupsSequence": Sequence([shared]),
        "PerFrameFunctionalGroupsSequence": Sequence(frames),
    }


def test_enhanced_ct_is_rescaled_by_frame_and_sorted() -> None:
    volume = np.stack([STORED, STORED[::-1], STORED // 2])
    scales = [(1, -1000), (2, -1100), (0.5, -900)]
    steps = [{"RescaleSlope": s, "RescaleIntercept": i} for s, i in scales]
    image = read(volume, **enhanced([4.0, -1.0, 1.5], steps))
    expected = [volume[i] * float(scales[i][0]) + scales[i][1] for i in (1, 2, 0)]
    np.testing.assert_array_equal(image.pixels, np.stack(expected))
    assert (image.unit, image.window, image.spacing) == ("HU", (35.0, 90.0), (2.5, 0.5, 0.5))


def test_frames_of_one_place_keep_their_order_with_a_warning() -> None:
    volume = np.stack([STORED, STORED[::-1], STORED // 2])
    with pytest.warns(UserWarning, match="several frames at one position"):
        image = read(volume, **enhanced([4.0, 1.0, 4.0], [{}] * 3))
    np.testing.assert_array_equal(image.pixels, volume)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"RescaleSlope": "nan"}, "not finite"),
        ({"RescaleSlope": "inf"}, "not finite"),
        ({"RescaleSlope": 0}, "implausible rescale slope 0"),
        ({"RescaleSlope": "1e30"}, "implausible rescale slope"),
        ({"RescaleIntercept": "-1e9"}, "implausible"),
        ({"Rows": 60000, "Columns": 60000}, "16384 pixels on a side"),
        ({"Rows": 96}, "the header requires 7680"),
        ({"Rows": 24}, "far more than the 1920"),
        ({"NumberOfFrames": 5000}, "1 to 4096 frames"),
        ({"NumberOfFrames": -3}, "1 to 4096 frames"),
        ({"BitsAllocated": 12}, "BitsAllocated is not plausible"),
        ({"BitsStored": 17}, "BitsStored is not plausible"),
        ({"SamplesPerPixel": 2}, "SamplesPerPixel is not plausible"),
        ({"PixelRepresentation": 7}, "PixelRepresentation is not plausible"),
        ({"Rows": None}, "Rows is missing"),
        ({"PixelData": None}, "DICOM file without pixels .MR Image Storage."),
    ],
)
def test_headers_that_lie_are_refused(attributes: dict[str, Any], message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = b.written(b.dataset(STORED, **{**CT, "SOPClassUID": b.MR_CLASS, **attributes}))
    with pytest.raises(InputError, match=message):
        read_image(data)
