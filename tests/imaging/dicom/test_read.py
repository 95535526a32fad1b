"""DICOM: physical values, order and refusal, each against an array that was computed without the reader."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import builders as b
import nibabel
import numpy as np
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from reslink.errors import InputError
from reslink.imaging.image import Image
from reslink.imaging.reading import find_images, read_image, read_series

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


def test_a_secondary_capture_is_grey() -> None:
    image = read(b.picture(), SOPClassUID=b.SC_CLASS, Modality="CT")
    assert (image.unit, image.modality, image.white) == ("grey", "CT", 255.0)
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


def test_colour_becomes_luminance() -> None:
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
    for colour in ("Red", "Green", "Blue"):
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        attributes[f"{colour}PaletteColorLookupTableData"] = lut.tobytes()
    image = read(index, **attributes)
    np.testing.assert_array_equal(image.pixels, lut[index])
    assert (image.unit, image.white) == ("grey", 65535.0)


def test_a_modality_lut_is_applied() -> None:
    lut = b.item(LUTDescriptor=[256, 0, 16], ModalityLUTType="US")
    lut.add_new(0x00283006, "US", [int(v) for v in np.arange(256) * 3 + 7])
    image = read(b.picture(), ModalityLUTSequence=Sequence([lut]))
    np.testing.assert_array_equal(image.pixels, b.picture() * 3.0 + 7)


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian])
def test_uncompressed_syntaxes(syntax: uid.UID) -> None:
    big = syntax == uid.ExplicitVRBigEndian
    ds = b.dataset(STORED, **CT)
    ds.PixelData = STORED.astype(">u2" if big else "<u2").tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    np.testing.assert_array_equal(read_image(b.written(ds)).pixels, STORED - 1024.0)


LOSSLESS = [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGLossless, uid.JPEGLosslessSV1]


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda s: s.name[:40])
@pytest.mark.parametrize("frames", [1, 3])
def test_compressed_without_loss_is_exact(syntax: uid.UID, frames: int) -> None:
    array = STORED if frames == 1 else np.stack([STORED, STORED[::-1], STORED // 3])
    image = read_image(b.compressed(array, syntax, **CT))
    np.testing.assert_array_equal(image.pixels, array - 1024.0)
    assert image.unit == "HU"


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless])
def test_compressed_signed_pixels(syntax: uid.UID) -> None:
    signed = STORED.astype(np.int16) - 2000
    np.testing.assert_array_equal(read_image(b.compressed(signed, syntax, **CT)).pixels, signed - 1024.0)


def jpeg_file(stream: bytes, array: np.ndarray, syntax: uid.UID = uid.JPEGBaseline8Bit, **attributes: Any) -> bytes:
    ds = b.dataset(array, **attributes)
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = syntax
    return b.written(ds)


def test_jpeg_baseline_is_near() -> None:
    from PIL import Image as Pillow

    stream = b.saved(Pillow.fromarray(b.picture()), "JPEG", quality=95)
    np.testing.assert_allclose(read_image(jpeg_file(stream, b.picture())).pixels, b.picture(), atol=8)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda s: s.name[:40])
def test_half_a_codestream_is_refused(syntax: uid.UID) -> None:
    stream = b.encoded(STORED, syntax, b.dataset(STORED))
    for cut in (stream[: len(stream) // 2], stream[: len(stream) // 2].rstrip(b"\xff") + b"\xff\xd9"):
        with pytest.raises(InputError, match="cannot be read"):
            read_image(jpeg_file(cut + b"\0" * (len(cut) % 2), STORED, syntax))


def test_a_codestream_of_another_size_is_refused() -> None:
    for syntax in LOSSLESS:
        stream = b.encoded(STORED, syntax, b.dataset(STORED))
        taller = b.dataset(STORED, Rows=96)
        taller.PixelData = encapsulate([stream])
        taller["PixelData"].VR = "OB"
        taller.file_meta.TransferSyntaxUID = syntax
        with pytest.raises(InputError, match="cannot be read"):
            read_image(b.written(taller))


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
    with pytest.warns(UserWarning, match="several frames of one place"):
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
        ({"Rows": 96}, "the header claims 7680"),
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


@pytest.mark.parametrize("syntax", [uid.MPEG2MPML, uid.JPEG2000MC, "1.2.840.10008.1.2.4.94"])
def test_other_syntaxes_are_refused_by_name(syntax: str) -> None:
    data = jpeg_file(b"\0" * 100, STORED, uid.UID(syntax))
    with pytest.raises(InputError, match=f"has the transfer syntax {uid.UID(syntax).name.split()[0]}"):
        read_image(data)


# --- series ---------------------------------------------------------------------------------------------------------


def write_series(folder: Path, places: list[float], **attributes: Any) -> np.ndarray:
    """Writes slices whose names say nothing about their order; slice i holds the value i."""
    volume = np.stack([STORED + 100 * i for i in range(len(places))])
    for i, z in enumerate(places):
        facts = {"ImageOrientationPatient": AXIAL, "SeriesInstanceUID": "2.25.7", "PixelSpacing": [0.5, 0.5], **attributes}
        ds = b.dataset(volume[i], **CT, ImagePositionPatient=[3, 4, z], SOPInstanceUID=f"2.25.{i + 1}", **facts)
        (folder / f"{(i * 7) % 11:02d}").write_bytes(b.written(ds))
    return volume


def test_a_series_is_sorted_by_position(tmp_path: Path) -> None:
    places = [5.0, -5.0, 0.0, 10.0]
    volume = write_series(tmp_path, places)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").write_bytes(b"x")
    image = read_series(tmp_path)
    np.testing.assert_array_equal(image.pixels, volume[np.argsort(places)] - 1024.0)
    assert image.spacing == (5.0, 0.5, 0.5)
    np.testing.assert_array_equal(read_image(tmp_path).pixels, image.pixels)
    files = find_images([tmp_path])
    assert [int(read_image(f).pixels[0, 0] - image.pixels[0, 0, 0]) for f in files] == [
        int(v) for v in (image.pixels[:, 0, 0] - image.pixels[0, 0, 0])
    ]


def test_a_sagittal_series_is_sorted_along_its_own_normal(tmp_path: Path) -> None:
    for i, x in enumerate([2.0, 0.0, 1.0]):
        ds = b.dataset(
            STORED + i, ImagePositionPatient=[x, 0, 0], ImageOrientationPatient=[0, 1, 0, 0, 0, -1], SeriesInstanceUID="2.25.7"
        )
        (tmp_path / f"{i}.dcm").write_bytes(b.written(ds))
    # The normal of rows to the back and columns to the feet points to the patient's right: x falls.
    np.testing.assert_array_equal(read_series(tmp_path).pixels[:, 0, 0] - STORED[0, 0], [0, 2, 1])


def test_uneven_gaps_are_told(tmp_path: Path) -> None:
    write_series(tmp_path, [0.0, 5.0, 15.0, 20.0])
    with pytest.warns(UserWarning, match="uneven gaps between slices: 5.00 to 10.00 mm"):
        read_series(tmp_path)


def test_spacings_are_compared_where_the_first_slice_states_none(tmp_path: Path) -> None:
    for i, spacing in enumerate((None, [0.5, 0.5], [0.6, 0.6])):
        facts = {"ImageOrientationPatient": AXIAL, "SeriesInstanceUID": "2.25.7", "PixelSpacing": spacing}
        (tmp_path / f"{i}.dcm").write_bytes(
            b.written(b.dataset(STORED, **{**CT, **facts, "ImagePositionPatient": [3, 4, 5.0 * i]}))
        )
    with pytest.raises(InputError, match=r"2\.dcm and .*1\.dcm have different pixel spacings"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "odd.dcm is a localiser"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "odd.dcm and .* have different orientations"),
        ({"ImagePositionPatient": [3, 4, 5.0]}, "odd.dcm.* lie in the same place"),
        ({"SeriesInstanceUID": "2.25.8"}, "odd.dcm and .* belong to different series"),
        ({"PixelSpacing": [0.6, 0.6]}, "odd.dcm and .* have different pixel spacings"),
        ({"ImagePositionPatient": None}, "odd.dcm does not say where its slice lies"),
        ({"RescaleSlope": "nan"}, "odd.dcm cannot be read"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "odd.dcm and .* have different kinds of values"),
    ],
)
def test_a_series_with_an_odd_file_is_refused_by_name(tmp_path: Path, odd: dict[str, Any], message: str) -> None:
    write_series(tmp_path, [0.0, 5.0, 10.0])
    common = {"ImageOrientationPatient": AXIAL, "SeriesInstanceUID": "2.25.7", "PixelSpacing": [0.5, 0.5]}
    ds = b.dataset(STORED, **{**CT, **common, "ImagePositionPatient": [3, 4, 15.0], **odd})
    (tmp_path / "odd.dcm").write_bytes(b.written(ds))
    with pytest.raises(InputError, match=message):
        read_series(tmp_path)


def test_a_series_of_compressed_slices_uses_one_child(tmp_path: Path) -> None:
    from reslink.imaging.sandbox import pool

    for i in range(8):
        facts = {"ImageOrientationPatient": AXIAL, "SeriesInstanceUID": "2.25.7", "ImagePositionPatient": [0, 0, i]}
        (tmp_path / f"{i}.dcm").write_bytes(b.compressed(STORED + i, uid.JPEGLSLossless, **CT, **facts))
    assert read_series(tmp_path).pixels.shape == (8, *STORED.shape)
    assert len(pool._pool.idle) == 1


@pytest.mark.data
def test_the_ct_head(shared_data: Path) -> None:
    folder = shared_data / "series" / "ct_head"
    image = read_image(folder)
    assert image.pixels.shape == (30, 512, 512)
    assert (image.unit, image.modality) == ("HU", "CT")
    assert image.spacing == pytest.approx((2.0, 0.507, 0.507))
    middle = image.pixels[15]
    assert np.median(middle[(middle > -1200) & (middle < -800)]) == pytest.approx(-1000, abs=20)  # air
    head = middle[180:330, 180:330]
    assert 25 <= np.median(head[(head > 0) & (head < 80)]) <= 42  # brain
    # The skull grows smaller towards the vertex: from the feet to the head.
    areas = [(plane > 300).sum() + ((plane > 0) & (plane < 80)).sum() for plane in image.pixels]
    assert areas[-1] < areas[10]


@pytest.mark.data
def test_the_mr_head(shared_data: Path) -> None:
    image = read_image(shared_data / "series" / "mr_head")
    assert image.pixels.shape == (24, 256, 256)
    assert (image.unit, image.modality) == ("MR", "MR")
    assert image.spacing == pytest.approx((0.9, 0.859375, 0.859375), rel=1e-6)
    steps = np.abs(np.diff(image.pixels[:, 60:200, 60:200], axis=0)).mean(axis=(1, 2))
    shuffled = np.abs(image.pixels[0, 60:200, 60:200] - image.pixels[12, 60:200, 60:200]).mean()
    assert steps.max() < shuffled  # neighbours are alike


@pytest.mark.data
def test_nifti_and_dicom_of_one_head_agree(shared_data: Path, tmp_path: Path) -> None:
    """The same head through nibabel, with the affine of PS3.3 C.7.6.2.1.1, gives the same slices."""
    from pydicom import dcmread

    files = [dcmread(p) for p in sorted((shared_data / "series" / "ct_head").iterdir())]
    files.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    stored = np.stack([ds.pixel_array for ds in files], axis=-1)[::4, ::4]  # (row, column, slice)
    first = files[0]
    affine = np.diag([first.PixelSpacing[1] * 4.0, first.PixelSpacing[0] * 4.0, 2.0, 1.0])
    affine[:3, 3] = first.ImagePositionPatient
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    path = tmp_path / "head.nii.gz"
    nibabel.save(nibabel.Nifti1Image(stored.transpose(1, 0, 2), lps_to_ras @ affine), path)
    from_nifti = read_image(path)
    np.testing.assert_array_equal(from_nifti.pixels, read_image(shared_data / "series" / "ct_head").pixels[:, ::4, ::4])
    assert (from_nifti.unit, from_nifti.spacing) == ("HU", pytest.approx((2.0, 2.028, 2.028)))
