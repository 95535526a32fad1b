"""Read DICOM files in physical values: single frames, multi-frame images, enhanced CT and MR.

Attributes follow PS3.3: C.7.6.3 Image Pixel, C.7.5.1.1.2 Pixel Padding, C.11.1 Modality LUT,
C.11.2 VOI LUT, C.7.6.16 Multi-frame Functional Groups.
"""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, uid
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

from reslink.errors import InputError
from reslink.imaging.dicom.frames import NATIVE, stored_frames
from reslink.imaging.dicom.geometry import Plane, frame_orientation, slice_distance, slice_order, slice_plane
from reslink.imaging.dicom.modality import series_exclusion_reason, stated_sequence
from reslink.imaging.image import Image, Modality, Unit
from reslink.imaging.limits import (
    GZIP,
    MIB,
    check_rescale,
    check_size,
    damaged_error,
    finite_float32,
    silence_warnings,
    too_large_error,
    unsupported_error,
)
from reslink.imaging.orientation import AS_STORED, NOT_STATED, Orientation
from reslink.printable_names import printable

PIXEL_ATTRIBUTES = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_MAX_SIMPLE_ELEMENTS, _MAX_SIMPLE_HEADER = 1000, 1 << 16
_MAX_INFLATED = 160 * MIB  # 64 megapixels of 16 bits, and a header
_LONG_VR = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_HU_TYPES = ("", "HU", "HU_MOD", "US")
_MAX_BORDER_HU = 500.0
_MAX_DESCRIPTION = 64  # characters, the limit of the value representation LO
_MODALITIES: dict[str, Modality] = {"CT": "CT", "MR": "MR"}


def transfer_syntax(data: bytes) -> str:
    """Returns the transfer syntax in the file meta information, or '' (PS3.10, section 7.1)."""
    span = _find_meta(data, 0x0010)
    if span is None:
        return ""
    start, end = span
    return data[start:end].rstrip(b"\0 ").decode("ascii", "replace")


def _find_meta(data: bytes, element: int) -> tuple[int, int] | None:
    """Returns start and end of the value of (0002,element); group 2 is always explicit VR little endian."""
    at = 132
    while data[at : at + 2] == b"\x02\x00" and at + 8 <= len(data):
        number = int.from_bytes(data[at + 2 : at + 4], "little")
        if data[at + 4 : at + 6] in (b"OB", b"UN", b"OW", b"SQ", b"UT"):
            start, length = at + 12, int.from_bytes(data[at + 8 : at + 12], "little")
        else:
            start, length = at + 8, int.from_bytes(data[at + 6 : at + 8], "little")
        if number == element:
            return start, start + length
        at = start + length
    return None


def is_simple(data: bytes) -> bool:
    """Whether a file is simple enough to be read in this process.

    A simple file is uncompressed and little endian, and its elements other than the pixels are few, small and have a defined
    length. Sequences of undefined length are parsed eagerly, and a file of a megabyte can contain 100,000 items.
    """
    if data[:2] == GZIP:
        return False
    data = with_preamble(data, "the file")
    syntax = transfer_syntax(data)
    if syntax not in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian):
        return False
    at, elements, pixels = 132, 0, 0
    while at + 12 <= len(data) and elements <= _MAX_SIMPLE_ELEMENTS:
        explicit = syntax == uid.ExplicitVRLittleEndian or data[at : at + 2] == b"\x02\0"
        if explicit and data[at + 4 : at + 6] not in _LONG_VR:
            start, length = at + 8, int.from_bytes(data[at + 6 : at + 8], "little")
        elif explicit:
            start, length = at + 12, int.from_bytes(data[at + 8 : at + 12], "little")
        else:
            start, length = at + 8, int.from_bytes(data[at + 4 : at + 8], "little")
        if length == 0xFFFFFFFF:
            return False
        pixels += length if data[at : at + 4] == b"\xe0\x7f\x10\0" else 0
        at, elements = start + length, elements + 1
    return elements <= _MAX_SIMPLE_ELEMENTS and len(data) - pixels <= _MAX_SIMPLE_HEADER


def parse_dataset(data: bytes, name: str) -> Dataset:
    """Returns the data set of a file in memory.

    Raises:
        InputError: If it is not DICOM, or a deflated data set is truncated or inflates beyond the limit.
    """
    data = with_preamble(data, name)
    syntax = transfer_syntax(data)
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        data = _inflate(data, name)
    dataset = dcmread(io.BytesIO(data))
    if "TransferSyntaxUID" not in dataset.file_meta:
        explicit = dataset.is_implicit_VR is False
        dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian if explicit else uid.ImplicitVRLittleEndian
    return dataset


