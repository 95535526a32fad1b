"""Metadata of a file that identifies the patient: names of the attributes, never their values."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from PIL import ExifTags
from PIL import Image as Pillow
from pydicom import Dataset

from reslink.audit.deidentification import action_of, is_empty_or_dummy, name_of
from reslink.audit.features.content import FileContent
from reslink.imaging.limits import GZIP, silence_warnings

_TECHNICAL_EXIF: Final = frozenset(
    {"Orientation", "XResolution", "YResolution", "ResolutionUnit", "ColorSpace", "YCbCrPositioning", "ExifOffset"}
    | {"ExifVersion", "ComponentsConfiguration", "FlashPixVersion", "ExifImageWidth", "ExifImageHeight", "InterlaceCount"}
)
# Tags that a TIFF needs to be read (TIFF 6.0): sizes, compression, strips, tiles, resolution, colors, sample format.
_TECHNICAL_TIFF: Final = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281, 282, 283, 284, 286, 287}
    | {290, 291, 292, 293, 296, 297, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 338, 339, 340, 341, 347}
    | {529, 530, 531, 532, 34675}
)
# Keywords of the W3C PNG specification, 11.3.3; other keywords are not reported, because they may contain anything.
_PNG_KEYWORDS: Final = frozenset(
    {"Title", "Author", "Description", "Copyright", "Creation Time", "Software", "Disclaimer", "Warning", "Source", "Comment"}
    | {"XML:com.adobe.xmp", "Raw profile type exif", "Raw profile type iptc", "Raw profile type xmp"}
)
_NIFTI_TEXTS: Final = ("descrip", "aux_file", "intent_name", "db_name")


def identifying_attributes(source: str | Path | FileContent) -> list[str]:
    """Lists the attributes of a file that can identify the patient.

    DICOM: every attribute of the Basic Application Level Confidentiality Profile (PS3.15 Table E.1-1) that has a value, at
    every level, UIDs only if ``PatientIdentityRemoved`` is not YES; private attributes by group; ``BurnedInAnnotation``
    if it is YES; application entity titles, private information and preamble of the file meta information. Pictures: EXIF,
    XMP, IPTC, comments, PNG texts and times, and data after the end of the picture. NIfTI: text fields of the header, its
    extensions, and the file name in the gzip header.

    Args:
        source: A file that :func:`~reslink.imaging.reading.read_image` accepts, or its content.

    Returns:
        Unique names of attributes, in the order of the file; never a value. Empty if there are none or if the file cannot be
        read.
    """
    try:
        content = source if isinstance(source, FileContent) else FileContent.read(source)
        with silence_warnings():
            return list(dict.fromkeys(_FINDERS[content.format](content))) if content.format in _FINDERS else []
    except Exception:  # noqa: BLE001 - *the libraries raise many kinds of errors for a broken file
        return []


def _in_dicom(content: FileContent) -> Iterator[str]:
    dataset, data = content.dataset, content.data
    meta: Any = dataset.file_meta
    names = ("SourceApplicationEntityTitle", "SendingApplicationEntityTitle", "ReceivingApplicationEntityTitle")
    yield from (name for name in (*names, "PrivateInformation") if meta.get(name))
    if data[128:132] == b"DICM" and data[:128].strip(b"\0"):
        yield "File Preamble"
    if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES":
        yield "BurnedInAnnotation"
    removed = str(dataset.get("PatientIdentityRemoved", "")).upper() == "YES"
    yield from _in_dataset(dataset, with_uids=not removed)


def _in_dataset(dataset: Dataset, *, with_uids: bool) -> Iterator[str]:
    for element in dataset:
        tag = element.tag
        if tag.is_private:
            yield f"private attributes of group {tag.group:04X}"
            continue
        action = action_of(tag)
        identifies = action is not None and not is_empty_or_dummy(element) and (with_uids or "U" not in action)
        if identifies:
            yield name_of(tag)
        if element.VR == "SQ" and action != "X":
            for item in element.value:
                yield from _in_dataset(item, with_uids=with_uids)


def _in_png(content: FileContent) -> Iterator[str]:
    data, at = content.data, 8
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword = body.split(b"\0", 1)[0].decode("latin-1")
            yield f"PNG text {keyword}" if keyword in _PNG_KEYWORDS else "PNG text with a custom keyword"
        elif kind == b"tIME":
            yield "PNG time"
        elif kind == b"eXIf":
            yield from _in_exif(b"Exif\0\0" + body)
        at += 12 + length
        if kind == b"IEND":
            break
    if data[at:].strip(b"\0"):
        yield "data after the end of the picture"


def _in_jpeg(content: FileContent) -> Iterator[str]:
    from reslink.imaging.formats import jpeg_integrity

    data, at = content.data, 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xDA, 0xD9):
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        marker, length = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])[0]
        yield from _in_segment(marker, data[at + 4 : at + 2 + length])
        at += 2 + length
    end = jpeg_integrity.scan_markers(data, "the file").end
    if data[end:].strip(b"\0"):
        yield "data after the end of the picture"


def _in_segment(marker: int, body: bytes) -> Iterator[str]:
    """Handles one JPEG marker segment. JFIF (APP0), color profiles (APP2) and Adobe's color transform (APP14) are technical."""
    if marker == 0xFE:
        yield "JPEG comment"
    elif marker == 0xE1 and body.startswith(b"Exif"):
        yield from _in_exif(body)
    elif marker == 0xE1:
        yield "XMP"
    elif marker == 0xED:
        yield "IPTC"
    elif 0xE0 <= marker <= 0xEF and not body.startswith((b"JFIF", b"JFXX", b"ICC_PROFILE", b"Adobe")):
        yield f"JPEG application segment {marker - 0xE0}"


