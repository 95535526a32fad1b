"""DICOM: physical values, order and refusal, each against an array that was computed without the reader."""

from __future__ import annotations

import warnings
from typing import Any

import builders as b
import numpy as np
import pytest
from pydicom import uid
from pydicom.sequence import Sequence

from reslink.datasets.phantom.cohort import render_slice
from reslink.errors import InputError
from reslink.imaging.image import Image
from reslink.imaging.orientation import NOT_STATED, Orientation
from reslink.imaging.reading import read_image
from reslink.imaging.units import NO_HU

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


HEAD = np.rint(render_slice(4, 1, level=10.0, sequence="CT", size=128).pixels).astype(np.int32).clip(-1024, 3071)


LUT = {"LUTDescriptor": [4096, 0, 16], "ModalityLUTType": "US", "LUTData": np.arange(4096, dtype="<u2").tobytes()}


@pytest.mark.parametrize(("offset", "lut"), [(0, None), (1024, None), (1024, LUT)])
def test_the_histogram_decides_about_ct_without_a_rescale(offset: int, lut: dict[str, Any] | None) -> None:
    """As about NIfTI and NPY."""
    tags = {"Modality": "CT", "SOPClassUID": b.CT_CLASS, "PixelRepresentation": int(not offset)}
    tags |= {} if lut is None else {"ModalityLUTSequence": b.sequence(**lut)}
    image = read((HEAD + offset).astype(np.int16), **tags)
    np.testing.assert_array_equal(image.pixels, HEAD)
    assert (image.unit, image.modality, image.excluded) == ("HU", "CT", None)
    assert image.notes[-1] == "its header states no rescale to HU; its values are read as HU by their histogram"


@pytest.mark.parametrize(
    ("array", "tags", "reason"),
    [
        (STORED, {"RescaleSlope": "", "RescaleIntercept": "", "RescaleType": ""}, NO_HU),
        (HEAD + 1024, {"RescaleIntercept": 0}, "its header states HU, but its values are HU + 1024 by their histogram"),
        (HEAD + 1000, {"RescaleIntercept": ""}, "its header states HU, but its values are HU + 1000 by their histogram"),
        (HEAD.clip(0, 80) * 800, {"RescaleIntercept": 0}, "its header states HU, but its values exceed 32767"),
        *[
            (HEAD + 1024, {"RescaleType": kind}, f"its header states that its values are {kind}, not HU")
            for kind in ("OD", "Z_EFF", "MGML", "EDW", "PCT")
        ],
    ],
)
def test_ct_without_hounsfield_units_is_not_classified(array: np.ndarray, tags: dict[str, Any], reason: str) -> None:
    image = read(array.clip(0).astype(np.uint16), **{**CT, "BodyPartExamined": "HEAD", **tags})
    assert (image.unit, image.modality) == ("MR", "CT")
    assert image.excluded == reason


@pytest.mark.parametrize(("top", "intercept"), [(1023, 0), (4095, 0), (4095, -1024)])
def test_a_picture_with_its_window_burned_in_is_not_classified_although_it_states_hu(top: int, intercept: int) -> None:
    rng = np.random.default_rng(3)
    head = HEAD + rng.normal(0, 4, HEAD.shape)
    for low, high in ((0, 80), (-50, 130)):
        array = np.rint((head.clip(low, high) - low) / (high - low) * top).astype(np.uint16)
        image = read(array, **{**CT, "BodyPartExamined": "HEAD", "RescaleIntercept": intercept})
        assert (
            image.excluded
            == "its header states HU, but its values are those of a picture with its window burned in, by their histogram"
        )


@pytest.mark.parametrize("top", [200, 1000, 3071])
def test_hounsfield_units_may_be_clipped(top: int) -> None:
    image = read((HEAD.clip(None, top) + 1024).astype(np.uint16), **{**CT, "BodyPartExamined": "HEAD"})
    assert (image.unit, image.excluded) == ("HU", None)


def test_a_unit_that_the_user_states_lifts_the_exclusion_of_ct_without_a_rescale() -> None:
    noise = b.written(b.dataset(STORED, Modality="CT", SOPClassUID=b.CT_CLASS, BodyPartExamined="HEAD"))
    assert (read_image(noise).excluded, read_image(noise, "hu").excluded) == (NO_HU, None)


def test_ct_of_eight_bits_is_a_picture_also_with_a_rescale_by_one() -> None:
    image = read((HEAD.clip(0, 80) * 3).astype(np.uint8), **{**CT, "RescaleIntercept": 0})
    assert (image.unit, image.modality, image.white) == ("gray", "CT", 255.0)


def test_a_brain_without_its_skull_is_in_hounsfield_units() -> None:
    image = read(HEAD.clip(0, 80).astype(np.uint16), **{**CT, "BodyPartExamined": "HEAD", "RescaleIntercept": 0})
    assert (image.unit, image.excluded) == ("HU", None)


@pytest.mark.parametrize("kind", ["HU", "hu", "US", "HOUNSFIELD", ""])
def test_rescale_types_of_hounsfield_units(kind: str) -> None:
    image = read((HEAD + 1024).astype(np.uint16), **{**CT, "RescaleType": kind})
    assert (image.unit, image.excluded, image.notes) == ("HU", None, (NOT_STATED,))


@pytest.mark.parametrize("modality", [None, "", "ct", " CT "])
@pytest.mark.parametrize("sop_class", [b.CT_CLASS, b.ENHANCED_CT])
def test_the_sop_class_states_a_missing_modality(modality: str | None, sop_class: str) -> None:
    image = read((HEAD + 1024).astype(np.uint16), **{**CT, "SOPClassUID": sop_class, "Modality": modality})
    assert (image.unit, image.modality, image.excluded) == ("HU", "CT", None)
    np.testing.assert_array_equal(image.pixels, HEAD)
    assert read(SOPClassUID=b.MR_CLASS, Modality=modality if modality in (None, "") else "mr").modality == "MR"


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


