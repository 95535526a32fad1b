"""Read DICOM files in physical values: single frames, multi-frame images, enhanced CT and MR.

Attributes follow PS3.3: C.7.6.3 Image Pixel, C.7.5.1.1.2 Pixel Padding, C.11.1 Modality LUT,
C.11.2 VOI LUT, C.7.6.16 Multi-frame Functional Groups.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, uid
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

from reslink.errors import InputError
from reslink.files import sha256
from reslink.imaging.dicom.file_format import parse_dataset
from reslink.imaging.dicom.frames import NATIVE, stored_frames
from reslink.imaging.dicom.geometry import Plane, frame_orientation, slice_distance, slice_order, slice_plane
from reslink.imaging.dicom.modality import series_exclusion_reason, stated_modality, stated_sequence
from reslink.imaging.image import Image, Modality, Unit
from reslink.imaging.limits import (
    check_rescale,
    check_size,
    damaged_error,
    finite_float32,
    silence_warnings,
    unsupported_error,
)
from reslink.imaging.orientation import AS_STORED, NOT_STATED, Orientation, view_edges
from reslink.imaging.units import NO_HU, image_of_values, stored_as
from reslink.printable_names import printable

PIXEL_ATTRIBUTES = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_HU_TYPES = ("", "HU", "HU_MOD", "US", "HOUNSFIELD", "HOUNSFIELD UNITS")
_MAX_BORDER_HU = 500.0
_MAX_HU = 32767.0  # the highest of 16 signed bits; metal on an extended scale stays below
_MIN_WINDOWED = 1000.0  # the highest value of a picture of 10 bits and more
_MIN_FAT_HU, _MAX_SOFT_HU = -200.0, 100.0  # fat; brain, blood and muscle
_MIN_SATURATED, _MIN_SOFT = (
    0.01,
    0.15,
)  # with a burned-in window, 1 % are the highest value, and few others look like soft tissue
_MAX_DESCRIPTION = 64  # characters, the limit of the value representation LO
_MODALITIES: dict[str, Modality] = {"CT": "CT", "MR": "MR"}


@dataclass(frozen=True)
class Slice:
    """A DICOM file: its image and its position."""

    image: Image
    plane: Plane | None
    series: str
    """Series Instance UID; empty if it is missing."""
    owner: list[str]
    """Study Instance UID, and digests of PatientID and PatientName; each is empty if it is missing."""
    localizer: bool
    excluded: str | None
    """Why it is not part of a series that can be classified; None if it is."""
    thickness: float | None = None
    """Slice Thickness in millimeters; None if it is not stated."""
    description: str = ""
    """Series Description; empty if it is not stated, or contains a part of the patient's name."""
    acquisition: str = ""
    """Acquisition Number; empty if it is not stated."""


def read_dicom(data: bytes, name: str) -> Image:
    """Reads one DICOM file.

    Args:
        data: The whole file.
        name: File name for messages.

    Returns:
        (H, W), or (D, H, W) for several frames, ordered along their normal, in the radiological view if the file states its
        orientation. The unit is HU for CT with a rescale, ``gray`` for color and secondary captures, else ``MR`` (arbitrary
        intensity).

    Raises:
        InputError: If pixels are missing or incomplete, or the header is not plausible.
    """
    return read_slice(data, name).image


def read_slice(data: bytes, name: str) -> Slice:
    """Reads one DICOM file with its position; errors as in :func:`read_dicom`."""
    with silence_warnings():
        dataset = parse_dataset(data, name)
        _check_header(dataset, name)
        stored_plane = slice_plane(dataset)
        plane = None if stored_plane is None else stored_plane.in_view()
        image = _to_image(dataset, name)
        image_type = [str(value).upper() for value in _as_list(dataset.get("ImageType"))]
        excluded, (thickness, description) = series_exclusion_reason(dataset), (_thickness(dataset), _description(dataset))
        plane_name = None if stored_plane is None else stored_plane.name
        image = replace(image, excluded=excluded or image.excluded, sequence=stated_sequence(dataset), plane=plane_name)
        series, study, *names = (
            str(dataset.get(name) or "").strip()
            for name in ("SeriesInstanceUID", "StudyInstanceUID", "PatientID", "PatientName")
        )
        owner = [study, *(name and sha256(name) for name in names)]
        number = str(dataset.get("AcquisitionNumber") or "").strip()
        return Slice(image, plane, series, owner, "LOCALIZER" in image_type, excluded, thickness, description, number)


def _thickness(dataset: Dataset) -> float | None:
    try:
        value = float((_functional_group(dataset, 0, "PixelMeasuresSequence") or dataset).get("SliceThickness") or 0)
    except (TypeError, ValueError):
        return None
    return value if 0 < value < 1e3 else None