def _in_exif(body: bytes) -> Iterator[str]:
    exif = Pillow.Exif()
    try:
        exif.load(body)
        directories = [dict(exif), *(exif.get_ifd(ifd) for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo))]
    except Exception:  # noqa: BLE001 - broken EXIF raises many kinds of errors, and may still contain a name
        yield "unreadable EXIF"
        return
    for number in (
        number for directory in directories[:2] for number, value in directory.items() if value not in ("", b"", None)
    ):
        name = ExifTags.TAGS.get(number, f"tag {number}")
        if name not in _TECHNICAL_EXIF:
            yield f"EXIF {name}"
    if directories[2]:
        yield "EXIF GPSInfo"


def _in_tiff(content: FileContent) -> Iterator[str]:
    picture = Pillow.open(io.BytesIO(content.data), formats=["TIFF"])
    for number in picture.tag_v2:  # type: ignore[attr-defined]
        if number not in _TECHNICAL_TIFF:
            yield f"TIFF {ExifTags.TAGS.get(number, f'tag {number}')}"


def _in_webp(content: FileContent) -> Iterator[str]:
    data = content.data
    picture = Pillow.open(io.BytesIO(data), formats=["WEBP"])
    if "exif" in picture.info:
        yield from _in_exif(picture.info["exif"])
    if "xmp" in picture.info:
        yield "XMP"
    if data[8 + int.from_bytes(data[4:8], "little") :].strip(b"\0"):
        yield "data after the end of the picture"


def _in_nifti(content: FileContent) -> Iterator[str]:
    from reslink.imaging.formats import nifti

    data = content.data
    if data.startswith(GZIP) and data[3] & 0b11000:
        yield "gzip file name or comment"
    head = nifti.read_first_bytes(data, "the file")
    second = head[4:8] in (b"n+2\0", b"ni2\0")
    header = nifti.parse_header(head, "the file")
    for name in _NIFTI_TEXTS:
        if bytes(header[name].item()).strip(b"\0 "):
            yield f"NIfTI {name}"
    start = 540 if second else 348
    if head[start : start + 1] == b"\x01" and float(header["vox_offset"]) > start + 4:
        yield "NIfTI extension"


_FINDERS: Final[dict[str, Callable[[FileContent], Iterator[str]]]] = {
    "DICOM": _in_dicom,
    "PNG": _in_png,
    "JPEG": _in_jpeg,
    "TIFF": _in_tiff,
    "WEBP": _in_webp,
    "NIFTI": _in_nifti,
}
