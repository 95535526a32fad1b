"""Read the DICOM files of a folder as one volume, and sort DICOM files by slice position."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from reslink.errors import InputError
from reslink.imaging.decode import HEAD_BYTES, detect_image_format
from reslink.imaging.dicom.geometry import (
    MIN_SLICE_DISTANCE,
    Plane,
    distances_along_normal,
    slice_distance,
    slice_plane,
    warn_uneven_spacing,
)
from reslink.imaging.dicom.header import read_elements_until
from reslink.imaging.image import Image, SliceFormat, slice_format
from reslink.imaging.limits import MAX_SERIES_PIXELS, MIB, check_size, open_regular_file, silence_warnings, too_large_error

Reader = Callable[[Path], tuple[Image, dict[str, Any]]]

_POSITION_TAGS: Final = (0x0020000E, 0x00200032, 0x00200037)
"""Series Instance UID, Image Position Patient and Image Orientation Patient."""

_HEADER_BYTES: Final = 1 << 18

SAME_POSITION: Final = "several of its slices have the same position"
ALTERNATING_ACQUISITIONS: Final = (
    "its slices come from several acquisitions at alternating positions, such as with and without contrast; they are "
    "classified together"
)
SEVERAL_OWNERS: Final = "its slices state several patients or studies"


@dataclass(frozen=True)
class _SeriesSlice:
    path: Path
    image: Image
    plane: Plane
    acquisition: str


def read_first_bytes(path: Path, size: int = HEAD_BYTES) -> bytes:
    """Returns the first bytes of a regular file; empty if it cannot be read."""
    try:
        handle = open_regular_file(path)
    except InputError:
        return b""
    with os.fdopen(handle, "rb") as stream:
        return stream.read(size)


def dicom_files(folder: Path) -> list[Path]:
    """Returns the DICOM files of a folder, detected by content and sorted by name. Hidden files and DICOMDIR are skipped."""
    names = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name.upper() != "DICOMDIR")
    return [path for path in names if detect_image_format(read_first_bytes(path)) == "DICOM"]


def read_folder(folder: Path, read: Reader) -> Image:
    """Reads a folder of DICOM files as a volume.

    Args:
        folder: A folder with the files of one series; files that are not DICOM are ignored.
        read: Reads one file and returns its geometry.

    Returns:
        (D, H, W), ordered along the normal of the slices, from the feet to the head for axial slices.

    Raises:
        InputError: If there are no DICOM files, or a file cannot be read, is a localizer, belongs to another series, has a
            different orientation, size or unit, or has the position of another file.
    """
    paths = dicom_files(folder)
    if not paths:
        raise InputError(
            f"{folder} has no DICOM files",
            "A folder is read as a DICOM series",
            "Use the folder that contains the slices",
        )
    return read_slices(paths, folder, read)[0]


def read_slices(paths: Sequence[Path], folder: Path, read: Reader) -> tuple[Image, list[Path]]:
    """Reads DICOM files as a volume, as :func:`read_folder` does.

    Args:
        paths: At least one file; sorted by name, so that the order is reproducible.
        folder: Their folder, for messages.
        read: As for :func:`read_folder`.

    Returns:
        The volume, and the file of each slice.
    """
    image, geometry = read(paths[0])
    if len(paths) == 1:
        return image, [paths[0]]
    check_size(image.pixels.shape[-1], image.pixels.shape[-2], str(paths[0]), 1)
    if math.prod(image.pixels.shape) * len(paths) > MAX_SERIES_PIXELS:
        raise too_large_error(str(folder), f"has {len(paths)} slices", f"{MAX_SERIES_PIXELS // MIB} megapixels per series")
    first = _series_slice(paths[0], image, geometry)
    slices, owners = [first], [geometry["owner"]]
    for path in paths[1:]:
        image, other_geometry = read(path)
        series_slice = _series_slice(path, image, other_geometry)
        owners.append(other_geometry["owner"])
        same_series = other_geometry["series"] == geometry["series"] and not _are_several(owners)
        _check_consistent(series_slice, first, same_series)
        slices.append(series_slice)
        if first.image.spacing is None:
            first = series_slice
    return _stack(slices, folder)


def _are_several(owners: Iterable[Sequence[str]]) -> bool:
    """Returns whether slices state several studies or patients, who are told by their names only if no slice states an id."""
    studies, ids, names = (set(values) - {""} for values in zip(*owners, strict=True))
    return len(studies) > 1 or len(ids or names) > 1


def _series_error(given: str, allowed: str) -> InputError:
    return InputError(given, allowed, "Put the files of each series into a separate folder")


def _series_slice(path: Path, image: Image, geometry: dict[str, Any]) -> _SeriesSlice:
    if geometry["localizer"]:
        raise _series_error(f"{path} is a localizer", "A series has parallel slices and no localizer")
    if image.pixels.ndim != 2:
        raise _series_error(f"{path} has several frames", "Each file of a series has one slice")
    if geometry["position"] is None:
        raise _series_error(
            f"{path} does not state the position of its slice",
            "Each slice needs ImagePositionPatient and ImageOrientationPatient",
        )
    plane = Plane(*(np.array(geometry[key]) for key in ("position", "rows", "columns")))
    return _SeriesSlice(path, image, plane, geometry["acquisition"])


def _check_consistent(member: _SeriesSlice, first: _SeriesSlice, same_series: bool) -> None:
    pair = f"{member.path} and {first.path}"
    if not same_series:
        raise _series_error(f"{pair} belong to different series, studies or patients", "A folder contains one series")
    if not member.plane.same_direction(first.plane):
        raise _series_error(f"{pair} have different orientations", "The slices of a series are parallel")
    difference = slice_format(member.image).difference(slice_format(first.image))
    if difference:
        raise _series_error(f"{pair} have different {difference}", "The slices of a series have one size, unit and spacing")


def _stack(slices: list[_SeriesSlice], folder: Path) -> tuple[Image, list[Path]]:
    along = distances_along_normal([member.plane for member in slices])
    order = np.argsort(along, kind="stable")
    ordered = [slices[int(i)] for i in order]
    gaps = np.diff(along[order])
    for i in np.flatnonzero(gaps < MIN_SLICE_DISTANCE):
        raise _series_error(
            f"{ordered[i].path} and {ordered[i + 1].path} have the same position", "A series has one slice per position"
        )
    warn_uneven_spacing(gaps, str(folder))
    first = ordered[0].image
    distance = slice_distance([member.plane for member in ordered])
    volume = Image(
        np.stack([member.image.pixels for member in ordered]),
        unit=first.unit,
        modality=first.modality,
        spacing=(distance, *first.spacing) if distance and first.spacing else None,
        white=first.white,
        padding=_stacked_padding(ordered),
        inverted=first.inverted,
        window=first.window,
        source=folder.name,
        orientation=first.orientation,
        notes=tuple(
            dict.fromkeys([*(note for member in ordered for note in member.image.notes), *_acquisition_notes(ordered)])
        ),
        excluded=first.excluded,
        sequence=first.sequence,
        plane=first.plane,
        edges=first.edges,
    )
    return volume, [member.path for member in ordered]


def _acquisition_notes(ordered: Sequence[_SeriesSlice]) -> list[str]:
    return [ALTERNATING_ACQUISITIONS] if _alternate([member.acquisition for member in ordered]) else []


def _alternate(acquisitions: Sequence[str]) -> bool:
    """Whether an acquisition returns after another one. In sequential CT each has a range of positions of its own."""
    blocks = [number for number, previous in zip(acquisitions, [None, *acquisitions], strict=False) if number != previous]
    return len(blocks) > len(set(blocks))


def _stacked_padding(members: Sequence[_SeriesSlice]) -> NDArray[np.bool_] | None:
    if all(member.image.padding is None for member in members):
        return None
    shape = members[0].image.pixels.shape
    return np.stack([np.zeros(shape, np.bool_) if m.image.padding is None else m.image.padding for m in members])


def read_series_uid(path: Path) -> str:
    """Returns the Series Instance UID of a file; empty if it states none, is not DICOM or cannot be read."""
    header = read_elements_until(path, _POSITION_TAGS[0])
    return "" if header is None else str(header.get("SeriesInstanceUID") or "").strip()


def group_files(paths: Sequence[Path]) -> list[list[Path]]:
    """Returns the DICOM files of each series, ordered along the normal of their slices.

    Files with an unreadable header, without a position or without a Series Instance UID come last, in the given order, each by
    itself.
    """
    series: dict[str, list[tuple[Path, Plane]]] = {}
    unsorted = []
    for path in paths:
        positioned = read_series_position(path)
        if positioned is None:
            unsorted.append(path)
        else:
            series.setdefault(positioned[0], []).append((path, positioned[1]))
    return [along_normal(members) for members in series.values()] + [[path] for path in unsorted]


def read_series_position(path: Path) -> tuple[str, Plane] | None:
    """Returns the Series Instance UID and the plane of a slice, as it is viewed; None if its header does not state both."""
    header = _read_position(path)
    plane = None if header is None else slice_plane(header)
    series_uid = "" if header is None else str(header.get("SeriesInstanceUID") or "").strip()
    return None if plane is None or not series_uid else (series_uid, plane.in_view())


def along_normal(members: Sequence[tuple[Path, Plane]]) -> list[Path]:
    """Returns the files of a series, ordered along the normal of their slices."""
    along = distances_along_normal([plane for _, plane in members])
    return [members[int(i)][0] for i in np.argsort(along, kind="stable")]


class SeriesGroup(NamedTuple):
    """The files of one series.

    Attributes:
        indices: Positions of the files in the given list, ordered along the normal of the slices.
        refusal: Why it cannot be classified as a series; None if it can be.
        gaps: (n - 1,) distances between neighboring slices in millimeters.
        notes: What the reader of the answer should know about the series.
    """

    indices: list[int]
    refusal: str | None
    gaps: NDArray[np.float64]
    notes: tuple[str, ...] = ()


def group_slices(slices: Sequence[tuple[Mapping[str, Any], SliceFormat | None] | None]) -> list[SeriesGroup]:
    """Returns the series in some files with one slice each: two or more parallel slices of the same DICOM series.

    Args:
        slices: Geometry of each file (see ``read_with_geometry``) and its format; None for a file that is not one DICOM slice.

    Returns:
        The series, which are refused for the same reasons as by the DICOM node. A file without a Series Instance UID belongs to
        none.
    """
    series = []
    for refusal, members in _parallel_slices(slices):
        if len(members) < 2:
            continue
        distances = distances_along_normal([plane for _, plane in members])
        order = distances.argsort(kind="stable")
        indices = [members[int(i)][0] for i in order]
        gaps = np.diff(distances[order])
        overlapping = bool((gaps < MIN_SLICE_DISTANCE).any())
        formats = [entry[1] for i in indices if (entry := slices[i]) is not None and entry[1] is not None]
        reason = refusal or (SAME_POSITION if overlapping else _format_difference(formats))
        alternate = _alternate([entry[0].get("acquisition", "") for i in indices if (entry := slices[i]) is not None])
        series.append(SeriesGroup(indices, reason, gaps, (ALTERNATING_ACQUISITIONS,) if alternate and reason is None else ()))
    return series


def _parallel_slices(
    slices: Sequence[tuple[Mapping[str, Any], SliceFormat | None] | None],
) -> list[tuple[str | None, list[tuple[int, Plane]]]]:
    """Returns the slices of each series and direction, as index and plane, with the refusal of the series."""
    groups: dict[tuple[str, str | None], list[list[tuple[int, Plane]]]] = {}
    owners: dict[int, Sequence[str]] = {}
    for i, entry in enumerate(slices):
        if entry is None or entry[0].get("position") is None or not entry[0]["series"]:
            continue
        geometry = entry[0]
        owners[i] = geometry["owner"]
        plane = Plane(*(np.array(geometry[name]) for name in ("position", "rows", "columns")))
        directions = groups.setdefault((geometry["series"], geometry["excluded"]), [])
        group = next((members for members in directions if plane.same_direction(members[0][1])), None)
        if group is None:
            directions.append(group := [])
        group.append((i, plane))
    return [
        (refusal or several, members)
        for (_, refusal), directions in groups.items()
        for group in directions
        for several, members in _split_by_owner(group, owners)
    ]


def _split_by_owner(
    group: list[tuple[int, Plane]], owners: Mapping[int, Sequence[str]]
) -> list[tuple[str | None, list[tuple[int, Plane]]]]:
    """Returns the slices of each patient and study, as some programs write one Series Instance UID into the files of many.

    The slices stay together, with a refusal, if one of them would be a series of its own: programs that remove names may write
    another patient into each file.
    """
    if not _are_several(owners[i] for i, _ in group):
        return [(None, group)]
    parts: dict[tuple[str, str], list[tuple[int, Plane]]] = {}
    for i, plane in group:
        study, patient, name = owners[i]
        parts.setdefault((study, patient or name), []).append((i, plane))
    if any(len(part) < 2 for part in parts.values()):
        return [(SEVERAL_OWNERS, group)]
    return [(None, part) for part in parts.values()]


def _format_difference(formats: list[SliceFormat]) -> str | None:
    formats.sort(key=lambda one: one.spacing is None)  # compares the others with a slice that states its spacing
    difference = next((text for other in formats if (text := formats[0].difference(other))), None)
    return f"its slices have different {difference}" if difference else None


class _LimitedReader(io.BufferedReader):
    """A file that ends after 256 KiB were read; skipped bytes do not count."""

    remaining = _HEADER_BYTES

    def read(self, size: int | None = -1) -> bytes:
        """Returns up to ``size`` bytes, fewer at the end."""
        count = self.remaining if size is None or size < 0 else min(size, self.remaining)
        self.remaining -= count
        return super().read(count)


def _read_position(path: Path) -> Dataset | None:
    """Returns the attributes for the position of a slice; long values before them are skipped."""
    if not read_first_bytes(path, 132).endswith(b"DICM"):
        header = read_elements_until(path, max(_POSITION_TAGS))
        return header if header is not None and "ImagePositionPatient" in header else None
    try:
        with silence_warnings(), _LimitedReader(io.FileIO(open_regular_file(path))) as stream:
            header = read_partial(
                stream,
                stop_when=lambda tag, _vr, _length: int(tag) > max(_POSITION_TAGS),
                specific_tags=[BaseTag(tag) for tag in _POSITION_TAGS],
            )
            return header if "ImagePositionPatient" in header else None
    except Exception:  # noqa: BLE001 - a broken header has no position; reading the file reports the error
        return None
