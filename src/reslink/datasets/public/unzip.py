"""Safe unpacking of ZIP files, with limits on size, number and compression of their members."""

from __future__ import annotations

import contextlib
import lzma
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

from reslink.errors import InputError, write_failed

MAX_MEMBERS: Final = 500_000
MAX_BYTES: Final = 200 << 30
MAX_RATIO: Final = 200
"""Largest compression ratio of a member; images hardly compress."""


def unpack_zip(
    archive: Path, folder: Path, on_progress: Callable[[int, int], None] | None = None, *, nested: bool = True
) -> int:
    """Unpacks a ZIP file; members that exist at their full size are kept.

    Nothing is written outside the folder, no links are created, and no member may exceed its declared size.

    Args:
        archive: The ZIP file.
        folder: The output folder.
        on_progress: Called with the number of finished members and the total.
        nested: Also unpack ZIP files inside, in place, and remove them afterwards.

    Returns:
        The number of members written.

    Raises:
        InputError: If the file is not a ZIP file, is damaged, or contains an unsafe member.
        StorageError: If a file cannot be written.
    """
    written, inner = 0, []
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            _check_limits(members, archive)
            targets = [folder / _safe_path(member, archive) for member in members]
            for done, (member, target) in enumerate(zip(members, targets, strict=True), 1):
                inner += [target] if nested and target.suffix.casefold() == ".zip" else []
                written += _unpack_member(opened, member, target)
                if on_progress:
                    on_progress(done, len(members))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise _archive_error(archive, str(error)) from error
    for path in inner:
        written += unpack_zip(path, path.parent, on_progress, nested=False)
        path.unlink()
    return written


def _check_limits(members: list[zipfile.ZipInfo], archive: Path) -> None:
    total = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS or total > MAX_BYTES:
        raise _archive_error(archive, f"it contains {len(members)} files with {total} bytes in total")
    for member in members:
        if member.file_size > MAX_RATIO * max(member.compress_size, 1 << 12):
            raise _archive_error(archive, f"{member.filename!r} grows from {member.compress_size} to {member.file_size} bytes")


def _safe_path(member: zipfile.ZipInfo, archive: Path) -> Path:
    """Returns the path of a member below the folder."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    link = stat.S_ISLNK(member.external_attr >> 16)
    unsafe = (
        not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or not member.filename.isprintable()
    )
    if link or unsafe:
        raise _archive_error(archive, f"{member.filename!r} is a link or points outside the folder")
    return Path(*path.parts)


def _unpack_member(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> int:
    if target.is_file() and target.stat().st_size == member.file_size:
        return 0
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(member) as source, part.open("wb") as stream:
            shutil.copyfileobj(source, stream, 1 << 20)
        os.replace(part, target)  # noqa: PTH105  (replaces a file of another size)
    except OSError as error:
        if error.errno is None:  # raised by bz2 for damaged data
            raise zipfile.BadZipFile(str(error)) from error
        raise write_failed(target, error, "Free some space, then run the same command again to continue") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return 1


def _archive_error(archive: Path, problem: str) -> InputError:
    return InputError(
        f"{archive.name} cannot be unpacked: {problem}",
        "A data set is a complete ZIP file of images",
        "Remove the file and download it again",
    )
