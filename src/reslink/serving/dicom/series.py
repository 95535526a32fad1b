"""A folder of received DICOM files: which are the slices of a head, and which are not."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from pydicom import Dataset

from reslink.errors import InputError, ReslinkError
from reslink.files import sha256
from reslink.imaging.dicom.geometry import Plane, plane_of
from reslink.imaging.dicom.header import first_elements
from reslink.imaging.dicom.modality import HEAD_WORDS, MODALITIES, OTHER_PART, is_head, refusal_of
from reslink.imaging.dicom.series import dicom_files
from reslink.imaging.head_mask import head_mask
from reslink.imaging.image import Image, Modality
from reslink.imaging.limits import ImagingWarning
from reslink.imaging.reading import read_series_files
from reslink.inference.series import chosen_slices

TILT: Final = 0.5
"""Degrees from which on a gantry counts as tilted."""

HEAD_MM: Final = (90.0, 330.0)
"""Least and largest side of what is taken for a head, in millimetres; a trunk is wider."""

_LAST_TAG: Final = 0x7FDFFFFF
_EMPTY: Final = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
)
_PATTERNS: Final = {
    "PatientBirthDate": r"\d{8}",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?",
    "PatientSex": "[MFO]",
}


class RefusedSeries(InputError):
    """A series that is not a head CT or MR that can be read; says why, and never whose it is."""


@dataclass(frozen=True, eq=False)
class Series:
    """The slices of one head.

    Attributes:
        key: What the log calls it, see :func:`key_of`.
        modality: ``CT`` or ``MR``.
        headers: Of the slices in order along their normal, without pixels; attributes that every object has are there,
            empty where they were missing.
        slices: The images, in the same order.
        chosen: Indices of the slices that are classified, in order.
        notes: What should be known of it, a sentence each, without a full stop; nothing that tells who it is.
    """

    key: str
    modality: Modality
    headers: tuple[Dataset, ...]
    slices: tuple[Image, ...]
    chosen: tuple[int, ...]
    notes: tuple[str, ...]


def key_of(series_uid: str) -> str:
    """Returns the name of a series in logs and in the queue: the first 16 hex digits of the SHA-256 of its UID."""
    return sha256(series_uid)[:16]


def read_head(folder: Path) -> Series:
    """Reads a folder of received files.

    Localisers and what is no image of CT or MR are left out, and noted. Slices of a tilted gantry are classified as they
    are, each in its own plane.

    Args:
        folder: Files of one series, under any names.

    Raises:
        RefusedSeries: If there is no slice of a head in it, or the slices do not make a series.
    """
    paths, notes = _images_of(folder)
    notes += _body_part(_header(paths[0]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ImagingWarning)
        try:
            image, paths = read_series_files(paths, folder)
        except ReslinkError as error:
            raise RefusedSeries(nameless(error.given, folder), error.allowed, error.next_step) from None
    notes += ["the gaps between its slices are uneven" for found in caught if "uneven" in str(found.message)][:1]
    slices, headers = tuple(image.slices()), tuple(_header(path) for path in paths)
    notes += _tilt(headers)
    chosen = _chosen(slices)
    modality = MODALITIES[headers[0].SOPClassUID]
    return Series(key_of(str(headers[0].SeriesInstanceUID)), modality, headers, slices, chosen, tuple(notes))


def _images_of(folder: Path) -> tuple[list[Path], list[str]]:
    """Returns the files that may be slices, and notes on what was left out."""
    kept: list[Path] = []
    left_out: Counter[str] = Counter()
    for path in dicom_files(folder):
        header = first_elements(path, _LAST_TAG)
        why = "cannot be read" if header is None else refusal_of(header)
        if why is None:
            kept.append(path)
        else:
            left_out[why] += 1
    notes = [f"{count} of its files left out: {why}" for why, count in left_out.items()]
    if not kept:
        raise _refused("; ".join(notes) or "it holds no file", "A series of CT or MR slices is classified")
    return kept, notes


def _refused(given: str, allowed: str) -> RefusedSeries:
    return RefusedSeries(given, allowed, "Send the series of axial slices of the head")


def _header(path: Path) -> Dataset:
    """Returns a header that results can be made from: values that no result could carry are emptied."""
    header = first_elements(path, _LAST_TAG) or Dataset()
    for word in _EMPTY:
        if word not in header or header.get(word) is None:
            setattr(header, word, "")
        pattern = _PATTERNS.get(word)
        if pattern and header.get(word) and not re.fullmatch(pattern, str(header.get(word))):
            setattr(header, word, "")
    return header


def _body_part(header: Dataset) -> list[str]:
    """Refuses another part of the body; notes where none is stated."""
    head = is_head(header)
    if head is False:
        raise _refused(OTHER_PART, f"Series of {', '.join(HEAD_WORDS)} are read")
    return [] if head else ["the header does not say which part of the body it is of"]


def nameless(text: str, folder: Path) -> str:
    """Returns a message without the paths below a folder."""
    return re.sub(rf"{re.escape(str(folder))}/?\S*", "a file of the series", text)


def _tilt(headers: Sequence[Dataset]) -> list[str]:
    """Notes where the slices are not stacked along their normal."""
    planes = [plane for plane in map(plane_of, headers) if plane is not None]
    if len(planes) < 2 or len(planes) != len(headers):
        return []
    angle = _angle(planes)
    return [f"tilted gantry ({angle:.0f} degrees): slices are classified as they are"] if angle > TILT else []


def _angle(planes: Sequence[Plane]) -> float:
    """Returns the angle between the normal of the slices and the line along which they lie, in degrees."""
    way = planes[-1].position - planes[0].position
    length = float(np.linalg.norm(way))
    if not length:
        return 0.0
    return float(np.degrees(np.arccos(np.clip(abs(way @ planes[0].normal) / length, 0, 1))))


def _chosen(slices: Sequence[Image]) -> tuple[int, ...]:
    """Returns the slices that are judged; refuses what is no head, or not of a head's size."""
    masks = [head_mask(image) for image in slices]
    areas = [int(mask.sum()) for mask in masks]
    if not any(areas):
        raise _refused("no head was found in any slice", "Slices of a head are classified")
    largest = int(np.argmax(areas))
    _check_side(masks[largest], slices[largest])
    return chosen_slices(areas)


def _check_side(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], image: Image) -> None:
    if image.spacing is None:
        return
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = (np.ptp(rows) + 1) * image.spacing[0], (np.ptp(columns) + 1) * image.spacing[1]
    low, high = HEAD_MM
    if not low <= max(height, width) <= high:
        raise _refused(
            f"what it shows is {height:.0f} by {width:.0f} mm", f"A head is {low:.0f} to {high:.0f} mm on its longer side"
        )
