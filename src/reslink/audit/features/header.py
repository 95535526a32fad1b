"""What a file says of itself before a pixel is looked at: format, size, mode, compression, scanner and protocol.

Left out on purpose is what follows from the brain in the picture or from the patient: the length of the file (a picture
with more detail takes more bytes), the smallest and largest pixel value, the window and the rescale of MR, the level of the
slice, age and sex.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

from PIL import Image as Pillow
from PIL import JpegImagePlugin

from reslink.files import sha256
from reslink.imaging.decode import HEAD_BYTES, kind_of
from reslink.imaging.limits import MAX_FILE_BYTES, quiet

LARGEST: Final = 1e30

Entry: TypeAlias = str | float
Header: TypeAlias = dict[str, Entry]

# Acquisition and equipment, DICOM PS3.3 C.7.5.1, C.7.6.1 to C.7.6.3, C.8.2.1 (CT Image) and C.8.3.1 (MR Image).
_WORDS: Final = (
    *("Modality", "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "InstitutionName", "StationName"),
    *("DeviceSerialNumber", "ProtocolName", "SeriesDescription", "StudyDescription", "SequenceName", "ScanningSequence"),
    *("SequenceVariant", "ScanOptions", "MRAcquisitionType", "ConvolutionKernel", "FilterType", "BodyPartExamined"),
    *("PatientPosition", "ImageType", "PhotometricInterpretation", "SOPClassUID", "SpecificCharacterSet", "RescaleType"),
    *("ContrastBolusAgent", "RequestingService", "ImplementationVersionName"),
)
_NUMBERS: Final = (
    *("KVP", "SliceThickness", "SpacingBetweenSlices", "MagneticFieldStrength", "RepetitionTime", "EchoTime"),
    *("FlipAngle", "InversionTime", "EchoTrainLength", "PixelBandwidth", "ReconstructionDiameter", "GantryDetectorTilt"),
    *("ExposureTime", "BitsStored", "BitsAllocated", "HighBit", "PixelRepresentation", "SamplesPerPixel"),
    *("PixelPaddingValue"),
)
_NIFTI_CODES: Final = ("datatype", "bitpix", "qform_code", "sform_code", "xyzt_units")


def header_facts(path: str | Path) -> Header:
    """Returns what a file's header says about how it was made.

    Args:
        path: A file that :func:`~reslink.imaging.reading.read_image` has accepted.

    Returns:
        Entry to number, or to a text that stands for a category. The values stay inside the audit: they are never reported.
    """
    source = Path(path)
    if not source.is_file() or source.stat().st_size > MAX_FILE_BYTES:
        return {"format": "folder" if source.is_dir() else "large"}
    data = source.read_bytes()
    kind = kind_of(data[:HEAD_BYTES]) or "unknown"
    try:
        with quiet():
            found = _READERS.get(kind, _nothing)(data)
    except Exception:  # noqa: BLE001 - the libraries below raise dozens of kinds of error for a header that is odd
        found = {"header": "cannot be read"}
    return {"format": kind, **{name: entry for name, entry in found.items() if isinstance(entry, str) or _usable(entry)}}


def _usable(number: float) -> bool:
    """Whether a number can stand in a column: one header that says infinity or 1e60 must not spoil those of all files."""
    return math.isfinite(number) and abs(number) < LARGEST


def _nothing(_: bytes) -> Header:
    return {}


def _size(width: float, height: float) -> Header:
    return {"width": float(width), "height": float(height), "aspect": width / max(height, 1)}


def _of_picture(data: bytes) -> Header:
    picture = Pillow.open(io.BytesIO(data), formats=["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
    facts: Header = {**_size(*picture.size), "mode": picture.mode}
    facts |= {f"holds {key}": 1.0 for key in ("exif", "icc_profile", "comment", "xmp", "jfif", "adobe") if key in picture.info}
    for key in ("dpi", "gamma", "compression"):
        if key in picture.info:
            facts[key] = str(picture.info[key])
    if isinstance(picture, JpegImagePlugin.JpegImageFile):
        facts |= _of_jpeg(picture)
    return facts


def _of_jpeg(picture: JpegImagePlugin.JpegImageFile) -> Header:
    """The quantisation tables tell the quality and often the program that wrote the file."""
    tables = {number: list(table) for number, table in picture.quantization.items()}
    return {
        "JPEG tables": sha256(repr(sorted(tables.items())))[:16],
        "JPEG quantisation": float(sum(tables.get(0, ()))),
        "JPEG sampling": str(JpegImagePlugin.get_sampling(picture)),
        "JPEG progressive": float("progressive" in picture.info or "progression" in picture.info),
    }


def _of_dicom(data: bytes) -> Header:
    from reslink.imaging.dicom.read import parse

    dataset = parse(data, "the file")
    facts: Header = _size(float(dataset.get("Columns", 0)), float(dataset.get("Rows", 0)))
    facts["TransferSyntaxUID"] = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    for word in _WORDS:
        if text := _text(dataset.get(word) or dataset.file_meta.get(word)):
            facts[word] = text
    for word in _NUMBERS:
        if (value := _number(dataset.get(word))) is not None:
            facts[word] = value
    spacing = dataset.get("PixelSpacing")
    if spacing:
        facts["PixelSpacing"] = float(spacing[0])
    groups = {element.tag.group for element in dataset if element.tag.is_private}
    return facts | {f"private group {group:04X}": 1.0 for group in groups}


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip().casefold()


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _of_nifti(data: bytes) -> Header:
    import zlib

    from reslink.imaging.formats import nifti

    zipped = data.startswith(nifti.GZIP)
    head = zlib.decompressobj(wbits=31).decompress(data, 1 << 16) if zipped else data
    header = nifti.header_of(head, "the file")
    facts: Header = _size(float(header["dim"][1]), float(header["dim"][2]))
    facts |= {f"pixdim {axis}": float(header["pixdim"][axis]) for axis in (1, 2, 3)}
    facts |= {name: float(header[name]) for name in _NIFTI_CODES}
    described = bytes(header["descrip"].item()).strip(b"\0 ")
    return facts | {"gzip": float(zipped), "descrip": sha256(described)[:16] if described else ""}


def _of_array(data: bytes) -> Header:
    import numpy as np

    array = np.load(io.BytesIO(data), allow_pickle=False)
    return {**_size(array.shape[-1], array.shape[-2]), "type": str(array.dtype)}


_READERS: Final[dict[str, Callable[[bytes], Header]]] = {
    **dict.fromkeys(("PNG", "JPEG", "TIFF", "WEBP", "BMP"), _of_picture),
    "DICOM": _of_dicom,
    "NIFTI": _of_nifti,
    "NPY": _of_array,
}
