"""Zip archives in memory: their size is checked before unpacking, and member names are never used as paths."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Final

from reslink.imaging.search import is_system_folder
from reslink.serving.http.limits import Limits
from reslink.serving.http.problems import Problem, bad_request, too_large

_DIRECTORY_BYTES: Final = 1 << 20
_END_RECORD: Final = b"PK\x05\x06"
_MAX_RATIO: Final = 200
"""Largest compression ratio of a member above one megabyte. DICOM and NIfTI files compress by less than 20."""

_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def members(data: bytes, limits: Limits) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of each file in an archive, without folders, hidden files and DICOMDIR.

    Args:
        data: The archive.
        limits: Limits of the service.

    Raises:
        Problem: If the archive is damaged, encrypted, empty or beyond a limit, or a member name leaves its folder.
    """
    _check_directory(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = _select_members(archive.infolist(), limits)
            for info in infos:
                yield info.filename, archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError) as error:
        raise _unreadable(f"it is damaged ({type(error).__name__})") from error


def _check_directory(data: bytes) -> None:
    """Refuses a central directory above one megabyte and zip64, before ``zipfile`` reads them."""
    end = data.rfind(_END_RECORD, max(0, len(data) - 65_557))
    if end < 0 or len(data) - end < 22:
        raise _unreadable("its end is missing")
    if (
        int.from_bytes(data[end + 12 : end + 16], "little") > _DIRECTORY_BYTES
        or data[max(0, end - 20) : end - 16] == b"PK\x06\x07"
    ):
        raise too_large("The central directory of the archive is too long", f"{_DIRECTORY_BYTES} bytes, without zip64")


def _select_members(infos: list[zipfile.ZipInfo], limits: Limits) -> list[zipfile.ZipInfo]:
    for info in infos:
        check_name(info.orig_filename)
        check_name(info.filename)
        if info.flag_bits & 1 or info.compress_type not in _METHODS:
            raise _unreadable("it is encrypted or uses another compression method than deflate")
        if info.file_size > max(1 << 20, _MAX_RATIO * info.compress_size):
            raise too_large(
                "A member of the archive is far larger unpacked than packed", f"a compression ratio of {_MAX_RATIO}"
            )
    selected = [info for info in infos if not info.is_dir() and _is_visible_file(info.filename)]
    if not selected:
        raise bad_request(
            "empty-archive",
            "The archive is empty",
            "The archive contains no file. It must contain an image. Send another archive.",
        )
    if len(selected) > limits.files:
        raise too_large(f"The archive contains {len(selected)} files", f"{limits.files} files")
    if sum(info.file_size for info in selected) > limits.unpacked_bytes:
        raise too_large("The unpacked archive is too large", f"{limits.unpacked_bytes} bytes")
    return selected


def _is_visible_file(name: str) -> bool:
    parts = PurePosixPath(name).parts
    if not parts or any(map(is_system_folder, parts[:-1])):  # "." has no parts
        return False
    return not parts[-1].startswith(".") and parts[-1].upper() != "DICOMDIR"


def check_name(name: str) -> None:
    """Refuses a file name that would leave its folder if it were used as a path.

    Raises:
        Problem: If the name is absolute, longer than 1024 characters, or has a part ``..`` or a control character.
    """
    parts = name.replace("\\", "/").split("/")
    drive = len(parts[0]) == 2 and parts[0][1] == ":"
    if ".." in parts or parts[0] == "" or drive or any(ord(sign) < 32 for sign in name) or len(name) > 1024:
        raise bad_request(
            "bad-name",
            "The file name is not allowed",
            "A file name is absolute, too long, or contains '..' or a control character. File names must be relative. "
            "Rename the file.",
        )


def _unreadable(reason: str) -> Problem:
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "broken-archive",
        "The archive cannot be read",
        f"The zip archive cannot be read: {reason}. An archive must be plain zip with deflate compression. Create it again.",
    )
