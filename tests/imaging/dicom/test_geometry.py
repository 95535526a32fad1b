"""Positions and orders of slices, compared with planes built by hand (LPS coordinates, millimeters)."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from pydicom import Dataset

from reslink.imaging.dicom.geometry import (
    Plane,
    frame_orientation,
    slice_distance,
    slice_order,
    slice_plane,
    warn_uneven_spacing,
)
from reslink.imaging.limits import ImagingWarning
from reslink.imaging.orientation import Orientation

AXIAL = [1, 0, 0, 0, 1, 0]


def plane(position: list[float], orientation: list[float] = AXIAL) -> Plane:
    dataset = Dataset()
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = position, orientation
    result = slice_plane(dataset)
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("orientation", "normal"),
    [(AXIAL, [0, 0, 1]), ([1, 0, 0, 0, 0, -1], [0, 1, 0]), ([0, 1, 0, 0, 0, -1], [-1, 0, 0])],
)
def test_the_normal_follows_from_rows_and_columns(orientation: list[float], normal: list[float]) -> None:
    np.testing.assert_allclose(plane([0, 0, 0], orientation).normal, normal, atol=1e-12)


@pytest.mark.parametrize("orientation", [None, [1, 0, 0], [1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]])
def test_an_implausible_orientation_is_no_plane(orientation: list[float] | None) -> None:
    dataset = Dataset()
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], orientation
    assert slice_plane(dataset) is None


def test_frames_are_sorted_along_their_normal() -> None:
    planes = [plane([9, 9, z]) for z in (4.0, -1.0, 1.5)]
    assert slice_order(planes, "it") == [1, 2, 0]
    assert slice_distance([planes[i] for i in (1, 2, 0)]) == 2.5
    assert slice_order([*planes, None], "it") is None
    assert slice_distance([*planes, None]) is None


def test_frames_without_one_order_keep_that_of_the_file() -> None:
    with pytest.warns(ImagingWarning, match="it has frames of several orientations"):
        assert slice_order([plane([0, 0, 0]), plane([0, 0, 1], [1, 0, 0, 0, 0, -1])], "it") is None
    with pytest.warns(ImagingWarning, match="it has several frames at one position"):
        assert slice_order([plane([0, 0, z]) for z in (0.0, 1.0, 0.0)], "it") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert slice_order([plane([0, 0, 0])] * 3, "it") is None, "a time series"


def test_a_gap_of_more_than_a_tenth_is_uneven() -> None:
    warn_uneven_spacing(np.array([5.0, 5.4, 5.0]), "it")
    with pytest.warns(ImagingWarning, match=r"it has uneven gaps between slices: 5\.00 to 6\.00 mm, median 5\.00 mm"):
        warn_uneven_spacing(np.array([5.0, 6.0, 5.0]), "it")


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        (["L", "P"], Orientation()),
        (["R", "P"], Orientation(columns_reversed=True)),
        (["L", "A"], Orientation(rows_reversed=True)),
        (["P", "L"], Orientation(transposed=True)),
        (["A", "R"], Orientation(True, True, True)),
        (["A", "F"], Orientation(columns_reversed=True)),
        (["LPF", "PR"], Orientation()),
        (["P", "H"], Orientation(rows_reversed=True)),
        (["L", "R"], None),
        (["L"], None),
        (["L", ""], None),
        (["X", "P"], None),
        (["LE", "V"], None),
        ("L", None),
        (None, None),
    ],
)
def test_patient_orientation_is_used_where_the_cosines_are_missing(letters: object, expected: Orientation | None) -> None:
    dataset = Dataset()
    if letters is not None:
        dataset.PatientOrientation = letters
    assert frame_orientation(dataset) == expected
    dataset.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]
    assert frame_orientation(dataset) == Orientation(transposed=True)


def test_the_normal_in_view_goes_from_the_feet_to_the_head() -> None:
    for orientation in (AXIAL, [1, 0, 0, 0, -1, 0], [-1, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 0], [0, -1, 0, 1, 0, 0]):
        np.testing.assert_array_equal(plane([1, 2, 3], orientation).in_view().normal, [0, 0, 1])
