"""Whether slices of a series are missing, by the received slices and by their headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from reslink.errors import counted
from reslink.imaging.dicom.geometry import MIN_SLICE_DISTANCE, Plane, distances_along_normal, slice_plane

IncompletePolicy = Literal["mark", "refuse"]
"""What happens to an incomplete series: it is classified and every result says so, or it is not classified."""

HOLE_RATIO: Final = 1.5
"""A gap between slices of at least this multiple of its neighbors is a hole in the series."""

_WINDOW: Final = 2


def missing_slices(headers: Sequence[Dataset], instances: int) -> list[str]:
    """Returns why slices of a series are missing.

    Args:
        headers: The headers of its slices.
        instances: Number of instances that arrived, also those that are not slices.

    Returns:
        Reasons without patient data; empty for a complete series, as far as its headers tell.
    """
    reasons = _stated_counts(headers, instances)
    holes = _holes(headers)
    if len(holes):
        reasons.append(
            f"{counted(len(holes), 'gap')} between its slices, of up to {holes.max():.1f} mm, where slices are missing"
        )
    return reasons


def _stated_counts(headers: Sequence[Dataset], instances: int) -> list[str]:
    """Compares the number of instances with the numbers that headers state: of the series, or of its acquisition."""
    series = max((_integer(header, "NumberOfSeriesRelatedInstances") or 0 for header in headers), default=0)
    if series:
        return [f"its headers state {series} instances, {instances} arrived"] if series > instances else []
    arrived = Counter(_integer(header, "AcquisitionNumber") for header in headers)
    stated = {_integer(header, "AcquisitionNumber"): _integer(header, "ImagesInAcquisition") or 0 for header in headers}
    return [
        f"its headers state {stated[number]} images of an acquisition, {arrived[number]} arrived"
        for number in stated
        if stated[number] > arrived[number]
    ]


def _integer(header: Dataset, name: str) -> int | None:
    try:
        return int(header.get(name))
    except (TypeError, ValueError):
        return None


def positive_number(header: Dataset, name: str) -> float:
    """Returns a positive number; 0 if it is missing or not valid."""
    try:
        value = float(header.get(name))
    except (TypeError, ValueError):
        return 0.0
    return value if np.isfinite(value) and value > 0 else 0.0


def _holes(headers: Sequence[Dataset]) -> NDArray[np.float64]:
    """Returns the gaps between neighboring slices in which slices are missing, in millimeters.

    Three signs count: a gap larger than its neighbors, so that a stack with two slice distances has no hole; a gap larger than
    the stated distance; and a gap larger than a slice where numbers are missing too.
    """
    planes = [(plane, header) for header in headers if (plane := slice_plane(header)) is not None]
    if len(planes) < 2:
        return np.empty(0)
    along = distances_along_normal([plane for plane, _ in planes])
    order = np.argsort(along, kind="stable")
    order = order[np.diff(along[order], prepend=-np.inf) > MIN_SLICE_DISTANCE]  # one slice of each position
    gaps = np.diff(along[order])
    ordered = [planes[int(i)] for i in order]
    numbers = [_integer(header, "InstanceNumber") for header in headers]
    signs = _larger_than_neighbors(gaps) | _larger_than_stated(gaps, ordered) | _with_missing_numbers(gaps, ordered, numbers)
    return np.asarray(gaps[signs])


def _larger_than_neighbors(gaps: NDArray[np.float64]) -> NDArray[np.bool_]:
    if len(gaps) < 3:
        return np.zeros(len(gaps), np.bool_)
    usual = np.array([np.median(gaps[max(0, i - _WINDOW) : i + _WINDOW + 1]) for i in range(len(gaps))])
    return np.asarray(gaps >= HOLE_RATIO * np.maximum(usual, 1e-3))


def _larger_than_stated(gaps: NDArray[np.float64], ordered: Sequence[tuple[Plane, Dataset]]) -> NDArray[np.bool_]:
    """Compares with SpacingBetweenSlices, unless most gaps contradict it: some scanners store another length there."""
    stated = float(np.median([positive_number(header, "SpacingBetweenSlices") for _, header in ordered]))
    larger = gaps >= HOLE_RATIO * stated
    return larger if stated and larger.mean() <= 0.5 else np.zeros(len(gaps), np.bool_)


def _with_missing_numbers(
    gaps: NDArray[np.float64], ordered: Sequence[tuple[Plane, Dataset]], all_numbers: Sequence[int | None]
) -> NDArray[np.bool_]:
    known = {number for number in all_numbers if number is not None}
    if len(known) < len(all_numbers):
        return np.zeros(len(gaps), np.bool_)
    numbers = [_integer(header, "InstanceNumber") or 0 for _, header in ordered]
    thickness = float(np.median([positive_number(header, "SliceThickness") for _, header in ordered]))
    skips = [abs(a - b) > 1 and known.isdisjoint(range(min(a, b) + 1, max(a, b))) for a, b in pairwise(numbers)]
    return np.array(skips, np.bool_) & (gaps >= HOLE_RATIO * thickness)