def _description(dataset: Dataset) -> str:
    """Returns Series Description for display, without control characters."""
    text = printable(str(dataset.get("SeriesDescription") or "")).strip()[:_MAX_DESCRIPTION]
    parts = [part for part in re.split(r"\W+", str(dataset.get("PatientName") or "")) if len(part) > 2]
    return "" if any(part.casefold() in text.casefold() for part in parts) else text


def _check_header(dataset: Dataset, name: str) -> None:
    if not any(keyword in dataset for keyword in PIXEL_ATTRIBUTES):
        raise InputError(
            f"{name} is a DICOM file without pixels ({_class_name(dataset)})",
            "A DICOM image has pixel data",
            "Use the images of the study; reports, plans and structure sets have no pixels",
        )
    for keyword in ("Rows", "Columns"):
        if not isinstance(dataset.get(keyword), int):
            raise damaged_error(name, f"the DICOM attribute {keyword} is missing")
    dataset.SamplesPerPixel = _checked_int(dataset, "SamplesPerPixel", (1, 3), 1, name)
    if "PixelData" in dataset:
        allocated = _checked_int(dataset, "BitsAllocated", (1, 8, 16, 32), None, name)
        stored = _checked_int(dataset, "BitsStored", range(1, allocated + 1), allocated, name)
        high = _checked_int(dataset, "HighBit", range(stored - 1, allocated), stored - 1, name)
        dataset.BitsStored, dataset.HighBit = stored, high
        dataset.PixelRepresentation = _checked_int(dataset, "PixelRepresentation", (0, 1), 0, name)
        if dataset.SamplesPerPixel == 3 and (allocated > 16 or dataset.PixelRepresentation):
            raise unsupported_error(
                name, "is a color image with 32-bit or signed values", "Color images have 8 or 16 bits per sample"
            )
    else:
        dataset.BitsAllocated = 32 if "FloatPixelData" in dataset else 64
    check_size(dataset.Columns, dataset.Rows, name, _frame_count(dataset, name))


def _class_name(dataset: Dataset) -> str:
    sop_class = dataset.get("SOPClassUID")
    is_known = isinstance(sop_class, uid.UID) and sop_class.is_valid and sop_class.name != sop_class
    return sop_class.name if is_known else "unknown SOP class"


def _checked_int(dataset: Dataset, keyword: str, allowed: tuple[int, ...] | range, default: int | None, name: str) -> int:
    value = dataset.get(keyword)
    if value is None or value == "":
        value = default
    if not isinstance(value, int) or value not in allowed:
        raise damaged_error(name, f"the DICOM attribute {keyword} is {'missing' if value is None else 'not plausible'}")
    return int(value)


def _frame_count(dataset: Dataset, name: str) -> int:
    try:
        return int(dataset.get("NumberOfFrames") or 1)
    except (TypeError, ValueError):
        raise damaged_error(name, "the DICOM attribute NumberOfFrames is not a number") from None


def _as_list(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | int | float) else list(value)


def _functional_group(dataset: Dataset, frame: int, keyword: str) -> Dataset | None:
    """Returns the functional group of a frame, its own before the shared one."""
    for sequence, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        groups = dataset.get(sequence)
        if groups and index < len(groups) and groups[index].get(keyword):
            group = groups[index].get(keyword)[0]
            return group if isinstance(group, Dataset) else None
    return None


def _to_image(dataset: Dataset, name: str) -> Image:
    count = _frame_count(dataset, name)
    photometric = str(dataset.get("PhotometricInterpretation", "")).strip().upper()
    color = photometric == "PALETTE COLOR" or dataset.SamplesPerPixel == 3
    orientation = _frames_orientation(dataset, count, name)
    turn = orientation or AS_STORED
    pixels = np.empty((count, *turn.shape(dataset.Rows, dataset.Columns)), np.float32)
    padding: NDArray[np.bool_] | None = None
    for i, frame in enumerate(stored_frames(dataset, count, name)):
        if color:
            rgb = apply_color_lut(frame, dataset) if photometric == "PALETTE COLOR" else frame
            pixels[i] = turn.to_view(_luminance(rgb))
            continue
        values = mask_unused_bits(frame, dataset)
        mask = _padding(values, dataset)
        if mask is not None:
            padding = np.zeros(pixels.shape, np.bool_) if padding is None else padding
            padding[i] = turn.to_view(mask)
        pixels[i] = turn.to_view(_rescaled(values, dataset, i, name))
    planes = [None if plane is None else plane.in_view() for plane in (slice_plane(dataset, i) for i in range(count))]
    order = slice_order(planes, name) if count > 1 else None
    if order is not None:
        pixels, padding = pixels[order], None if padding is None else padding[order]
    if count == 1:
        pixels, padding = pixels[0], None if padding is None else padding[0]
    unit = "gray" if color else _unit(dataset)
    inverted = photometric == "MONOCHROME1" and unit != "HU"  # HU have one meaning, however they are displayed
    if photometric == "MONOCHROME1" and unit == "HU":
        _check_air(pixels, padding, name)
    image = Image(
        finite_float32(pixels, name),
        unit=unit,
        modality=_MODALITIES.get(stated_modality(dataset)),
        spacing=_spacing(dataset, turn, planes, order),
        white=_white(dataset, photometric) if unit == "gray" else None,
        padding=padding,
        inverted=inverted,
        window=_window(dataset),
        source=name,
        orientation=orientation,
        edges=None if planes[0] is None else view_edges(planes[0].rows, planes[0].columns),
        notes=() if orientation is not None else (NOT_STATED,),
    )
    return image if image.modality != "CT" or image.unit == "gray" else _checked_hu(image, dataset)


