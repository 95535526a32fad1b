"""Format of an uploaded file, detected from its content; polyglot files are refused."""

from __future__ import annotations

import re
from typing import Final

from reslink.imaging.decode import HEAD_BYTES, detect_image_format
from reslink.imaging.limits import FORMATS
from reslink.serving.http.problems import unsupported_format

ZIP: Final = "ZIP"
_GENERIC_TYPES: Final = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_FORMATS_BY_TYPE: Final = {
    "image/png": {"PNG"},
    "image/jpeg": {"JPEG"},
    "image/tiff": {"TIFF"},
    "image/webp": {"WEBP"},
    "image/bmp": {"BMP"},
    "application/dicom": {"DICOM"},
    "application/zip": {ZIP},
    "application/x-zip-compressed": {ZIP},
    "application/gzip": {"NIFTI", "DICOM"},
    "application/x-gzip": {"NIFTI", "DICOM"},
}
_FOREIGN_MAGIC: Final = (
    b"MZ",
    b"\x7fELF",
    b"%PDF",
    b"#!",
    b"PK\x03\x04",
    b"Rar!",
    b"GIF8",
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"II*\0",
    b"MM\0*",
)
"""First bytes of other file formats, which must not occur in the preamble of a DICOM file."""

_MARKUP: Final = (b"<script", b"<html", b"<svg", b"<?php", b"%pdf-")
_ZIP_END: Final = b"PK\x05\x06"
_ZIP_TAIL: Final = 65_557  # the end-of-directory record with the longest comment
_ZIP_MEMBER: Final = b"PK\x01\x02"
_ZIP_EMPTY: Final = re.compile(_ZIP_END + rb".{4}\0{8}", re.DOTALL)


def detect_format(data: bytes, declared: str) -> str:
    """Returns the format of a file: ``ZIP``, or one of ``detect_image_format``.

    Args:
        data: The whole file.
        declared: Content type declared by the client; empty if none.

    Raises:
        Problem: With status 415, if the format is not supported, the file has two formats, or the declared type is wrong.
    """
    file_format = ZIP if data[:4] in (b"PK\x03\x04", _ZIP_END) else detect_image_format(data[:HEAD_BYTES])
    if file_format is None:
        raise unsupported_format(
            f"The file is not a supported image. Supported formats are {FORMATS}, and zip archives of them. Convert the file."
        )
    if _is_polyglot(file_format, data):
        raise unsupported_format(
            f"The file is {file_format} and something else too. A file must have one format. Export it again."
        )
    essence = declared.split(";")[0].strip().lower()
    if essence not in _GENERIC_TYPES and file_format not in _FORMATS_BY_TYPE.get(essence, set()):
        raise unsupported_format(
            f"The file is {file_format}, but its declared content type is another. The content type must match the content, "
            "or be application/octet-stream. Send it as application/octet-stream."
        )
    return file_format


def _is_polyglot(file_format: str, data: bytes) -> bool:
    """Whether a file also has another format: an archive at its end, or a program header or markup at its start."""
    head = data[:HEAD_BYTES]
    if file_format == ZIP:
        return detect_image_format(head) is not None
    foreign_preamble = file_format == "DICOM" and data[128:132] == b"DICM" and data.startswith(_FOREIGN_MAGIC)
    return foreign_preamble or _has_archive(data) or any(word in head.lower() for word in _MARKUP)


def _has_archive(data: bytes) -> bool:
    """Whether the file ends with an archive: an end record, and a directory entry unless the record states an empty archive.

    The four bytes of the record alone occur by chance in one of 65,000 files.
    """
    tail = data[-_ZIP_TAIL:]
    return _ZIP_END in tail and (_ZIP_MEMBER in data or _ZIP_EMPTY.search(tail) is not None)
