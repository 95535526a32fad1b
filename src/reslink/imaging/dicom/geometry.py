"""Position, orientation and order of slices in space (DICOM PS3.3 C.7.6.2 Image Plane)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from reslink.imaging.image import Plane as PlaneName
from reslink.imaging.limits import warn
from reslink.imaging.orientation import Orientation, closest_orientation

# Two slices have the same position if their distance along the normal is below this, in millimeters.
MIN_SLICE_DISTANCE = 1e-2
# Cosine of 1 degree, the maximum angle between parallel directions.
MIN_PARALLEL_COSINE = 0.99985
# Cosine of 38 degrees: the normal of a plane with a name is closer than this to an axis of the patient.
_MIN_PLANE_COSINE = 0.79


@dataclass(frozen=True)
class Plane:
    """Position and orientation of a slice.

    Attributes:
        position: (3,) center of the first stored pixel in millimeters, patient coordinates (LPS).
        rows: (3,) unit vector along a row, towards higher columns.
        columns: (3,) unit vector along a column, towards higher rows.
    """

    position: NDArray[np.float64]
    rows: NDArray[np.float64]
    columns: NDArray[np.float64]

    @property
    def normal(self) -> NDArray[np.float64]:
        """(3,) unit vector along which slices are ordered: towards the head for axial slices."""
        cross = np.cross(self.rows, self.columns)
        return np.asarray(cross / np.linalg.norm(cross))

    @property
    def name(self) -> PlaneName | None:
        """``sagittal``, ``coronal`` or ``axial``; None for a plane between two of them."""
        along = np.abs(self.normal)
        names: tuple[PlaneName, ...] = ("sagittal", "coronal", "axial")
        return names[int(along.argmax())] if along.max() > _MIN_PLANE_COSINE else None

    def in_view(self) -> Plane:
        """Returns the plane with the rows and columns of the radiological view; its position stays that of the stored pixel."""
        orientation = closest_orientation(self.rows, self.columns)
        rows, columns = (self.columns, self.rows) if orientation.transposed else (self.rows, self.columns)
        return Plane(
            self.position,
            -rows if orientation.columns_reversed else rows,
            -columns if orientation.rows_reversed else columns,
        )

    def same_direction(self, other: Plane) -> bool:
        """Whether rows and columns are parallel to within a degree."""
        return bool(self.rows @ other.rows > MIN_PARALLEL_COSINE and self.columns @ other.columns > MIN_PARALLEL_COSINE)


def slice_plane(dataset: Dataset, frame: int = 0) -> Plane | None:
    """Returns the plane of a frame, from the functional groups or the data set itself; None if it is not stated."""
    position = _attribute(dataset, frame, "PlanePositionSequence", "ImagePositionPatient")
    directions = _stated_directions(dataset, frame)
    if position is None or directions is None or position.shape != (3,):
        return None
    return Plane(position, *directions)


def frame_orientation(dataset: Dataset, frame: int = 0) -> Orientation | None:
    """Returns how a frame is turned to the radiological view; None if it states no orientation.

    Image Orientation Patient (0020,0037) is used, or else Patient Orientation.

    Patient Orientation (0020,0020) names the directions of rows and columns by letters (PS3.3 C.7.6.1.1.1); the first letter
    is the main direction.
    """
    directions = _stated_directions(dataset, frame) or _named_directions(dataset)
    return None if directions is None else closest_orientation(*directions)


def _stated_directions(dataset: Dataset, frame: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Returns unit vectors along a row and a column from Image Orientation Patient."""
    orientation = _attribute(dataset, frame, "PlaneOrientationSequence", "ImageOrientationPatient")
    if orientation is None or orientation.shape != (6,):
        return None
    rows, columns = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(rows), np.linalg.norm(columns)
    if not all(0.9 < length < 1.1 for length in lengths) or abs(rows @ columns) > 0.1:
        return None
    return rows / lengths[0], columns / lengths[1]


_LETTERS: Final = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "H": (2, 1), "F": (2, -1)}
"""Axis in patient coordinates and sign of each letter of Patient Orientation."""


def _named_directions(dataset: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Returns the main directions of a row and a column from Patient Orientation."""
    values = dataset.get("PatientOrientation")
    names = [] if values is None or isinstance(values, str) else [str(value).strip().upper() for value in values]
    if len(names) != 2 or not all(name and set(name) <= set(_LETTERS) for name in names):
        return None
    vectors = np.zeros((2, 3))
    for vector, name in zip(vectors, names, strict=True):
        axis, sign = _LETTERS[name[0]]
        vector[axis] = sign
    return None if vectors[0] @ vectors[1] else (vectors[0], vectors[1])


def _attribute(dataset: Dataset, frame: int, sequence: str, keyword: str) -> NDArray[np.float64] | None:
    sources = []
    for groups, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(groups)
        if items and index < len(items) and items[index].get(sequence):
            sources.append(items[index].get(sequence)[0])
    for source in [*sources, dataset]:
        try:
            values = np.array([float(v) for v in source.get(keyword) or ()])
        except (TypeError, ValueError):
            continue
        if values.size and np.isfinite(values).all():
            return values
    return None


def distances_along_normal(planes: Sequence[Plane]) -> NDArray[np.float64]:
    """Returns (n,) the distance of each slice along the normal of the first, in millimeters."""
    normal = planes[0].normal
    return np.array([plane.position @ normal for plane in planes])


def slice_distance(planes: Sequence[Plane | None]) -> float | None:
    """Returns the median distance between neighboring slices in millimeters; None if a slice has no position."""
    stated = [plane for plane in planes if plane is not None]
    if len(stated) < 2 or len(stated) != len(planes):
        return None
    distance = float(np.median(np.abs(np.diff(distances_along_normal(stated)))))
    return distance if distance > MIN_SLICE_DISTANCE else None


def slice_order(planes: Sequence[Plane | None], name: str) -> list[int] | None:
    """Returns the order of the frames of one file along their normal, or None to keep the order of the file.

    The order of the file is kept if frames have no position, are not parallel, or share a position (time series, diffusion);
    the last two cases cause a warning.
    """
    stated = [plane for plane in planes if plane is not None]
    if len(stated) < len(planes) or len(stated) < 2:
        return None
    along = distances_along_normal(stated)
    if not all(plane.same_direction(stated[0]) for plane in stated):
        warn(f"{name} has frames of several orientations; they keep the order of the file")
        return None
    order = [int(i) for i in np.argsort(along, kind="stable")]
    gaps = np.diff(along[order])
    if (gaps < MIN_SLICE_DISTANCE).any():
        if np.ptp(along) > MIN_SLICE_DISTANCE:
            warn(f"{name} has several frames at one position; they keep the order of the file")
        return None
    warn_uneven_spacing(gaps, name)
    return order


def warn_uneven_spacing(gaps: NDArray[np.float64], name: str) -> None:
    """Warns if the gaps between neighboring slices differ by more than a tenth of their median."""
    median = float(np.median(gaps))
    if gaps.size and float(np.abs(gaps - median).max()) > 0.1 * median:
        warn(
            f"{name} has uneven gaps between slices: {gaps.min():.2f} to {gaps.max():.2f} mm, median {median:.2f} mm; "
            "slices may be missing"
        )
