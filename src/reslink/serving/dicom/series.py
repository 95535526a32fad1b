"""Reads the head CT or MR series in a folder of received DICOM files, or refuses it."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import DA, TM

from reslink.errors import InputError, ReslinkError
from reslink.files import sha256
from reslink.imaging.dicom.geometry import Plane, slice_plane
from reslink.imaging.dicom.header import read_elements_until
from reslink.imaging.dicom.modality import (
    HEAD_BODY_PARTS,
    MODALITIES,
    OTHER_BODY_PART,
    header_exclusion_reason,
    is_head,
    stated_modality,
)
from reslink.imaging.dicom.series import dicom_files
from reslink.imaging.head_mask import head_mask, stated_content
from reslink.imaging.image import Image, Modality
from reslink.imaging.limits import ImagingWarning, silence_warnings
from reslink.imaging.reading import read_series_files
from reslink.imaging.slice_selection import select_slices
from reslink.serving.dicom.completeness import IncompletePolicy, missing_slices

TILT_DEGREES: Final = 0.5
"""Smallest gantry angle that is reported as tilted."""

NO_MAP: Final = "the slices state no position or no pixel spacing, so that there is no map"
"""Note of a series without the attributes that place a map."""

HEAD_MM: Final = (90.0, 330.0)
"""Smallest and largest extent of a head in millimeters; a trunk is wider."""

_REQUIRED_UIDS: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
"""Results refer to their images by these."""

_LAST_TAG: Final = 0x7FDFFFFF
_REQUIRED_ATTRIBUTES: Final = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
)
_PATTERNS: Final = {
    "PatientBirthDate": r"\d{8}",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?",
    "PatientSex": "[MFO]",
}
_PARSERS: Final[dict[str, Callable[[str], object]]] = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}


class RefusedSeriesError(InputError):
    """A series that is not a readable head CT or MR. Its message contains no patient data."""


@dataclass(frozen=True, eq=False)
class Series:
    """The slices of one head series.

    Attributes:
        key: Name of the series in the log, see :func:`series_key`.
        modality: ``CT`` or ``MR``.
        headers: Headers of the slices, ordered along their normal, without pixels. Attributes that every DICOM object needs are
            present, but may be empty. Texts are decoded, and Specific Character Set is removed.
        slices: The images, in the same order.
        selected: Indices of the slices to classify, in order.
        notes: Notes for the reader, one sentence each without a full stop, and without patient data.
        incomplete: Why slices of it are missing; empty for a complete series.
        character_set: Specific Character Set of its texts; None without one.
    """

    key: str
    modality: Modality
    headers: tuple[Dataset, ...]
    slices: tuple[Image, ...]
    selected: tuple[int, ...]
    notes: tuple[str, ...]
    incomplete: tuple[str, ...] = ()
    character_set: str | list[str] | None = None

    @property
    def is_placed(self) -> bool:
        """Whether every slice has a position and a pixel spacing, without which there is no map."""
        return self.slices[0].spacing is not None and all(slice_plane(header) is not None for header in self.headers)

    @cached_property
    def content(self) -> tuple[str, ...]:
        """Digests of everything that results depend on: pixels, and the patient and study that they are filed under."""
        pixels = [sha256(image.pixels.tobytes()) for image in self.slices]
        names = (*_REQUIRED_UIDS, *_REQUIRED_ATTRIBUTES)
        headers = [sha256("\0".join(str(header.get(name)) for name in names)) for header in self.headers]
        return (*sorted(headers), *sorted(pixels))


def series_key(series_uid: str) -> str:
    """Returns the key of a series in logs and in the queue: the first 16 hex digits of the SHA-256 of its UID."""
    return sha256(series_uid)[:16]


def read_head_series(
    folder: Path, *, not_stored: int = 0, replaced: int = 0, missing: Sequence[str] = (), policy: IncompletePolicy = "mark"
) -> Series:
    """Reads a folder of received files.

    Localizers and other objects than CT or MR images are left out, with a note. Slices of a tilted gantry are classified
    without correction, each in its own plane.

    Args:
        folder: Files of one series, with any file names.
        not_stored: Number of its instances that arrived and are not in the folder.
        replaced: Number of its instances that arrived again with other content.
        missing: What is known about missing slices, in addition to what the headers tell.
        policy: Whether an incomplete series is read, or refused.

    Raises:
        RefusedSeriesError: If no slice shows a head, the slices do not form a series, or it is refused as incomplete.
    """
    incomplete = (*missing, *missing_by_headers(folder, not_stored))
    if incomplete and policy == "refuse":
        raise RefusedSeriesError(
            f"the series is incomplete: {'; '.join(incomplete)}",
            "Only complete series are classified with --incomplete refuse",
            "Send the whole series again, or use --incomplete mark",
        )
    paths, notes = _image_files(folder)
    notes += _check_body_part(_header(paths[0]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ImagingWarning)
        try:
            image, paths = read_series_files(paths, folder)
        except ReslinkError as error:
            raise RefusedSeriesError(redact_paths(error.given, folder), error.allowed, error.next_step) from None
    notes += ["the gaps between its slices are uneven" for warning in caught if "uneven" in str(warning.message)][:1]
    notes += image.notes
    if replaced:
        notes.append(f"{replaced} of its instances arrived again with other content; the last ones are used")
    slices, headers = tuple(image.slices()), tuple(_header(path) for path in paths)
    _check_content(image, slices, headers)
    notes += _tilt_notes(headers)
    selected = _select_head_slices(slices)
    modality = MODALITIES[headers[0].SOPClassUID]
    key = series_key(str(headers[0].SeriesInstanceUID))
    series = Series(key, modality, headers, slices, selected, tuple(notes), incomplete, _remove_character_set(headers))
    return series if series.is_placed else replace(series, notes=(*series.notes, NO_MAP))


def _check_content(image: Image, slices: Sequence[Image], headers: Sequence[Dataset]) -> None:
    """Refuses images that are not CT numbers, and slices that results cannot refer to or place."""
    excluded = stated_content(image).excluded
    if excluded is not None:
        raise _refusal(excluded, "Only slices of head CT in HU and head MR are classified")
    if len(slices) != len(headers):
        raise _refusal("one of its files has several frames", "Each file of a series has one slice")
    if len({str(header.SOPInstanceUID) for header in headers}) < len(headers):
        raise _refusal("several of its slices have the same SOP Instance UID", "A UID identifies one slice")
    if len({str(uid) for header in headers if (uid := header.get("FrameOfReferenceUID"))}) > 1:
        raise _refusal("its slices have several frames of reference", "The positions of a series have one frame of reference")


def _remove_character_set(headers: Sequence[Dataset]) -> str | list[str] | None:
    """Decodes the texts of headers, and returns their character set: that of the first.

    highdicom accepts fewer values than there are, and none that begins with an empty one, as in Japan and Korea.
    """
    values = headers[0].get("SpecificCharacterSet")
    with silence_warnings():  # pydicom quotes invalid values
        for header in headers:
            header.decode()
            header.pop("SpecificCharacterSet", None)
    return [str(value or "") for value in values] if isinstance(values, MultiValue) else str(values or "") or None


def missing_by_headers(folder: Path, not_stored: int = 0) -> list[str]:
    """Returns why slices of a series are missing, as far as its headers tell.

    Args:
        folder: Files of one series.
        not_stored: Number of its instances that arrived and are not in the folder.
    """
    paths = dicom_files(folder)
    headers = [header for path in paths if (header := read_elements_until(path, _LAST_TAG)) is not None]
    with silence_warnings():  # pydicom quotes invalid values
        slices = [header for header in headers if header_exclusion_reason(header) is None]
        return missing_slices(slices, len(paths) + not_stored)


def _image_files(folder: Path) -> tuple[list[Path], list[str]]:
    """Returns the files that may be slices, and notes about the other files."""
    kept: list[Path] = []
    left_out: Counter[str] = Counter()
    for path in dicom_files(folder):
        header = read_elements_until(path, _LAST_TAG)
        reason = "cannot be read" if header is None else header_exclusion_reason(header) or _missing_uid(header)
        if reason is None:
            kept.append(path)
        else:
            left_out[reason] += 1
    notes = [f"{count} of its files left out: {reason}" for reason, count in left_out.items()]
    if not kept:
        raise _refusal("; ".join(notes) or "it has no file", "Only series of CT or MR slices are classified")
    return kept, notes


def _missing_uid(header: Dataset) -> str | None:
    """Returns a reason to leave a file out if results cannot refer to it."""
    name = next((name for name in _REQUIRED_UIDS if not header.get(name) or not isinstance(header.get(name), str)), None)
    return None if name is None else f"its header has no {name}, by which results refer to it"


def _refusal(given: str, allowed: str) -> RefusedSeriesError:
    return RefusedSeriesError(given, allowed, "Send a series of axial slices of the head")


def _header(path: Path) -> Dataset:
    """Returns a header that results can be created from. Invalid values become empty."""
    header = read_elements_until(path, _LAST_TAG) or Dataset()
    header.Modality = stated_modality(header)
    with silence_warnings():  # pydicom quotes invalid values
        for name in _REQUIRED_ATTRIBUTES:
            if header.get(name) is None or not _is_valid(name, header.get(name)):
                setattr(header, name, "")
    return header


def _is_valid(name: str, value: object) -> bool:
    """Returns whether a value of the patient or study can be copied to a result."""
    if name.endswith("Name"):
        return not isinstance(value, MultiValue)
    text = str(value)
    if text and not re.fullmatch(_PATTERNS.get(name, "(?s).*"), text):
        return False
    try:
        return not text or name not in _PARSERS or bool(_PARSERS[name](text))
    except ValueError:  # such as a 13th month
        return False


def _check_body_part(header: Dataset) -> list[str]:
    """Refuses a series of another body part; returns a note if the header states none."""
    head = is_head(header)
    if head is False:
        raise _refusal(OTHER_BODY_PART, f"Accepted body parts: {', '.join(HEAD_BODY_PARTS)}")
    return [] if head else ["the header does not state the body part"]


def redact_paths(text: str, folder: Path) -> str:
    """Returns a message without paths below a folder."""
    return re.sub(rf"{re.escape(str(folder))}/?\S*", "a file of the series", text)


def _tilt_notes(headers: Sequence[Dataset]) -> list[str]:
    """Returns a note if the slices are not stacked along their normal."""
    planes = [plane for plane in map(slice_plane, headers) if plane is not None]
    if len(planes) < 2 or len(planes) != len(headers):
        return []
    angle = _tilt_angle(planes)
    return [f"tilted gantry ({angle:.0f} degrees): slices are classified without correction"] if angle > TILT_DEGREES else []


def _tilt_angle(planes: Sequence[Plane]) -> float:
    """Returns the angle between the slice normal and the stacking direction, in degrees."""
    direction = planes[-1].position - planes[0].position
    length = float(np.linalg.norm(direction))
    if not length:
        return 0.0
    return float(np.degrees(np.arccos(np.clip(abs(direction @ planes[0].normal) / length, 0, 1))))


def _select_head_slices(slices: Sequence[Image]) -> tuple[int, ...]:
    """Returns the slices to classify; refuses slices without a head, or with an object of another size."""
    masks = [head_mask(image) for image in slices]
    areas = [int(mask.sum()) for mask in masks]
    if not any(areas):
        raise _refusal("no slice shows a head", "Only slices of a head are classified")
    largest = int(np.argmax(areas))
    _check_head_size(masks[largest], slices[largest])
    return select_slices(areas)


def _check_head_size(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], image: Image) -> None:
    if image.spacing is None:
        return
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = (np.ptp(rows) + 1) * image.spacing[0], (np.ptp(columns) + 1) * image.spacing[1]
    low, high = HEAD_MM
    if not low <= max(height, width) <= high:
        raise _refusal(
            f"the object in it measures {height:.0f} by {width:.0f} mm",
            f"A head measures {low:.0f} to {high:.0f} mm on its longer side",
        )
