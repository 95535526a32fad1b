"""The file format of DICOM: preamble, file meta information, transfer syntax and deflated data sets (PS3.10, section 7)."""

from __future__ import annotations

import io
import zlib

from pydicom import Dataset, dcmread, uid

from reslink.imaging.limits import GZIP, MIB, damaged_error, too_large_error

_MAX_SIMPLE_ELEMENTS, _MAX_SIMPLE_HEADER = 1000, 1 << 16
_MAX_INFLATED = 160 * MIB  # 64 megapixels of 16 bits, and a header
_LONG_VR = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


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
