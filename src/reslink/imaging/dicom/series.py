"""A folder of DICOM files as one volume, and the order of such files."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from reslink.errors import InputError
from reslink.imaging.decode import HEAD_BYTES, kind_of
from reslink.imaging.dicom.geometry import SAME_PLACE, Plane, distances, plane_of, step_of, warn_uneven
from reslink.imaging.image import Image, likeness_of
from reslink.imaging.limits import MAX_SERIES_PIXELS, MIB, check_size, open_regular, quiet, too_large

Reader = Callable[[Path], tuple[Image, dict[str, Any]]]

_PLACE: Final = (0x0020000E, 0x00200032, 0x00200037)
"""Series Instance UID, Image Position Patient and Image Orientation Patient."""

_HEADER_BYTES: Final = 1 << 18


@dataclass(frozen=True)
class _Member:
    path: Path
    image: Image
    plane: Plane


def head_of(path: Path, size: int = HEAD_BYTES) -> bytes:
    """Returns the first bytes of a regular file, nothing where it cannot be read."""
    try:
        handle = open_regular(path)
    except InputError:
        return b""
    with os.fdopen(handle, "rb") as stream:
        return stream.read(size)


def dicom_files(folder: Path) -> list[Path]:
    """Returns the DICOM files of a folder by content, sorted by name; hidden files and DICOMDIR are skipped."""
    names = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name.upper() != "DICOMDIR")
    return [path for path in names if kind_of(head_of(path)) == "DICOM"]


def read_folder(folder: Path, read: Reader) -> Image:
    """Reads a folder of DICOM files as a volume.

    Args:
        folder: Holds the files of one series; files that are not DICOM are ignored.
        read: Reads one file and says where it lies.

    Returns:
        (D, H, W) in order along the normal of the slices, from the feet to the head for axial ones.

    Raises:
        InputError: If there is no DICOM file, or a file cannot be read, is a localiser, belongs to another series, has
            another orientation, size or unit, or lies where another one lies.
    """
    paths = dicom_files(folder)
    if not paths:
        raise InputError(
            f"{folder} holds no DICOM file",
            "A folder is read as a DICOM series",
            "Give the folder that holds the slices",
        )
    return read_files(paths, folder, read)[0]


def read_files(paths: Sequence[Path], folder: Path, read: Reader) -> tuple[Image, list[Path]]:
    """Reads DICOM files as a volume, as :func:`read_folder` does.

    Args:
        paths: At least one file; sorted by name, so that the same files give the same order.
        folder: Where they lie, for messages.
        read: As for :func:`read_folder`.

    Returns:
        The volume, and the file of each of its slices.
    """
    image, facts = read(paths[0])
    if len(paths) == 1:
        return image, [paths[0]]
    check_size(image.pixels.shape[-1], image.pixels.shape[-2], str(paths[0]), 1)
    if math.prod(image.pixels.shape) * len(paths) > MAX_SERIES_PIXELS:
        raise too_large(str(folder), f"holds {len(paths)} slices", f"{MAX_SERIES_PIXELS // MIB} megapixels a series")
    first = _member(paths[0], image, facts)
    members = [first]
    for path in paths[1:]:
        image, others = read(path)
        member = _member(path, image, others)
        _check_alike(member, first, others["series"] == facts["series"])
        members.append(member)
        if first.image.spacing is None:
            first = member
    return _stack(members, folder)


def _refuse(given: str, allowed: str) -> InputError:
    return InputError(given, allowed, "Put the files of one series into a folder of their own")


def _member(path: Path, image: Image, facts: dict[str, Any]) -> _Member:
    if facts["localizer"]:
        raise _refuse(f"{path} is a localiser", "A series holds parallel slices and no localiser")
    if image.pixels.ndim != 2:
        raise _refuse(f"{path} holds several frames", "A series is made of files of one slice each")
    if facts["position"] is None:
        raise _refuse(
            f"{path} does not say where its slice lies",
            "Each slice has ImagePositionPatient and ImageOrientationPatient",
        )
    return _Member(path, image, Plane(*(np.array(facts[word]) for word in ("position", "rows", "columns"))))


def _check_alike(member: _Member, first: _Member, same_series: bool) -> None:
    pair = f"{member.path} and {first.path}"
    if not same_series:
        raise _refuse(f"{pair} belong to different series", "A folder is read as one series")
    if not member.plane.same_direction(first.plane):
        raise _refuse(f"{pair} have different orientations", "The slices of a series are parallel")
    different = likeness_of(member.image).difference(likeness_of(first.image))
    if different:
        raise _refuse(f"{pair} have different {different}", "The slices of a series have one size, unit and spacing")


def _stack(members: list[_Member], folder: Path) -> tuple[Image, list[Path]]:
    along = distances([member.plane for member in members])
    order = np.argsort(along, kind="stable")
    ordered = [members[int(i)] for i in order]
    gaps = np.diff(along[order])
    for i in np.flatnonzero(gaps < SAME_PLACE):
        raise _refuse(f"{ordered[i].path} and {ordered[i + 1].path} lie in the same place", "A series has one slice a position")
    warn_uneven(gaps, str(folder))
    first = ordered[0].image
    step = step_of([member.plane for member in ordered])
    volume = Image(
        np.stack([member.image.pixels for member in ordered]),
        unit=first.unit,
        modality=first.modality,
        spacing=(step, *first.spacing) if step and first.spacing else None,
        white=first.white,
        padding=_stacked_padding(ordered),
        inverted=first.inverted,
        window=first.window,
        source=folder.name,
    )
    return volume, [member.path for member in ordered]


def _stacked_padding(members: Sequence[_Member]) -> NDArray[np.bool_] | None:
    if all(member.image.padding is None for member in members):
        return None
    shape = members[0].image.pixels.shape
    return np.stack([np.zeros(shape, np.bool_) if m.image.padding is None else m.image.padding for m in members])


def sorted_by_position(paths: Sequence[Path]) -> list[Path]:
    """Returns DICOM files by series, those of a series in order along their normal.

    Files whose header cannot be read, or that have no place, keep their order by name, after the others.
    """
    series: dict[str, list[tuple[Path, Plane]]] = {}
    rest = []
    for path in paths:
        header = _place(path)
        plane = None if header is None else plane_of(header)
        if header is None or plane is None:
            rest.append(path)
        else:
            series.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((path, plane))
    result: list[Path] = []
    for members in series.values():
        along = distances([plane for _, plane in members])
        result += [members[int(i)][0] for i in np.argsort(along, kind="stable")]
    return result + rest


class _Skimmed(io.BufferedReader):
    """A file that ends once 256 KiB of it were read; what is skipped does not count."""

    left = _HEADER_BYTES

    def read(self, size: int | None = -1) -> bytes:
        """Returns so many bytes, fewer at the end."""
        wanted = self.left if size is None or size < 0 else min(size, self.left)
        self.left -= wanted
        return super().read(wanted)


def _place(path: Path) -> Dataset | None:
    """Returns the few attributes that say where a slice lies; long values before them are skipped."""
    try:
        with quiet(), _Skimmed(io.FileIO(open_regular(path))) as stream:
            found = read_partial(
                stream,
                stop_when=lambda tag, _vr, _length: int(tag) > max(_PLACE),
                specific_tags=[BaseTag(tag) for tag in _PLACE],
                force=True,
            )
            return found if "ImagePositionPatient" in found else None
    except Exception:  # noqa: BLE001 - a broken header has no place; reading the file will say what is wrong
        return None
