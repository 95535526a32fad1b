"""Read a case that is a series: a folder with a DICOM series, or a file with one or several slices; and choose its slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reslink.errors import InputError, ReslinkError, UsageError, counted, listed
from reslink.imaging.head_mask import head_mask
from reslink.imaging.image import Image, slice_format
from reslink.imaging.limits import MAX_SERIES_PIXELS, MIB, too_large_error
from reslink.imaging.reading import read_image, read_with_geometry
from reslink.imaging.slice_selection import select_slices

NO_HEAD: Final = "no slice shows a head"

_SHOWN_SERIES: Final = 3


@dataclass(frozen=True, eq=False)
class SeriesSlices:
    """The slices of a series that a network sees.

    Attributes:
        planes: The chosen slices (H, W), ordered by slice position.
        positions: Position of each in the whole series, from 0.
        files: File of each.
        count: Number of readable slices of the series.
        unreadable: Why a file of the series could not be used, one message each, with its name.
        notes: What the files do not state and was assumed, and remarks about the series.
    """

    planes: tuple[Image, ...]
    positions: tuple[int, ...]
    files: tuple[Path, ...]
    count: int
    unreadable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_series_slices(path: Path | Sequence[Path], name: str, unit: str | None = None) -> SeriesSlices:
    """Reads the slices of one series by the rules of prediction.

    Args:
        path: A folder with the DICOM files of one series; a file: a volume, several frames, or a single slice; or the files of
            one series.
        name: Its name for messages.
        unit: As for ``read_image``.

    Raises:
        InputError: If nothing can be read, no slice shows a head, or a folder holds several series or slices that form none.
    """
    slices, unreadable, notes = _slices_of(path, name, unit)
    chosen = select_slices([int(head_mask(plane).sum()) for _, plane in slices])
    if not chosen:
        raise InputError(
            f"{name} has {counted(len(slices), 'slice')}, and {NO_HEAD}",
            "A case needs a slice with a head",
            "Remove its row, or check the unit of its values",
        )
    return SeriesSlices(
        planes=tuple(slices[i][1] for i in chosen),
        positions=chosen,
        files=tuple(slices[i][0] for i in chosen),
        count=len(slices),
        unreadable=tuple(unreadable),
        notes=tuple(dict.fromkeys([*(note for _, plane in slices for note in plane.notes), *notes])),
    )


_Slices = list[tuple[Path, Image]]


def _slices_of_file(path: Path, unit: str | None) -> tuple[_Slices, list[str], Sequence[str]]:
    return [(path, plane) for plane in read_image(path, unit).slices()], [], ()


def _slices_of(path: Path | Sequence[Path], name: str, unit: str | None) -> tuple[_Slices, list[str], Sequence[str]]:
    if not isinstance(path, Path):
        return _slices_of_files(path, name, unit)
    if not path.is_dir():
        return _slices_of_file(path, unit)
    from reslink.imaging.dicom.series import dicom_files

    files = dicom_files(path)
    if not files:
        raise InputError(
            f"{name} is a folder without DICOM files",
            "A case is a folder with the DICOM files of one series, or a file",
            "Write the path of the volume, or of the folder that contains the slices",
        )
    return _slices_of_files(files, name, unit)


def _slices_of_files(files: Sequence[Path], name: str, unit: str | None) -> tuple[_Slices, list[str], Sequence[str]]:
    from reslink.imaging.dicom.geometry import warn_uneven_spacing
    from reslink.imaging.dicom.series import group_slices

    if len(files) == 1:
        return _slices_of_file(files[0], unit)
    members, unreadable = _read_files(files, unit, name)
    members = [member for member in members if not member[2].get("excluded")] or members
    if len(members) == 1:
        return [(members[0][0], plane) for plane in members[0][1].slices()], unreadable, ()
    _check_single_slices(members, name)
    groups = group_slices([(geometry, slice_format(image)) for _, image, geometry in members])
    outside = set(range(len(members))) - {i for group in groups for i in group.indices}
    single = [i for i in outside if members[i][2].get("position") is not None]
    if len(groups) + len(single) > 1:
        raise _several_series(
            [*((members[g.indices[0]][0], len(g.indices)) for g in groups), *((members[i][0], 1) for i in single)], name
        )
    if not groups or groups[0].refusal is not None:
        why = groups[0].refusal if groups else "its slices state no position"
        raise InputError(
            f"{name} cannot be used as a series: {why}",
            "The files of a case are parallel slices of one series, at different positions",
            "Remove the other files from the folder, or its row from the table",
        )
    unreadable += [f"{members[i][0].name} states no position of its slice" for i in sorted(outside)]
    warn_uneven_spacing(groups[0].gaps, name)
    return [members[i][:2] for i in groups[0].indices], unreadable, groups[0].notes


_Member = tuple[Path, Image, Mapping[str, Any]]


def _read_files(files: Sequence[Path], unit: str | None, name: str) -> tuple[list[_Member], list[str]]:
    """Returns the readable files, and the message of each other one.

    Raises:
        InputError: If no file can be read, or the series has too many pixels.
    """
    members: list[_Member] = []
    unreadable: list[str] = []
    pixels = 0
    for file in files:
        try:
            image, geometry = read_with_geometry(file, unit)
        except UsageError:
            raise
        except ReslinkError as error:
            unreadable.append(str(error))
            continue
        pixels += math.prod(image.pixels.shape)
        if pixels > MAX_SERIES_PIXELS:
            raise too_large_error(name, f"has {len(files)} files", f"{MAX_SERIES_PIXELS // MIB} megapixels per series")
        members.append((file, image, geometry))
    if not members:
        raise InputError(
            f"None of the {len(files)} DICOM files of {name} can be read",
            "A case needs a readable slice",
            f"The first error: {unreadable[0].removesuffix('.')}",
        )
    return members, unreadable


def _check_single_slices(members: Sequence[_Member], name: str) -> None:
    if any(image.pixels.ndim == 3 for _, image, _ in members):
        raise _several_series([(file, 1 if image.pixels.ndim == 2 else len(image.pixels)) for file, image, _ in members], name)


def _several_series(series: Sequence[tuple[Path, int]], name: str) -> InputError:
    shown = [f"{file.name} ({counted(count, 'slice')})" for file, count in series]
    return InputError(
        f"{name} holds {len(series)} series, with the first files {listed(shown, _SHOWN_SERIES)}",
        "A case is one series, because it has one label",
        "Put the files of each series into a folder of its own, and write one row for each",
    )