def test_monochrome1_does_not_change_hounsfield_units() -> None:
    """The rescale gives HU; MONOCHROME1 only says how they are shown."""
    negative = (4095 - STORED.astype(np.int32)).astype(np.uint16)
    attributes = {**CT, "PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": -1, "RescaleIntercept": 4095 - 3000}
    image = read(negative, **attributes)
    assert (image.unit, image.inverted) == ("HU", False)
    np.testing.assert_array_equal(image.pixels, STORED.astype(float) - 3000)


def test_inverted_values_with_the_rescale_of_the_original_are_no_hounsfield_units() -> None:
    air = np.zeros((32, 32), np.uint16)
    air[8:24, 8:24] = 1064
    with pytest.raises(InputError, match=r"MONOCHROME1 CT image with 3071 HU at its border.*as MONOCHROME2"):
        read(4095 - air, **CT, PhotometricInterpretation="MONOCHROME1")


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


AXES = [np.eye(3)[axis] * sign for axis in range(3) for sign in (1, -1)]
PLANES = [(rows, columns) for rows in AXES for columns in AXES if not rows @ columns]


def stored_in(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """A slice of 40 x 48 mm with pixels of 1 x 0.5 mm whose values depend on the place in the patient, and its geometry."""
    row, column = np.mgrid[:40, :96]
    place = np.multiply.outer(rows, column * 0.5) + np.multiply.outer(columns, row * 1.0)
    values = (500 + 7 * place[0] + 3 * place[1] - 2 * place[2]).astype(np.int16)
    cosines = [float(v) for v in (*rows, *columns)]
    return values, {"ImageOrientationPatient": cosines, "ImagePositionPatient": [5, 6, 7], "PixelSpacing": [1, 0.5]}


def as_nifti(values: np.ndarray, geometry: dict[str, Any]) -> bytes:
    """The same slice with the affine of PS3.3 C.7.6.2.1.1."""
    rows, columns = np.reshape(geometry["ImageOrientationPatient"], (2, 3))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = rows * 0.5, columns * 1.0, np.cross(rows, columns) * 3
    affine[:3, 3] = geometry["ImagePositionPatient"]
    return b.nifti(values.T[:, :, None], np.diag([-1.0, -1, 1, 1]) @ affine)


@pytest.mark.parametrize(("rows", "columns"), PLANES)
def test_any_stored_direction_gives_the_view_of_nifti(rows: np.ndarray, columns: np.ndarray) -> None:
    values, geometry = stored_in(rows, columns)
    image = read_image(b.written(b.dataset(values, **geometry)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the unit
        nifti = read_image(as_nifti(values, geometry))
    np.testing.assert_array_equal(image.pixels, nifti.pixels)
    assert image.spacing == nifti.spacing
    np.testing.assert_array_equal(image.to_stored(image.pixels), values)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("cosines", [[1, 0, 0, 0, -1, 0], [-1, 0, 0, 0, -1, 0], [0, 1, 0, 1, 0, 0]])
def test_frames_of_any_direction_go_from_the_feet_to_the_head(shared: bool, cosines: list[float]) -> None:
    """Also where the direction is stated for each frame, and the normal of the stored frames points to the feet."""
    volume = np.stack([STORED, STORED + 1, STORED + 2])
    attributes = enhanced([4.0, -1.0, 1.5], [{}] * 3)
    orientation = b.sequence(ImageOrientationPatient=cosines)
    groups = attributes["SharedFunctionalGroupsSequence" if shared else "PerFrameFunctionalGroupsSequence"]
    if not shared:
        del attributes["SharedFunctionalGroupsSequence"][0].PlaneOrientationSequence
    for group in groups:
        group.PlaneOrientationSequence = orientation
    image = read(volume, **attributes)
    turned = {-1: STORED[::-1, ::-1], 1: STORED[::-1], 0: STORED.T}[cosines[0]]
    np.testing.assert_array_equal(image.pixels, np.stack([turned + 1, turned + 2, turned]))


def test_padding_is_turned_with_the_pixels() -> None:
    signed = STORED.astype(np.int16)
    signed[:5, :7] = -2000
    image = read(signed, **CT, PixelPaddingValue=-2000, ImageOrientationPatient=[0, 1, 0, 1, 0, 0])
    assert image.padding is not None
    np.testing.assert_array_equal(image.padding, signed.T == -2000)


def test_color_and_compressed_pixels_are_turned() -> None:
    rgb = np.repeat(b.picture()[..., None], 3, axis=-1)
    image = read(rgb, SOPClassUID=b.SC_CLASS, PatientOrientation=["P", "R"])
    np.testing.assert_array_equal(image.pixels, b.picture().T[:, ::-1])
    image = read_image(b.compressed(STORED, uid.JPEGLSLossless, ImageOrientationPatient=[0, 1, 0, 1, 0, 0]))
    np.testing.assert_array_equal(image.pixels, STORED.T)
    assert image.orientation == Orientation(transposed=True)


def test_frames_of_several_directions_are_refused() -> None:
    attributes = enhanced([0.0, 1.0], [{}] * 2)
    attributes["PerFrameFunctionalGroupsSequence"][1].PlaneOrientationSequence = b.sequence(
        ImageOrientationPatient=[1, 0, 0, 0, -1, 0]
    )
    with pytest.raises(InputError, match="frames of several orientations"):
        read(np.stack([STORED, STORED]), **attributes)