def with_preamble(data: bytes, name: str) -> bytes:
    """Returns a file in the form of PS3.10: not gzipped, with a preamble and with file meta information.

    Accepted are files that begin with their file meta information (group 2) or with ``DICM``, and data sets without meta
    information that begin with group 8; their transfer syntax is detected from the first element.

    Raises:
        InputError: If gzipped data is broken, truncated or inflates beyond the limit.
    """
    if data[:2] == GZIP:
        data = _inflate_bounded(data, 31, "gzip", name)
    if data[128:132] == b"DICM":
        return data
    if data[:4] == b"DICM":
        return bytes(128) + data
    if data[:2] == b"\2\0":
        return bytes(128) + b"DICM" + data
    explicit = data[4:6].isalpha() and data[4:6].isupper()
    syntax = uid.ExplicitVRLittleEndian if explicit else uid.ImplicitVRLittleEndian
    value = str(uid.ExplicitVRBigEndian if data[:2] == b"\0\x08" else syntax).encode()
    value += b"\0" * (len(value) % 2)
    return bytes(128) + b"DICM" + b"\2\0\x10\0UI" + len(value).to_bytes(2, "little") + value + data


def _inflate(data: bytes, name: str) -> bytes:
    """Returns a deflated file as an explicit little endian file; pydicom inflates without a limit."""
    syntax, length = _find_meta(data, 0x0010), _find_meta(data, 0x0000)
    if syntax is None or length is None:
        raise damaged_error(name, "its file meta information is broken")
    start = length[1] + int.from_bytes(data[length[0] : length[1]], "little")
    body = _inflate_bounded(data[start:], -15, "deflated", name)
    plain = str(uid.ExplicitVRLittleEndian).encode().ljust(syntax[1] - syntax[0], b"\0")
    return data[: syntax[0]] + plain + data[syntax[1] : start] + body


def _inflate_bounded(data: bytes, wbits: int, kind: str, name: str) -> bytes:
    inflate = zlib.decompressobj(wbits)
    try:
        body = inflate.decompress(data, _MAX_INFLATED)
    except zlib.error as error:
        raise damaged_error(name, f"its {kind} data is broken") from error
    if inflate.unconsumed_tail:
        raise too_large_error(name, "inflates to more than the limit", f"{_MAX_INFLATED} bytes")
    if not inflate.eof:
        raise damaged_error(name, f"its {kind} data is truncated")
    return body


@dataclass(frozen=True)
class Slice:
    """A DICOM file: its image and its position."""

    image: Image
    plane: Plane | None
    series: str
    localizer: bool
    excluded: str | None
    """Why it is not part of a series that can be classified; None if it is."""
    thickness: float | None = None
    """Slice Thickness in millimeters; None if it is not stated."""
    description: str = ""
    """Series Description; empty if it is not stated, or contains a part of the patient's name."""


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
        series = str(dataset.get("SeriesInstanceUID") or "").strip()
        excluded, (thickness, description) = series_exclusion_reason(dataset), (_thickness(dataset), _description(dataset))
        plane_name = None if stored_plane is None else stored_plane.name
        image = replace(image, excluded=excluded, sequence=stated_sequence(dataset), plane=plane_name)
        return Slice(image, plane, series, "LOCALIZER" in image_type, excluded, thickness, description)


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
    return Image(
        finite_float32(pixels, name),
        unit=unit,
        modality=_MODALITIES.get(str(dataset.get("Modality", ""))),
        spacing=_spacing(dataset, turn, planes, order),
        white=_white(dataset, photometric) if unit == "gray" else None,
        padding=padding,
        inverted=inverted,
        window=_window(dataset),
        source=name,
        orientation=orientation,
        notes=() if orientation is not None else (NOT_STATED,),
    )


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
    rescaled = source.get("RescaleSlope") not in (None, "") or source.get("RescaleIntercept") not in (None, "")
    is_picture = dataset.get("BitsStored", 32) <= (16 if capture else 8) and not dataset.get("PixelRepresentation")
    if is_picture and (capture or not rescaled):
        return "gray"
    rescale_type = str(source.get("RescaleType") or "").strip().upper()
    return "HU" if dataset.get("Modality") == "CT" and rescaled and rescale_type in _HU_TYPES else "MR"


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
