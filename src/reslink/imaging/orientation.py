"""The in-plane orientation of a slice: flips and a transposition to the radiological view, and back to the stored pixels.

In the radiological view, columns go to the patient's left and rows to the back, in coronal and sagittal planes to the feet; a
sagittal plane has the front on the left. NIfTI files are read in the same view.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Kind = TypeVar("Kind", bound=np.generic)
Edges: TypeAlias = tuple[str, str, str, str]
"""The sides of the patient at the left, right, top and bottom of a plane, as letters of DICOM."""


class Orientation(NamedTuple):
    """How stored pixels become the radiological view. The transposition comes first.

    Attributes:
        transposed: Whether rows and columns are exchanged.
        rows_reversed: Whether the order of the rows is reversed after the transposition.
        columns_reversed: Whether the order of the columns is reversed after the transposition.
    """

    transposed: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    def to_view(self, stored: NDArray[Kind]) -> NDArray[Kind]:
        """Returns stored pixels, (..., H, W), in the radiological view."""
        turned = stored.swapaxes(-1, -2) if self.transposed else stored
        return np.ascontiguousarray(self._reversed(turned))

    def to_stored(self, view: NDArray[Kind]) -> NDArray[Kind]:
        """Returns pixels of the radiological view, (..., H, W), in the rows and columns of the file."""
        turned = self._reversed(view)
        return np.ascontiguousarray(turned.swapaxes(-1, -2) if self.transposed else turned)

    def shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Returns the number of rows and columns in the radiological view."""
        return (columns, rows) if self.transposed else (rows, columns)

    def _reversed(self, plane: NDArray[Any]) -> NDArray[Any]:
        plane = plane[..., ::-1, :] if self.rows_reversed else plane
        return plane[..., ::-1] if self.columns_reversed else plane


AS_STORED = Orientation()
"""The orientation of pixels that are stored in the radiological view."""


NOT_STATED = "the file does not state its orientation; rows and columns are used as stored"
"""Note of a DICOM or NIfTI file without an orientation."""


def closest_orientation(along_row: NDArray[np.float64], along_column: NDArray[np.float64]) -> Orientation:
    """Returns the orientation of a plane, also of an oblique one, by the closest patient axes.

    The axes are those of ``nibabel.io_orientation``: the direction that is closest to an axis chooses first.

    Args:
        along_row: (3,) direction of a row, towards higher columns, in patient coordinates (x to the left, y to the back,
            z to the head).
        along_column: (3,) direction of a column, towards higher rows.
    """
    closeness = np.abs([along_row, along_column, np.cross(along_row, along_column)])
    axes = [0, 0, 0]
    for direction in np.argsort(-closeness.max(axis=1), kind="stable"):
        axes[direction] = int(closeness[direction].argmax())
        closeness[:, axes[direction]] = -1
    across, down = min(axes[:2]), max(axes[:2])
    transposed = axes[0] != across
    horizontal, vertical = (along_column, along_row) if transposed else (along_row, along_column)
    downwards = vertical[down] if down == 1 else -vertical[down]
    return Orientation(transposed, bool(downwards < 0), bool(horizontal[across] < 0))


def view_edges(along_row: NDArray[np.float64], along_column: NDArray[np.float64]) -> Edges:
    """Returns the sides of the patient at the left, right, top and bottom of a plane, by its closest patient axes.

    The letters are those of DICOM (PS3.3 C.7.6.1.1.1): R, L (right, left), A, P (front, back), H, F (head, feet).

    Args:
        along_row: (3,) direction of a row, towards higher columns, in patient coordinates (x to the left, y to the back,
            z to the head).
        along_column: (3,) direction of a column, towards higher rows.
    """
    directions = np.array([along_row, along_column])
    closeness = np.abs(directions)
    first = int(closeness.max(axis=1).argmax())  # the direction that is closest to an axis chooses first
    axes = [0, 0]
    axes[first] = int(closeness[first].argmax())
    closeness[:, axes[first]] = -1
    axes[1 - first] = int(closeness[1 - first].argmax())
    sides = [
        _SIDES[axis] if direction[axis] > 0 else _SIDES[axis][::-1] for axis, direction in zip(axes, directions, strict=True)
    ]
    return sides[0][0], sides[0][1], sides[1][0], sides[1][1]


_SIDES: Final = ("RL", "AP", "FH")
"""Sides of the patient at the low and high end of each axis."""
