"""One decoder for each kind of content, and how the kind is told from the first bytes."""

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


def kind_of(head: bytes) -> str | None:
    """Returns the kind of content from the first 1024 bytes: a member of ``RASTER``, NPY, DICOM, NIFTI, or None."""
    for kind in ("PNG", "JPEG", "NPY"):
        if head.startswith(_MAGIC[kind]):
            return kind
    if head[128:132] == b"DICM":
        return "DICOM"  # before TIFF: a DICOM file may carry a TIFF header in its preamble
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
    return "DICOM" if _bare_dicom(head) else None


def _bare_dicom(head: bytes) -> bool:
    """Whether data begins with a first element of group 8, as DICOM without preamble and meta information does."""
    if len(head) < 16 or head[:2] != b"\x08\0" or head[3] != 0:
        return False
    explicit = head[4:6] in (b"UL", b"CS", b"UI", b"DA", b"TM", b"SH", b"LO")
    return explicit or int.from_bytes(head[4:8], "little") <= 64


def decode(kind: str, data: bytes, name: str) -> tuple[Image, dict[str, Any]]:
    """Decodes the content of a file.

    Args:
        kind: What :func:`kind_of` said, or ``SLICE`` for a DICOM file of a series.
        data: The whole file.
        name: File name for messages.

    Returns:
        The image, and for ``SLICE`` its facts: ``position``, ``rows``, ``columns``, ``series``, ``localizer``, ``refused``.
    """
    if kind == "SLICE":
        return _slice(data, name)
    if kind in RASTER:
        from reslink.imaging.formats.raster import read_raster

        return read_raster(kind, data, name), {}
    if kind == "NPY":
        from reslink.imaging.formats.numpy_array import read_array

        return read_array(data, name), {}
    if kind == "NIFTI":
        from reslink.imaging.formats.nifti import read_nifti

        return read_nifti(data, name), {}
    from reslink.imaging.dicom.read import read_dicom

    return read_dicom(data, name), {}


def prepare(kind: str) -> None:
    """Imports the decoder of a kind, so that its time does not count as decoding."""
    modules = {"NPY": "formats.numpy_array", "NIFTI": "formats.nifti", "DICOM": "dicom.read", "SLICE": "dicom.read"}
    importlib.import_module(f"reslink.imaging.{modules.get(kind, 'formats.raster')}")


def _slice(data: bytes, name: str) -> tuple[Image, dict[str, Any]]:
    from reslink.imaging.dicom.read import read_slice

    found = read_slice(data, name)
    plane = found.plane
    return found.image, {
        "position": None if plane is None else plane.position.tolist(),
        "rows": None if plane is None else plane.rows.tolist(),
        "columns": None if plane is None else plane.columns.tolist(),
        "series": found.series,
        "localizer": found.localizer,
        "refused": found.refused,
    }


def quick(kind: str, data: bytes, name: str) -> bool:
    """Whether content is small and plain enough to be decoded in this process."""
    from reslink.imaging.limits import QUICK_BYTES, QUICK_DICOM_BYTES

    if kind == "NPY":
        return True
    if kind in ("DICOM", "SLICE"):
        from reslink.imaging.dicom.read import quick as plain

        return len(data) <= QUICK_DICOM_BYTES and plain(data)
    if kind in ("PNG", "JPEG", "BMP") and len(data) <= QUICK_BYTES:
        from reslink.imaging.formats.raster import quick as small

        return small(kind, data, name)
    return False
