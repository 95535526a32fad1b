"""NIfTI: orientation, scaling and refusal."""

from __future__ import annotations

import itertools
from typing import Any

import builders as b
import nibabel
import numpy as np
import pytest

from reslink.errors import InputError
from reslink.imaging.reading import read_image

_RNG = np.random.default_rng(3)
# Axial slices (z, y from the front, x from the patient's right), as they should come back, with the histogram of a head CT.
SCENE = _RNG.choice([-1000, 0, 40, 1000], (20, 24, 28), p=[0.4, 0.1, 0.4, 0.1]) + _RNG.integers(-30, 30, (20, 24, 28))
SCENE = SCENE.astype(np.int16)
ZOOMS = (3.0, 2.0, 1.0)


def ras() -> tuple[np.ndarray, np.ndarray]:
    """The scene as (x to the right, y to the front, z to the head) with its affine."""
    return SCENE[:, ::-1, ::-1].transpose(2, 1, 0), np.diag([*ZOOMS[::-1], 1.0])


def test_slices_come_as_radiologists_see_them() -> None:
    array, affine = ras()
    image = read_image(b.nifti(array, affine))
    np.testing.assert_array_equal(image.pixels, SCENE)
    assert (image.unit, image.modality, image.spacing) == ("HU", "CT", ZOOMS)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
def test_any_orientation_of_storage_gives_the_same_slices(axes: tuple[int, ...], flips: tuple[int, ...]) -> None:
    array, affine = ras()
    target = np.array([[axis, flip] for axis, flip in zip(axes, flips, strict=True)])
    other = nibabel.Nifti1Image(array, affine).as_reoriented(target)
    image = read_image(b.zipped(other.to_bytes()))
    np.testing.assert_array_equal(image.pixels, SCENE)
    assert image.spacing == pytest.approx(ZOOMS)


def test_the_version_2_and_the_big_endian_forms() -> None:
    array, affine = ras()
    np.testing.assert_array_equal(read_image(nibabel.Nifti2Image(array, affine).to_bytes()).pixels, SCENE)
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    swapped = nibabel.Nifti1Image(array, affine, header=header).to_bytes()
    np.testing.assert_array_equal(read_image(swapped).pixels, SCENE)


def test_scaling_is_applied() -> None:
    array, affine = ras()
    image = read_image(b.nifti(array * 2 - 14, affine, scl_slope=0.5, scl_inter=7))
    np.testing.assert_allclose(image.pixels, SCENE)
    assert image.unit == "HU"


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_no_slope_means_no_scaling(slope: float) -> None:
    array, affine = ras()
    np.testing.assert_array_equal(read_image(b.nifti(array, affine, scl_slope=slope, scl_inter=5)).pixels, SCENE)


def test_magnitudes_are_mr() -> None:
    array, affine = ras()
    assert read_image(b.nifti(np.abs(array), affine)).unit == "MR"


def test_a_single_slice_is_a_plane() -> None:
    array, affine = ras()
    for volume in (array[:, :, :1], array[:, :, 0]):
        image = read_image(b.nifti(volume, affine))
        np.testing.assert_array_equal(image.pixels, SCENE[0])
        assert image.spacing == ZOOMS[1:]
    np.testing.assert_array_equal(read_image(b.nifti(array[:, -1:], affine)).pixels, SCENE[::-1, 0, :])
    np.testing.assert_array_equal(read_image(b.nifti(array[-1:], affine)).pixels, SCENE[::-1, :, 0])


