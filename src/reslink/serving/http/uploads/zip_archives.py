"""Zip archives in memory: counted and measured before anything is unpacked; names are labels and never paths."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Final

from reslink.serving.http.limits import Limits
from reslink.serving.http.problems import Problem, bad_request, too_large

_DIRECTORY_BYTES: Final = 1 << 20
_END: Final = b"PK\x05\x06"
_MOST_SHRUNK: Final = 200
"""Times that a member may be larger than it is packed, above a megabyte; DICOM and NIfTI shrink by less than 20."""

_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def members(data: bytes, limits: Limits) -> Iterator[tuple[str, bytes]]:
    """Yields the files of an archive, one at a time, without folders, hidden files and DICOMDIR.

    Args:
        data: The archive.
        limits: Of the service.

    Raises:
        Problem: If it is broken, encrypted or beyond a limit, holds a name that leaves its folder, or holds no file.
    """
    _check_directory(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            chosen = _chosen(archive.infolist(), limits)
            for info in chosen:
                yield info.filename, archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError) as error:
        raise _broken(f"it is damaged ({type(error).__name__})") from error


def _check_directory(data: bytes) -> None:
    """Refuses, before ``zipfile`` reads it, a directory of more than a megabyte, and zip64, which no archive here needs."""
    at = data.rfind(_END, max(0, len(data) - 65_557))
    if at < 0 or len(data) - at < 22:
        raise _broken("its end is missing")
    if int.from_bytes(data[at + 12 : at + 16], "little") > _DIRECTORY_BYTES or data[max(0, at - 20) : at - 16] == b"PK\x06\x07":
        raise too_large("The directory of the archive is too long", f"{_DIRECTORY_BYTES} bytes, without zip64")


def _chosen(infos: list[zipfile.ZipInfo], limits: Limits) -> list[zipfile.ZipInfo]:
    for info in infos:
        check_name(info.orig_filename)
        check_name(info.filename)
        if info.flag_bits & 1 or info.compress_type not in _METHODS:
            raise _broken("it is encrypted or packed by another method than deflate")
        if info.file_size > max(1 << 20, _MOST_SHRUNK * info.compress_size):
            raise too_large("A member of the archive is far larger than it is packed", f"{_MOST_SHRUNK} times")
    chosen = [info for info in infos if not info.is_dir() and _is_shown(info.filename)]
    if not chosen:
        raise bad_request("empty-archive", "The archive holds no file", "The archive holds no file. Send one with images.")
    if len(chosen) > limits.files:
        raise too_large(f"The archive holds {len(chosen)} files", f"{limits.files} files")
    if sum(info.file_size for info in chosen) > limits.unpacked_bytes:
        raise too_large("The archive is too large when unpacked", f"{limits.unpacked_bytes} bytes")
    return chosen


def _is_shown(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return bool(parts) and not hidden and parts[-1].upper() != "DICOMDIR"  # "." has no parts


def check_name(name: str) -> None:
    """Refuses the name of a file that would leave its folder, were it a path.

    Raises:
        Problem: If it is absolute, has a part ``..`` or a control character.
    """
    parts = name.replace("\\", "/").split("/")
    drive = len(parts[0]) == 2 and parts[0][1] == ":"
    if ".." in parts or parts[0] == "" or drive or any(ord(sign) < 32 for sign in name) or len(name) > 1024:
        raise bad_request(
            "bad-name",
            "A file name leaves its folder",
            "A file name is absolute, holds '..' or a control character. Names are relative. Rename the file.",
        )


def _broken(why: str) -> Problem:
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "broken-archive",
        "The archive cannot be read",
        f"The zip archive cannot be read: {why}. An archive is plain zip with deflate. Pack it again.",
    )
