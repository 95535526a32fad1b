"""The image type; a slice gives the same network input however it is stored, within the precision of the format."""

from __future__ import annotations

import io
import itertools
import warnings
from dataclasses import replace
from typing import Any

import builders as b
import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from pydicom import uid

from reslink.imaging.image import Image, Unit, slice_format
from reslink.imaging.limits import ImagingWarning
from reslink.imaging.orientation import AS_STORED
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image


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
    assert expected.difference(slice_format(replace(image, orientation=AS_STORED))) == "orientations"


SHAPE = (76, 64)
PREPROCESS = Preprocess(size=64)
AXES = [sign * np.eye(3)[axis] for axis in (0, 1) for sign in (1, -1)]
DIRECTIONS = [(rows, columns) for rows, columns in itertools.product(AXES, AXES) if not rows @ columns]
SYNTAXES = (
    *(uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian, uid.ExplicitVRBigEndian),
    *(uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1),
)
FEW = settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def head(seed: int) -> np.ndarray:
    """An asymmetric head in HU, whole numbers from -1000 to 1500: skull, brain, a lesion, air."""
    rng = np.random.default_rng(seed)
    y, x = (grid - side / 2 for grid, side in zip(np.mgrid[: SHAPE[0], : SHAPE[1]], SHAPE, strict=True))
    radius = np.hypot(x / 25, y / 31)
    brain = 32 + 10 * np.sin(x / 4) * np.cos(y / 5) + rng.normal(0, 3, SHAPE)
    values = np.select([radius > 1, radius > 0.9], [-1000, 1200], brain)
    cy, cx = rng.integers(-14, -4), rng.integers(4, 12)
    return np.rint(np.where(np.hypot(x - cx, y - cy) < 5, 70, values)).astype(np.int32)


def seen(data: bytes, unit: Unit | None = None) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImagingWarning)  # about a unit that is not stated
        return PREPROCESS.pixels(read_image(data, unit))