@pytest.mark.parametrize("pack", [bytes, b.zipped])
def test_of_several_volumes_the_first_is_taken_with_a_warning(pack: Any) -> None:
    array, affine = ras()
    series = np.stack([array, array * 0, array // 2], axis=-1)
    with pytest.warns(UserWarning, match="has 3 volumes; the first one is used"):
        image = read_image(pack(b.nifti(series, affine)))
    np.testing.assert_array_equal(image.pixels, SCENE)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"scl_slope": np.inf}, "not finite"),
        ({"scl_slope": 1e9}, "implausible rescale slope"),
        ({"scl_slope": 1, "scl_inter": np.nan}, "not finite"),
        ({"dim": [3, 2000, 2000, 2000, 1, 1, 1, 1]}, "64 million in total"),
        ({"dim": [3, 28, 24, 40, 1, 1, 1, 1]}, "the header requires"),
        ({"dim": [3, -28, 24, 20, 1, 1, 1, 1]}, "gives 3 axes"),
        ({"dim": [0, 28, 24, 20, 1, 1, 1, 1]}, "gives 0 axes"),
        ({"dim": [5, 28, 24, 10, 1, 2, 1, 1]}, "has 5 axes"),
        ({"datatype": 32}, "has complex64 voxels"),
        ({"datatype": 128}, "Voxels are integers"),
        ({"datatype": 9999}, "unknown data type"),
        ({"vox_offset": -8}, "invalid voxel offset"),
        ({"vox_offset": 1e12}, "invalid voxel offset"),
        ({"vox_offset": np.nan}, "invalid voxel offset"),
        ({"magic": b"ni1"}, "header of a NIfTI pair"),
        ({"sform_code": 1, "srow_x": [0, 0, 0, 0]}, "has no valid voxel positions"),
    ],
)
def test_headers_that_lie_are_refused(header: dict[str, Any], message: str) -> None:
    array, affine = ras()
    with pytest.raises(InputError, match=message):
        read_image(b.nifti(array, affine, **header))


def test_values_that_are_not_finite_are_refused() -> None:
    array, affine = ras()
    for value in (np.nan, np.inf):
        values = array.astype(np.float32)
        values[3, 4, 5] = value
        with pytest.raises(InputError, match="not finite"):
            read_image(b.nifti(values, affine))


def test_a_gzip_file_must_be_whole_to_its_checksum() -> None:
    data = b.zipped(b.nifti(*ras()))
    broken = data[:-6] + bytes([data[-6] ^ 1]) + data[-5:]
    with pytest.raises(InputError, match="gzip data is broken"):
        read_image(broken)
    with pytest.raises(InputError, match="gzip data is truncated"):
        read_image(data[:-4])


def test_a_gzip_bomb_is_refused() -> None:
    data = b.zipped(b.nifti(*ras()) + bytes(100 << 20))
    with pytest.raises(InputError, match="inflates to more than its header gives"):
        read_image(data)


@pytest.mark.parametrize(
    ("cut", "edges"),
    [
        (np.s_[:, :, :], ("R", "L", "A", "P")),
        (np.s_[:, :, 5:6], ("R", "L", "A", "P")),
        (np.s_[:, 5:6, :], ("R", "L", "H", "F")),
        (np.s_[5:6, :, :], ("A", "P", "H", "F")),
    ],
)
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
def test_the_sides_of_the_patient(cut: tuple[slice, ...], edges: tuple[str, ...], flips: tuple[int, ...]) -> None:
    """A bright corner at the right, front and top of the head is where the letters say."""
    array, affine = ras()
    stored = np.zeros_like(array[cut])
    stored[-(stored.shape[0] // 2) :, -(stored.shape[1] // 2) :, -(stored.shape[2] // 2) :] = 1000
    target = np.array([[axis, flip] for axis, flip in enumerate(flips)])
    image = read_image(nibabel.Nifti1Image(stored, affine).as_reoriented(target).to_bytes(), "mr").slices()[-1]
    assert image.edges == edges
    rows, columns = np.nonzero(image.pixels)
    center_row, center_column = rows.mean() / image.pixels.shape[0], columns.mean() / image.pixels.shape[1]
    assert (edges[0] in "RA") == (center_column < 0.5)
    assert (edges[2] in "AH") == (center_row < 0.5)
    unstated = b.nifti(array[cut], affine, qform_code=0, sform_code=0)
    assert read_image(unstated, "mr").edges is None