def _checked_hu(image: Image, dataset: Dataset) -> Image:
    """Returns a CT image in HU, or one that is excluded from classification as its values are not HU.

    The histogram decides about files that state no rescale, as about formats that state no unit. It also finds values that were
    stored with an offset by a program that states a rescale without it.
    """
    rescale_type = _rescale_type(dataset)
    if rescale_type not in _HU_TYPES:
        return replace(image, excluded=f"its header states that its values are {printable(rescale_type)[:16]}, not HU")
    values = image.pixels if image.padding is None else image.pixels[~image.padding]
    if image.unit == "HU":
        reason = _false_hu(values) if values.size else None
        return image if reason is None else replace(image, unit="MR", excluded=f"its header states HU, but its values {reason}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the note says it, once for a series
        guess = image_of_values(image.pixels, image.source)
    if guess.unit != "HU":
        return replace(image, excluded=NO_HU)
    notes = (*image.notes, "its header states no rescale to HU; its values are read as HU by their histogram")
    return replace(image, pixels=guess.pixels, unit="HU", notes=notes)


def _false_hu(values: NDArray[np.float32]) -> str | None:
    """Returns why values are not HU; None if they may be, such as those of a brain without its skull."""
    if values.max() > _MAX_HU:
        return f"exceed {_MAX_HU:.0f}"
    if _is_windowed(values):
        return "are those of a picture with its window burned in, by their histogram"
    offset = stored_as(values) if values.min() >= 0 else None  # below is air
    return None if offset is None else f"are {offset} by their histogram"


def _is_windowed(values: NDArray[np.float32]) -> bool:
    """Whether many values are equal to the highest one, the bone beyond a window, and few others are those of soft tissue."""
    lowest, highest = float(values.min()), float(values.max())
    if highest < _MIN_WINDOWED or np.mean(values == highest) < _MIN_SATURATED:
        return False
    inner = values[(values > max(lowest, _MIN_FAT_HU)) & (values < highest)]
    return inner.size > 0 and float(np.mean((inner > 0) & (inner < _MAX_SOFT_HU))) < _MIN_SOFT


def _rescale_type(dataset: Dataset) -> str:
    return str(_transformation(dataset, 0).get("RescaleType") or "").strip().upper()


def _frames_orientation(dataset: Dataset, count: int, name: str) -> Orientation | None:
    """Returns how all frames are turned to the radiological view; None if it is not stated."""
    orientations = {frame_orientation(dataset, i) for i in range(count)}
    if len(orientations) > 1:
        raise InputError(
            f"{name} has frames of several orientations",
            "All frames of a file have rows and columns in the same directions",
            "Save the frames of each orientation as separate files",
        )
    return orientations.pop()


def _check_air(pixels: NDArray[np.float32], padding: NDArray[np.bool_] | None, name: str) -> None:
    """Checks that HU stored as MONOCHROME1 are HU: some files have inverted values with the rescale of the original."""
    valid = np.ones(pixels.shape, np.bool_) if padding is None else ~padding
    sides = [pixels[side][valid[side]] for side in (np.s_[..., 0, :], np.s_[..., -1, :], np.s_[..., 0], np.s_[..., -1])]
    border = np.concatenate(sides)
    if border.size and float(np.median(border)) > _MAX_BORDER_HU:
        raise InputError(
            f"{name} is a MONOCHROME1 CT image with {np.median(border):.0f} HU at its border",
            "The border of a CT image is air at -1000 HU; values that were inverted have no unit",
            "Export the file again as MONOCHROME2",
        )


def mask_unused_bits(frame: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Returns a stored native or RLE frame with its unused bits cleared; old files store overlays in them."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if frame.dtype.kind == "f" or (syntax not in NATIVE and syntax != uid.RLELossless):
        return frame
    stored, shift = dataset.BitsStored, dataset.HighBit + 1 - dataset.BitsStored
    if stored == dataset.BitsAllocated or dataset.BitsAllocated == 1:
        return frame
    values = (frame.astype(np.int64) >> shift) & ((1 << stored) - 1)
    if dataset.PixelRepresentation:
        sign = 1 << (stored - 1)
        values = (values ^ sign) - sign
    return np.asarray(values)


def _padding(values: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_] | None:
    if values.dtype.kind == "f":
        return None
    first, last = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if not isinstance(first, int):
        return None
    low, high = sorted(_as_stored(v, dataset) for v in (first, last if isinstance(last, int) else first))
    mask: NDArray[np.bool_] = (values >= low) & (values <= high)
    return mask if mask.any() else None


def _as_stored(value: int, dataset: Dataset) -> int:
    """Returns a padding value with the signedness of the pixels; files often store it with the other one."""
    bits = int(dataset.BitsAllocated)
    value %= 1 << bits
    negative = dataset.PixelRepresentation and value >= 1 << (bits - 1)
    return value - (1 << bits) if negative else value


def _transformation(dataset: Dataset, frame: int) -> Dataset:
    return _functional_group(dataset, frame, "PixelValueTransformationSequence") or dataset


def _rescaled(values: NDArray[Any], dataset: Dataset, frame: int, name: str) -> NDArray[np.float32]:
    if dataset.get("ModalityLUTSequence"):
        return finite_float32(apply_modality_lut(values, dataset), name)
    source = _transformation(dataset, frame)
    slope = _number(source, "RescaleSlope", 1.0, name)
    intercept = _number(source, "RescaleIntercept", 0.0, name)
    check_rescale(slope, intercept, name)
    if (slope, intercept) == (1.0, 0.0):
        return values.astype(np.float32)
    return np.asarray(values * slope + intercept, dtype=np.float32)


def _number(source: Dataset, keyword: str, default: float, name: str) -> float:
    value = source.get(keyword)
    if value is None or value == "":
        return default
    try:
        return float(value)
    except (TypeError, ValueError):
        raise damaged_error(name, f"the DICOM attribute {keyword} is not a number") from None


def _luminance(rgb: NDArray[Any]) -> NDArray[np.float32]:
    """Returns BT.601 luminance as integers; exact if the three channels are equal."""
    red, green, blue = (rgb[..., i].astype(np.int64) for i in range(3))
    return np.asarray((299 * red + 587 * green + 114 * blue + 500) // 1000, dtype=np.float32)


def _unit(dataset: Dataset) -> Unit:
    capture = str(dataset.get("SOPClassUID", "")).startswith(_SECONDARY_CAPTURE)
    source = _transformation(dataset, 0)
    scale = source.get("RescaleSlope"), source.get("RescaleIntercept")
    rescaled = not set(scale) <= {None, ""}
    is_picture = dataset.get("BitsStored", 32) <= (16 if capture else 8) and not dataset.get("PixelRepresentation")
    if is_picture and (capture or not rescaled or scale == (1, 0)):  # 8 bits hold neither air nor bone in HU
        return "gray"
    return "HU" if stated_modality(dataset) == "CT" and rescaled and _rescale_type(dataset) in _HU_TYPES else "MR"


def _white(dataset: Dataset, photometric: str) -> float:
    if photometric == "PALETTE COLOR":
        descriptor = _as_list(dataset.get("RedPaletteColorLookupTableDescriptor"))
        return float(2 ** (16 if len(descriptor) == 3 and int(descriptor[2]) == 16 else 8) - 1)
    return float(2 ** dataset.get("BitsStored", 16) - 1)


def _window(dataset: Dataset) -> tuple[float, float] | None:
    source = _functional_group(dataset, 0, "FrameVOILUTSequence") or dataset
    try:
        center, width = (float(_as_list(source.get(keyword))[0]) for keyword in ("WindowCenter", "WindowWidth"))
    except (IndexError, TypeError, ValueError):
        return None
    return (center, width) if np.isfinite([center, width]).all() and width >= 1 else None


def _spacing(
    dataset: Dataset, turn: Orientation, planes: list[Plane | None], order: list[int] | None
) -> tuple[float, ...] | None:
    measures = _functional_group(dataset, 0, "PixelMeasuresSequence") or dataset
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        try:
            rows, columns = (float(v) for v in _as_list(measures.get(keyword)))
        except (TypeError, ValueError):
            continue
        if not (0 < rows < 1e3 and 0 < columns < 1e3):
            continue
        rows, columns = (columns, rows) if turn.transposed else (rows, columns)
        if len(planes) == 1:
            return rows, columns
        distance = slice_distance([planes[i] for i in order]) if order else None
        return (distance, rows, columns) if distance else None
    return None
