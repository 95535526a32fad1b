"""Where slices lie in space and in which order (DICOM PS3.3 C.7.6.2 Image Plane)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from reslink.imaging.limits import warn

# Two slices lie in the same place when their distance along the normal is below this, in millimetres.
SAME_PLACE = 1e-2
# Cosine between two normals that are the same to within 1 degree.
SAME_DIRECTION = 0.99985


@dataclass(frozen=True)
class Plane:
    """A slice in space.

    Attributes:
        position: (3,) centre of the first pixel, millimetres, patient coordinates (LPS).
        rows: (3,) unit vector along a row, towards higher columns.
        columns: (3,) unit vector along a column, towards higher rows.
    """

    position: NDArray[np.float64]
    rows: NDArray[np.float64]
    columns: NDArray[np.float64]

    @property
    def normal(self) -> NDArray[np.float64]:
        """(3,) unit vector that the slices are counted along: towards the head for axial slices as displayed."""
        cross = np.cross(self.rows, self.columns)
        return np.asarray(cross / np.linalg.norm(cross))

    def same_direction(self, other: Plane) -> bool:
        """Whether rows and columns point the same way to within a degree."""
        return bool(self.rows @ other.rows > SAME_DIRECTION and self.columns @ other.columns > SAME_DIRECTION)


def plane_of(dataset: Dataset, frame: int = 0) -> Plane | None:
    """Returns the plane of a frame, from the functional groups or the data set itself, None where it is not stated."""
    position = _attribute(dataset, frame, "PlanePositionSequence", "ImagePositionPatient")
    orientation = _attribute(dataset, frame, "PlaneOrientationSequence", "ImageOrientationPatient")
    if position is None or orientation is None or position.shape != (3,) or orientation.shape != (6,):
        return None
    rows, columns = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(rows), np.linalg.norm(columns)
    if not all(0.9 < length < 1.1 for length in lengths) or abs(rows @ columns) > 0.1:
        return None
    return Plane(position, rows / lengths[0], columns / lengths[1])


def _attribute(dataset: Dataset, frame: int, sequence: str, word: str) -> NDArray[np.float64] | None:
    sources = []
    for groups, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(groups)
        if items and index < len(items) and items[index].get(sequence):
            sources.append(items[index].get(sequence)[0])
    for source in [*sources, dataset]:
        try:
            values = np.array([float(v) for v in source.get(word) or ()])
        except (TypeError, ValueError):
            continue
        if values.size and np.isfinite(values).all():
            return values
    return None


def distances(planes: Sequence[Plane]) -> NDArray[np.float64]:
    """Returns (n,) the distance of each slice along the normal of the first, in millimetres."""
    normal = planes[0].normal
    return np.array([plane.position @ normal for plane in planes])


def step_of(planes: Sequence[Plane | None]) -> float | None:
    """Returns the median distance between neighbours in order, None where one has no place."""
    known = [plane for plane in planes if plane is not None]
    if len(known) < 2 or len(known) != len(planes):
        return None
    step = float(np.median(np.abs(np.diff(distances(known)))))
    return step if step > SAME_PLACE else None


def order_of(planes: Sequence[Plane | None], name: str) -> list[int] | None:
    """Returns the order of the frames of one file along their normal, or None to keep the order of the file.

    The order of the file is kept where frames have no place, do not lie parallel, or lie in the same place (time
    series, diffusion); the last two with a warning.
    """
    known = [plane for plane in planes if plane is not None]
    if len(known) < len(planes) or len(known) < 2:
        return None
    along = distances(known)
    if not all(plane.same_direction(known[0]) for plane in known):
        warn(f"{name} holds frames of several orientations; they keep the order of the file")
        return None
    order = [int(i) for i in np.argsort(along, kind="stable")]
    gaps = np.diff(along[order])
    if (gaps < SAME_PLACE).any():
        if np.ptp(along) > SAME_PLACE:
            warn(f"{name} holds several frames of one place; they keep the order of the file")
        return None
    warn_uneven(gaps, name)
    return order


def warn_uneven(gaps: NDArray[np.float64], name: str) -> None:
    """Warns where the gaps between neighbouring slices differ by more than a tenth of their median."""
    middle = float(np.median(gaps))
    if gaps.size and float(np.abs(gaps - middle).max()) > 0.1 * middle:
        warn(
            f"{name} has uneven gaps between slices: {gaps.min():.2f} to {gaps.max():.2f} mm, most {middle:.2f} mm; "
            "slices may be missing"
        )
