"""Detect the format of image data from its first bytes, and decode it."""

from __future__ import annotations

import importlib
import zlib
from typing import Any

from reslink.imaging.image import Image, Unit
from reslink.imaging.limits import GZIP
from reslink.imaging.units import with_stated_unit

RASTER = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
HEAD_BYTES = 1024
_MAGIC = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "NPY": (b"\x93NUMPY",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
_BMP_HEADER_SIZES = (12, 40, 52, 56, 108, 124)
_VALUE_REPRESENTATIONS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)
_UNSUPPORTED = (
    (b"GIF8", "GIF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"NRRD000", "NRRD"),
    (b"ObjectType", "MetaImage (MHA, MHD)"),
    (b"NDims", "MetaImage (MHA, MHD)"),
    (b"P5", "Netpbm (PGM, PPM, PBM)"),
    (b"P6", "Netpbm (PGM, PPM, PBM)"),
    (b"MATRIX7", "ECAT"),
    (b"SIMPLE  =", "FITS"),
)
_HEIF_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1")


def detect_image_format(head: bytes) -> str | None:
    """Returns the format from the first 1024 bytes: a member of ``RASTER``, NPY, DICOM, NIFTI, or None if it is unknown."""
    for file_format in ("PNG", "JPEG", "NPY"):
        if head.startswith(_MAGIC[file_format]):
            return file_format
    if _is_dicom(head):
        return "DICOM"  # before TIFF, because a DICOM file may contain a TIFF header in its preamble
    if head.startswith(_MAGIC["TIFF"]):
        return "TIFF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == GZIP:
        return _detect_gzipped_format(head)
    if _is_nifti(head):
        return "NIFTI"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    return None


def unsupported_format(head: bytes) -> str | None:
    """Returns the name of an image format that reslink does not read, from the first 1024 bytes; None if it is unknown."""
    if head[:2] == GZIP:
        inner = _inflate_head(head)
        name = unsupported_format(inner) if inner[:2] != GZIP else None
        supported = detect_image_format(inner) if inner[:2] != GZIP else None
        name = supported if supported in (*RASTER, "NPY") else name
        return None if name is None else f"gzipped {name}"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return "HEIF (HEIC, AVIF)"
    if _is_mgh(head):
        return "FreeSurfer MGH (MGH, MGZ)"
    if len(head) >= 348 and head[:4] in (b"\x5c\1\0\0", b"\0\0\1\x5c") and not _is_nifti(head):
        return "Analyze 7.5 header (HDR)"
    for magic, name in _UNSUPPORTED:
        if head.startswith(magic) and (magic not in (b"P5", b"P6") or head[2:3].isspace()):
            return name
    return None


def _is_nifti(head: bytes) -> bool:
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def _is_mgh(head: bytes) -> bool:
    """Whether data begins as an MGH volume: version 1, four sizes, and a type from 0 to 4, all big endian."""
    version, *sizes, kind = (int.from_bytes(head[4 * i : 4 * i + 4], "big") for i in range(6))
    return len(head) >= 284 and version == 1 and all(0 < size < 1 << 15 for size in sizes) and kind <= 4


def _detect_gzipped_format(head: bytes) -> str | None:
    """Returns DICOM or NIFTI for such a file in gzip, also if too little can be inflated to tell; None for other content."""
    inner = _inflate_head(head)
    if len(inner) < 348:
        return "NIFTI"
    return next((name for name in ("DICOM", "NIFTI") if inner[:2] != GZIP and detect_image_format(inner) == name), None)


def _inflate_head(head: bytes) -> bytes:
    """Returns the first bytes of gzipped data."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
    except zlib.error:
        return b""


def _is_dicom(head: bytes) -> bool:
    """Whether data is DICOM: with a preamble, without one (group 2 or DICM first), or a data set without meta information."""
    if head[128:132] == b"DICM" or head[:6] == b"DICM\2\0":
        return True
    if len(head) < 16:
        return False
    if head[:2] == b"\0\x08":  # explicit VR big endian
        return head[2] == 0 and head[4:6] in _VALUE_REPRESENTATIONS
    group, explicit = head[:2], head[4:6] in _VALUE_REPRESENTATIONS
    if head[3] != 0 or group not in (b"\2\0", b"\x08\0"):
        return False
    return explicit or int.from_bytes(head[4:8], "little") <= 64


def decode(file_format: str, data: bytes, name: str, unit: Unit | None = None) -> tuple[Image, dict[str, Any]]:
    """Decodes the content of a file.

    Args:
        file_format: Result of :func:`detect_image_format`, or ``SLICE`` for a DICOM file of a series.
        data: The whole file.
        name: File name for messages.
        unit: The unit stated by the user, for files that state none.

    Returns:
        The image, and for ``SLICE`` its geometry: ``position``, ``rows``, ``columns``, ``series``, ``localizer``,
        ``excluded``, the reason why the file is not part of a series that can be classified, or None, ``thickness`` in
        millimeters and the ``description`` of the series.
    """
    if file_format == "SLICE":
        image, geometry = _decode_slice(data, name)
        return with_stated_unit(image, unit), geometry
    if file_format in RASTER:
        from reslink.imaging.formats.raster import read_raster

        return read_raster(file_format, data, name, unit), {}
    if file_format == "NPY":
        from reslink.imaging.formats.numpy_array import read_array

        return read_array(data, name, unit), {}
    if file_format == "NIFTI":
        from reslink.imaging.formats.nifti import read_nifti

        return read_nifti(data, name, unit), {}
    from reslink.imaging.dicom.read import read_dicom

    return with_stated_unit(read_dicom(data, name), unit), {}


def import_decoder(file_format: str) -> None:
    """Imports the decoder of a format, so that the import does not count as decoding time."""
    modules = {"NPY": "formats.numpy_array", "NIFTI": "formats.nifti", "DICOM": "dicom.read", "SLICE": "dicom.read"}
    importlib.import_module(f"reslink.imaging.{modules.get(file_format, 'formats.raster')}")


def _decode_slice(data: bytes, name: str) -> tuple[Image, dict[str, Any]]:
    from reslink.imaging.dicom.read import read_slice

    dicom_slice = read_slice(data, name)
    plane = dicom_slice.plane
    return dicom_slice.image, {
        "position": None if plane is None else plane.position.tolist(),
        "rows": None if plane is None else plane.rows.tolist(),
        "columns": None if plane is None else plane.columns.tolist(),
        "series": dicom_slice.series,
        "owner": dicom_slice.owner,
        "localizer": dicom_slice.localizer,
        "excluded": dicom_slice.excluded,
        "thickness": dicom_slice.thickness,
        "description": dicom_slice.description,
        "acquisition": dicom_slice.acquisition,
    }


def decodes_in_process(file_format: str, data: bytes, name: str) -> bool:
    """Whether data is small and simple enough to be decoded in this process."""
    from reslink.imaging.limits import MAX_IN_PROCESS_BYTES, MAX_IN_PROCESS_DICOM_BYTES

    if file_format == "NPY":
        return True
    if file_format in ("DICOM", "SLICE"):
        from reslink.imaging.dicom.file_format import is_simple

        return len(data) <= MAX_IN_PROCESS_DICOM_BYTES and is_simple(data)
    if file_format in ("PNG", "JPEG", "BMP") and len(data) <= MAX_IN_PROCESS_BYTES:
        from reslink.imaging.formats.raster import is_small

        return is_small(file_format, data, name)
    return False