def turned(plane: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The same slice stored with rows and columns in other directions of the axial plane (x to the left, y to the back)."""
    index = [np.mgrid[: SHAPE[0], : SHAPE[1]][1], np.mgrid[: SHAPE[0], : SHAPE[1]][0]]  # x and y of each pixel
    coordinates = [sum(int(d[axis]) * index[axis] for axis in (0, 1)) for d in (columns, rows)]
    row, column = (values - values.min() for values in coordinates)
    stored = np.zeros((row.max() + 1, column.max() + 1), plane.dtype)
    stored[row, column] = plane
    return stored


def dicom(stored: np.ndarray, syntax: uid.UID, attributes: dict[str, Any]) -> bytes:
    if syntax.is_compressed and syntax != uid.DeflatedExplicitVRLittleEndian:
        return b.compressed(stored, syntax, **attributes)
    dataset = b.dataset(stored.byteswap() if syntax == uid.ExplicitVRBigEndian else stored, **attributes)
    dataset.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.mark.parametrize(("number", "syntax"), list(enumerate(SYNTAXES)), ids=[syntax.keyword for syntax in SYNTAXES])
@FEW
@given(
    seed=st.integers(0, 99),
    direction=st.integers(0, 7),
    slope=st.integers(0, 3),
    intercept=st.sampled_from([-1024, -2000, 3000]),
    photometric=st.sampled_from(["MONOCHROME2", "MONOCHROME1"]),
    preamble=st.sampled_from([0, 128, 132, "gzip"]),
)
def test_ct_in_dicom(
    seed: int,
    direction: int,
    slope: float,
    intercept: int,
    photometric: str,
    preamble: int | str,
    number: int,
    syntax: uid.UID,
) -> None:
    """Each transfer syntax has the same examples, with other directions and slopes."""
    rows, columns = DIRECTIONS[(direction + number) % 8]
    slope = (1, 0.5, -1, 2)[(int(slope) + number) % 4]
    hu = head(seed) // 2 * 2  # for a slope of 2
    intercept = min(intercept, -1024) if slope > 0 else 3000
    stored = np.rint((turned(hu, rows, columns) - intercept) / slope).astype(np.uint16)
    attributes = {
        **{"Modality": "CT", "SOPClassUID": b.CT_CLASS, "RescaleType": "HU", "PhotometricInterpretation": photometric},
        **{"RescaleSlope": slope, "RescaleIntercept": intercept, "PixelSpacing": [0.5, 0.5]},
        "ImageOrientationPatient": [float(v) for v in (*rows, *columns)],
    }
    data = dicom(stored, syntax, attributes)
    data = b.zipped(data) if preamble == "gzip" else data[int(preamble) :]
    np.testing.assert_array_equal(seen(data), PREPROCESS.pixels(read_image(b.written(reference(hu)))))


def reference(hu: np.ndarray) -> Any:
    tags = {"Modality": "CT", "SOPClassUID": b.CT_CLASS, "RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}
    return b.dataset((hu + 1024).astype(np.uint16), **tags, ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[0.5, 0.5])


@pytest.mark.parametrize(("number", "syntax"), list(enumerate(SYNTAXES)), ids=[syntax.keyword for syntax in SYNTAXES])
@FEW
@given(
    seed=st.integers(0, 99),
    direction=st.integers(0, 7),
    scale=st.sampled_from([1, 3, 12]),
    inverted=st.booleans(),
)
def test_mr_in_dicom(seed: int, direction: int, scale: int, inverted: bool, number: int, syntax: uid.UID) -> None:
    rows, columns = DIRECTIONS[(direction + number) % 8]
    values = np.clip(head(seed) + 100, 0, 400)
    stored = (turned(values, rows, columns) * scale).astype(np.uint16)
    attributes = {
        "PhotometricInterpretation": "MONOCHROME1" if inverted else "MONOCHROME2",
        "ImageOrientationPatient": [float(v) for v in (*rows, *columns)],
    }
    data = dicom(65535 - stored if inverted else stored, syntax, attributes)
    expected = seen(b.written(b.dataset(values.astype(np.uint16), ImageOrientationPatient=[1, 0, 0, 0, 1, 0])))
    assert np.abs(seen(data).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "float32", "float64", "uint16", "uint32"])
@FEW
@given(
    seed=st.integers(0, 99),
    slices=st.sampled_from([1, 3]),
    axes=st.permutations(range(3)),
    flips=st.tuples(*[st.sampled_from([1, -1])] * 3),
    scaling=st.sampled_from(
        [(1.0, 0.0), (0.5, -200.0), (2.0, 0.0), (np.nan, 0.0), (0.0, 50.0), (1.0, -1024.0), (-1.0, 3000.0)]
    ),
    big=st.booleans(),
    compressed=st.booleans(),
)
def test_ct_in_nifti(
    seed: int,
    slices: int,
    axes: list[int],
    flips: tuple[int, ...],
    dtype: str,
    scaling: tuple[float, float],
    big: bool,
    compressed: bool,
) -> None:
    """The head is the middle slice; the axes of the file are in any order and direction."""
    hu = head(seed) // 2 * 2
    slope, intercept = scaling if np.nan_to_num(scaling[0]) else (1.0, 0.0)
    slope, intercept = (1.0, -1024.0) if dtype.startswith("u") and slope > 0 else (slope, intercept)
    volume = np.stack([hu] * slices)
    volume[: slices // 2] = volume[slices // 2 + 1 :] = -1000
    stored = ((volume - intercept) / slope).astype(dtype)
    ras = nibabel.Nifti1Image(stored.transpose(2, 1, 0)[::-1, ::-1], np.eye(4), dtype=dtype)
    turned = ras.as_reoriented(np.array([*zip(axes, flips, strict=True)]))
    header = nibabel.Nifti1Header(endianness=">" if big else "<")
    header.set_data_dtype(np.dtype(dtype))
    data = bytearray(nibabel.Nifti1Image(turned.dataobj, turned.affine, header, dtype=dtype).to_bytes())
    fields = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    used = (slope, intercept) if np.nan_to_num(scaling[0]) or dtype.startswith("u") else scaling
    fields["scl_slope"], fields["scl_inter"] = used
    data[:348] = fields.binaryblock
    image = read_image(b.zipped(bytes(data)) if compressed else bytes(data), "HU").slices()[slices // 2]
    np.testing.assert_array_equal(PREPROCESS.pixels(image), PREPROCESS.pixels(read_image(b.written(reference(hu)))))


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Values of fewer than 8 bits, several in a byte."""
    each = values[..., None] >> np.arange(bits)[::-1] & 1
    return np.packbits(each.reshape(len(values), -1), axis=1)


def picture(seed: int) -> np.ndarray:
    return np.rint(np.clip((head(seed) + 20) / 120, 0, 1) * 255).astype(np.uint8)


WITH_POLARITY = ("tiff", "tiff16", "float16", "float32", "float64")
WITHOUT_POLARITY = ("png", "png16", "png4", "png2", "png-rgb", "png-palette", "bmp", "webp", "npy")


@pytest.mark.parametrize(
    ("kind", "inverted"), [*itertools.product(WITH_POLARITY, [False, True]), *((kind, False) for kind in WITHOUT_POLARITY)]
)
@settings(FEW, max_examples=3)
@given(seed=st.integers(0, 99), big=st.booleans())
def test_pictures(seed: int, big: bool, kind: str, inverted: bool) -> None:
    gray = picture(seed)
    bits = {"png4": 4, "png2": 2}.get(kind, 8)
    step = 255 // ((1 << bits) - 1)
    gray = gray // step * np.uint8(step)
    image = Pillow.fromarray(gray)
    depth = {"tiff": (gray, 255), "tiff16": (gray * np.uint16(257), 65535)}
    depth |= {name: ((gray / 255).astype(name), 1) for name in ("float16", "float32", "float64")}
    if kind in depth:
        values, top = depth[kind]
        data = b.tiff((top - values).astype(values.dtype) if inverted else values, 0 if inverted else 1, big=big)
    else:
        data = {
            "png": lambda: b.saved(image, "PNG"),
            "png16": lambda: b.png(SHAPE[1], SHAPE[0], b.rows((gray * np.uint16(257)).astype(">u2")), depth=16),
            "png4": lambda: b.png(SHAPE[1], SHAPE[0], b.rows(packed(gray // 17, 4)), depth=4),
            "png2": lambda: b.png(SHAPE[1], SHAPE[0], b.rows(packed(gray // 85, 2)), depth=2),
            "png-palette": lambda: b.saved(image.convert("P"), "PNG"),
            "png-rgb": lambda: b.saved(image.convert("RGB"), "PNG"),
            "bmp": lambda: b.saved(image, "BMP"),
            "webp": lambda: b.saved(image.convert("RGB"), "WEBP", lossless=True),
            "npy": lambda: b.npy(gray),
        }[kind]()
    assert np.abs(seen(data).astype(int) - seen(b.saved(image, "PNG"))).max() <= 1
