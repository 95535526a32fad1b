"""Header features: format, size, mode, compression, scanner and protocol, read without decoding pixels.

Values that depend on the brain or the patient are deliberately excluded: the file size (a picture with more detail takes more
bytes), the smallest and largest pixel value, the window and the rescale of MR, the slice position, age and sex.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

from PIL import Image as Pillow
from PIL import JpegImagePlugin

from reslink.audit.features.content import FileContent
from reslink.files import sha256
from reslink.imaging.limits import GZIP, silence_warnings

MAX_NUMBER: Final = 1e30

HeaderValue: TypeAlias = str | float
HeaderFeatures: TypeAlias = dict[str, HeaderValue]

# Acquisition and equipment, DICOM PS3.3 C.7.5.1, C.7.6.1 to C.7.6.3, C.8.2.1 (CT Image) and C.8.3.1 (MR Image).
_TEXT_ATTRIBUTES: Final = (
    *("Modality", "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "InstitutionName", "StationName"),
    *("DeviceSerialNumber", "ProtocolName", "SeriesDescription", "StudyDescription", "SequenceName", "ScanningSequence"),
    *("SequenceVariant", "ScanOptions", "MRAcquisitionType", "ConvolutionKernel", "FilterType", "BodyPartExamined"),
    *("PatientPosition", "ImageType", "PhotometricInterpretation", "SOPClassUID", "SpecificCharacterSet", "RescaleType"),
    *("ContrastBolusAgent", "RequestingService", "ImplementationVersionName"),
)
_NUMBER_ATTRIBUTES: Final = (
    *("KVP", "SliceThickness", "SpacingBetweenSlices", "MagneticFieldStrength", "RepetitionTime", "EchoTime"),
    *("FlipAngle", "InversionTime", "EchoTrainLength", "PixelBandwidth", "ReconstructionDiameter", "GantryDetectorTilt"),
    *("ExposureTime", "BitsStored", "BitsAllocated", "HighBit", "PixelRepresentation", "SamplesPerPixel"),
    *("PixelPaddingValue"),
)
_NIFTI_CODES: Final = ("datatype", "bitpix", "qform_code", "sform_code", "xyzt_units")


def header_features(source: str | Path | FileContent) -> HeaderFeatures:
    """Returns the header features of a file.

    Args:
        source: A file that :func:`~reslink.imaging.reading.read_image` accepts, or its content.

    Returns:
        Names with numbers, or with text that is treated as a category. The values are used by the audit only and never
        reported.
    """
    content = source if isinstance(source, FileContent) else FileContent.read(source)
    try:
        with silence_warnings():
            features = _READERS.get(content.format, _no_features)(content)
    except Exception:  # noqa: BLE001 - the libraries raise many kinds of errors for a broken header
        features = {"header": "cannot be read"}
    usable = {name: value for name, value in features.items() if isinstance(value, str) or _is_usable(value)}
    return {"format": content.format, **usable}


def _is_usable(number: float) -> bool:
    """Whether a number can be used as a feature: a single infinity or 1e60 would distort the column of all files."""
    return math.isfinite(number) and abs(number) < MAX_NUMBER


def _no_features(_: FileContent) -> HeaderFeatures:
    return {}


def _size_features(width: float, height: float) -> HeaderFeatures:
    return {"width": float(width), "height": float(height), "aspect": width / max(height, 1)}


def _picture_features(content: FileContent) -> HeaderFeatures:
    picture = Pillow.open(io.BytesIO(content.data), formats=["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
    features: HeaderFeatures = {**_size_features(*picture.size), "mode": picture.mode}
    features |= {f"has {key}": 1.0 for key in ("exif", "icc_profile", "comment", "xmp", "jfif", "adobe") if key in picture.info}
    for key in ("dpi", "gamma", "compression"):
        if key in picture.info:
            features[key] = str(picture.info[key])
    if isinstance(picture, JpegImagePlugin.JpegImageFile):
        features |= _jpeg_features(picture)
    return features


def _jpeg_features(picture: JpegImagePlugin.JpegImageFile) -> HeaderFeatures:
    """The quantization tables reveal the quality and often the program that wrote the file."""
    tables = {number: list(table) for number, table in picture.quantization.items()}
    return {
        "JPEG tables": sha256(repr(sorted(tables.items())))[:16],
        "JPEG quantization": float(sum(tables.get(0, ()))),
        "JPEG sampling": str(JpegImagePlugin.get_sampling(picture)),
        "JPEG progressive": float("progressive" in picture.info or "progression" in picture.info),
    }


def _dicom_features(content: FileContent) -> HeaderFeatures:
    dataset = content.dataset
    features: HeaderFeatures = _size_features(float(dataset.get("Columns", 0)), float(dataset.get("Rows", 0)))
    features["TransferSyntaxUID"] = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    for keyword in _TEXT_ATTRIBUTES:
        if text := _text(dataset.get(keyword) or dataset.file_meta.get(keyword)):
            features[keyword] = text
    for keyword in _NUMBER_ATTRIBUTES:
        if (value := _number(dataset.get(keyword))) is not None:
            features[keyword] = value
    spacing = dataset.get("PixelSpacing")
    if spacing:
        features["PixelSpacing"] = float(spacing[0])
    groups = {element.tag.group for element in dataset if element.tag.is_private}
    return features | {f"private group {group:04X}": 1.0 for group in groups}


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip().casefold()


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _nifti_features(content: FileContent) -> HeaderFeatures:
    import zlib

    from reslink.imaging.formats import nifti

    gzipped = content.data.startswith(GZIP)
    head = zlib.decompressobj(wbits=31).decompress(content.data, 1 << 16) if gzipped else content.data
    header = nifti.parse_header(head, "the file")
    features: HeaderFeatures = _size_features(float(header["dim"][1]), float(header["dim"][2]))
    features |= {f"pixdim {axis}": float(header["pixdim"][axis]) for axis in (1, 2, 3)}
    features |= {name: float(header[name]) for name in _NIFTI_CODES}
    description = bytes(header["descrip"].item()).strip(b"\0 ")
    return features | {"gzip": float(gzipped), "descrip": sha256(description)[:16] if description else ""}


def _array_features(content: FileContent) -> HeaderFeatures:
    import numpy as np

    array = np.load(io.BytesIO(content.data), allow_pickle=False)
    return {**_size_features(array.shape[-1], array.shape[-2]), "type": str(array.dtype)}


_READERS: Final[dict[str, Callable[[FileContent], HeaderFeatures]]] = {
    **dict.fromkeys(("PNG", "JPEG", "TIFF", "WEBP", "BMP"), _picture_features),
    "DICOM": _dicom_features,
    "NIFTI": _nifti_features,
    "NPY": _array_features,
}
