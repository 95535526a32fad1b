"""ZIP files of data sets, unpacked member by member under limits."""

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

from reslink.errors import InputError, StorageError

MAX_MEMBERS: Final = 500_000
MAX_BYTES: Final = 200 << 30
MAX_RATIO: Final = 200
"""Images hardly shrink; a member that grows more than this is no image."""


def unpack(archive: Path, folder: Path, heard: Callable[[int, int], None] | None = None, *, nested: bool = True) -> int:
    """Unpacks a ZIP file; a member that is there already in its size is kept.

    Nothing is written outside the folder, no link is made, and no member may be larger than it says.

    Args:
        archive: The ZIP file.
        folder: Where to.
        heard: Hears members done and their total.
        nested: Whether ZIP files inside are unpacked too, into the folder where they lie, and then removed.

    Returns:
        How many members were written.

    Raises:
        InputError: If it is no ZIP file, is damaged, or a member is refused.
        StorageError: If a file cannot be written.
    """
    written, inner = 0, []
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            _check(members, archive)
            targets = [folder / _safe(member, archive) for member in members]
            for done, (member, target) in enumerate(zip(members, targets, strict=True), 1):
                inner += [target] if nested and target.suffix.casefold() == ".zip" else []
                written += _member(opened, member, target)
                if heard:
                    heard(done, len(members))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise _damaged(archive, str(error)) from error
    for path in inner:
        written += unpack(path, path.parent, heard, nested=False)
        path.unlink()
    return written


def _check(members: list[zipfile.ZipInfo], archive: Path) -> None:
    total = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS or total > MAX_BYTES:
        raise _damaged(archive, f"it holds {len(members)} files of {total} bytes together")
    for member in members:
        if member.file_size > MAX_RATIO * max(member.compress_size, 1 << 12):
            raise _damaged(archive, f"{member.filename!r} grows from {member.compress_size} to {member.file_size} bytes")


def _safe(member: zipfile.ZipInfo, archive: Path) -> Path:
    """Returns the path of a member below the folder."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    link = stat.S_ISLNK(member.external_attr >> 16)
    odd = (
        not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or not member.filename.isprintable()
    )
    if link or odd:
        raise _damaged(archive, f"{member.filename!r} is a link or leads out of the folder")
    return Path(*path.parts)


def _member(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> int:
    if target.is_file() and target.stat().st_size == member.file_size:
        return 0
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(member) as source, part.open("wb") as stream:
            shutil.copyfileobj(source, stream, 1 << 20)
        os.replace(part, target)  # noqa: PTH105  (over a file of another size)
    except OSError as error:
        if error.errno is None:  # bz2 raises it for damaged data
            raise zipfile.BadZipFile(str(error)) from error
        raise StorageError(
            f"{target} could not be written: {error.strerror or error}",
            "Unpacking needs a folder that may be written to, with free space",
            "Free some space, then run the same command again; what is there is kept",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return 1


def _damaged(archive: Path, fault: str) -> InputError:
    return InputError(
        f"{archive.name} cannot be unpacked: {fault}",
        "A data set comes as a whole ZIP file of images",
        "Remove the file and download it again",
    )
