"""The radiological view against positions in the patient that are computed by hand, and against nibabel."""

from __future__ import annotations

import itertools

import nibabel
import numpy as np
import pytest

from reslink.imaging.orientation import AS_STORED, Orientation, closest_orientation, view_edges

AXES = [sign * np.eye(3)[axis] for axis in range(3) for sign in (1, -1)]
PLANES = [(rows, columns) for rows, columns in itertools.product(AXES, AXES) if not rows @ columns]
ALL = [Orientation(*values) for values in itertools.product((False, True), repeat=3)]
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@pytest.mark.parametrize("orientation", ALL)
def test_to_stored_undoes_to_view(orientation: Orientation) -> None:
    stored = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    view = orientation.to_view(stored)
    assert view.flags.c_contiguous
    assert view.shape[1:] == orientation.shape(3, 4)
    np.testing.assert_array_equal(orientation.to_stored(view), stored)


def test_pixels_in_the_view_are_not_copied() -> None:
    stored = np.zeros((3, 4))
    assert AS_STORED.to_view(stored) is stored
    assert AS_STORED.to_stored(stored) is stored


@pytest.mark.parametrize(("along_row", "along_column"), PLANES)
def test_columns_go_to_the_left_and_rows_to_the_back_or_the_feet(along_row: np.ndarray, along_column: np.ndarray) -> None:
    """Each pixel holds its position in the patient: x to the left, y to the back, z to the head."""
    row, column = np.mgrid[:4, :5]
    stored = np.tensordot(along_row, column, 0) + np.tensordot(along_column, row, 0)  # (3, H, W)
    view = closest_orientation(along_row, along_column).to_view(stored)
    across, down = view[:, 0, 1] - view[:, 0, 0], view[:, 1, 0] - view[:, 0, 0]
    normal = int(np.abs(np.cross(along_row, along_column)).argmax())
    expected = {0: ([0, 1, 0], [0, 0, -1]), 1: ([1, 0, 0], [0, 0, -1]), 2: ([1, 0, 0], [0, 1, 0])}[normal]
    np.testing.assert_array_equal([across, down], expected)


def test_oblique_planes_use_the_axes_of_nibabel() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        directions, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        along_row, along_column = directions[:, 0], directions[:, 1]
        affine = np.eye(4)
        affine[:3, :3] = LPS_TO_RAS @ directions
        axes, flips = nibabel.io_orientation(affine).T
        orientation = closest_orientation(along_row, along_column)
        assert orientation.transposed == (axes[0] > axes[1])
        across, down = (1, 0) if orientation.transposed else (0, 1)
        # In RAS, columns to the left and to the back fall along their axis, and so do rows to the back and to the feet.
        assert (orientation.columns_reversed, orientation.rows_reversed) == (flips[across] > 0, flips[down] > 0)


def test_the_sides_of_a_view_are_those_of_nibabel() -> None:
    rng = np.random.default_rng(4)
    opposite = dict(zip("RLAPHF", "LRPAFH", strict=True))
    for _ in range(100):
        directions, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        affine = np.eye(4)
        affine[:3, :3] = LPS_TO_RAS @ directions
        codes = [{"S": "H", "I": "F"}.get(code, code) for code in nibabel.aff2axcodes(affine)]
        if any(np.abs(directions[:, i]).argmax() != "RLAPHF".index(codes[i]) // 2 for i in range(2)):
            continue  # nibabel also gives an axis to the normal
        left, right, top, bottom = view_edges(directions[:, 0], directions[:, 1])
        assert (right, bottom) == (codes[0], codes[1])
        assert (left, top) == (opposite[right], opposite[bottom])


def test_an_axial_view_has_the_right_side_on_the_left() -> None:
    assert view_edges(np.array([1.0, 0.02, 0]), np.array([0, 0.97, -0.2])) == ("R", "L", "A", "P")
    assert view_edges(np.array([0, 1.0, 0]), np.array([0, 0, -1.0])) == ("A", "P", "H", "F")
    assert view_edges(np.array([1.0, 0, 0]), np.array([0, 0, -1.0])) == ("R", "L", "H", "F")
    assert view_edges(np.array([0.65, 0.54, 0.53]), np.array([0.6, -0.6, -0.53])) == ("R", "L", "P", "A"), "one axis each"
