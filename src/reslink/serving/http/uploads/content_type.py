"""What an uploaded file is, by its content; files that could be taken for two things are refused."""

from __future__ import annotations

import re
from typing import Final

from reslink.imaging.decode import HEAD_BYTES, kind_of
from reslink.imaging.limits import FORMATS
from reslink.serving.http.problems import wrong_kind

ZIP: Final = "ZIP"
_ANY: Final = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_DECLARED: Final = {
    "image/png": {"PNG"},
    "image/jpeg": {"JPEG"},
    "image/tiff": {"TIFF"},
    "image/webp": {"WEBP"},
    "image/bmp": {"BMP"},
    "application/dicom": {"DICOM"},
    "application/zip": {ZIP},
    "application/x-zip-compressed": {ZIP},
    "application/gzip": {"NIFTI"},
    "application/x-gzip": {"NIFTI"},
}
_FOREIGN: Final = (
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
"""How files of other programs begin: none of these belongs into the preamble of a DICOM file."""

_MARKUP: Final = (b"<script", b"<html", b"<svg", b"<?php", b"%pdf-")
_ZIP_END: Final = b"PK\x05\x06"
_ZIP_TAIL: Final = 65_557  # the end record and the longest comment
_ZIP_MEMBER: Final = b"PK\x01\x02"
_ZIP_EMPTY: Final = re.compile(_ZIP_END + rb".{4}\0{8}", re.DOTALL)


def uploaded_kind(data: bytes, declared: str) -> str:
    """Returns what a file is: ``ZIP``, or as ``kind_of`` names it.

    Args:
        data: The whole file.
        declared: The content type that came with it; an empty text where none did.

    Raises:
        Problem: With status 415, if it is nothing that is read, two things at once, or not what it was declared to be.
    """
    kind = ZIP if data[:4] in (b"PK\x03\x04", _ZIP_END) else kind_of(data[:HEAD_BYTES])
    if kind is None:
        raise wrong_kind(f"The file is not an image that reslink knows. {FORMATS} are read, and zip archives of them.")
    if _double(kind, data):
        raise wrong_kind(f"The file is {kind} and something else too. A file is one thing. Export it again.")
    essence = declared.split(";")[0].strip().lower()
    if essence not in _ANY and kind not in _DECLARED.get(essence, set()):
        raise wrong_kind(
            f"The file is {kind}, but was sent as another type. The content type fits the content, or is "
            "application/octet-stream. Send it as that."
        )
    return kind


def _double(kind: str, data: bytes) -> bool:
    """Whether a file is of another kind too: an archive at its end, another program's header, or markup, at its head."""
    head = data[:HEAD_BYTES]
    if kind == ZIP:
        return kind_of(head) is not None
    preamble = kind == "DICOM" and data[128:132] == b"DICM" and data.startswith(_FOREIGN)
    return preamble or _has_archive(data) or any(word in head.lower() for word in _MARKUP)


def _has_archive(data: bytes) -> bool:
    """Whether an archive ends in the file: its end record, and a member's entry unless that record says that there is none.

    The mark of the record alone stands by chance in one of 65,000 files.
    """
    tail = data[-_ZIP_TAIL:]
    return _ZIP_END in tail and (_ZIP_MEMBER in data or _ZIP_EMPTY.search(tail) is not None)
