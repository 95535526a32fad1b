"""Detect the format of image data from its first bytes, and decode it."""

from __future__ import annotations

import importlib
from typing import Any

from reslink.imaging.image import Image

RASTER = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
HEAD_BYTES = 1024
_MAGIC = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "NPY": (b"\x93NUMPY",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}


def detect_image_format(head: bytes) -> str | None:
    """Returns the format from the first 1024 bytes: a member of ``RASTER``, NPY, DICOM, NIFTI, or None if it is unknown."""
    for file_format in ("PNG", "JPEG", "NPY"):
        if head.startswith(_MAGIC[file_format]):
            return file_format
    if head[128:132] == b"DICM":
        return "DICOM"  # before TIFF, because a DICOM file may contain a TIFF header in its preamble
    if head.startswith(_MAGIC["TIFF"]):
        return "TIFF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"\x1f\x8b" or head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0"):
        return "NIFTI"
    if head[:2] == b"BM" and head[14:18] in (
        b"\x0c\0\0\0",
        b"\x28\0\0\0",
        b"\x34\0\0\0",
        b"\x38\0\0\0",
        b"\x6c\0\0\0",
        b"\x7c\0\0\0",
    ):
        return "BMP"
    return "DICOM" if _is_dicom_without_preamble(head) else None


def _is_dicom_without_preamble(head: bytes) -> bool:
    """Whether data begins with an element of group 8, as DICOM without preamble and meta information does."""
    if len(head) < 16 or head[:2] != b"\x08\0" or head[3] != 0:
        return False
    explicit = head[4:6] in (b"UL", b"CS", b"UI", b"DA", b"TM", b"SH", b"LO")
    return explicit or int.from_bytes(head[4:8], "little") <= 64


def decode(file_format: str, data: bytes, name: str) -> tuple[Image, dict[str, Any]]:
    """Decodes the content of a file.

    Args:
        file_format: Result of :func:`detect_image_format`, or ``SLICE`` for a DICOM file of a series.
        data: The whole file.
        name: File name for messages.

    Returns:
        The image, and for ``SLICE`` its geometry: ``position``, ``rows``, ``columns``, ``series``, ``localizer`` and
        ``excluded``, the reason why the file is not part of a series that can be classified, or None.
    """
    if file_format == "SLICE":
        return _decode_slice(data, name)
    if file_format in RASTER:
        from reslink.imaging.formats.raster import read_raster

        return read_raster(file_format, data, name), {}
    if file_format == "NPY":
        from reslink.imaging.formats.numpy_array import read_array

        return read_array(data, name), {}
    if file_format == "NIFTI":
        from reslink.imaging.formats.nifti import read_nifti

        return read_nifti(data, name), {}
    from reslink.imaging.dicom.read import read_dicom

    return read_dicom(data, name), {}


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
        "localizer": dicom_slice.localizer,
        "excluded": dicom_slice.excluded,
    }


def decodes_in_process(file_format: str, data: bytes, name: str) -> bool:
    """Whether data is small and simple enough to be decoded in this process."""
    from reslink.imaging.limits import MAX_IN_PROCESS_BYTES, MAX_IN_PROCESS_DICOM_BYTES

    if file_format == "NPY":
        return True
    if file_format in ("DICOM", "SLICE"):
        from reslink.imaging.dicom.read import is_simple

        return len(data) <= MAX_IN_PROCESS_DICOM_BYTES and is_simple(data)
    if file_format in ("PNG", "JPEG", "BMP") and len(data) <= MAX_IN_PROCESS_BYTES:
        from reslink.imaging.formats.raster import is_small

        return is_small(file_format, data, name)
    return False
