"""Files that a table names: relative and absolute paths, ``~``, ``file://`` and Windows separators."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from reslink.datasets.case import case_name
from reslink.datasets.tables.rows import Row
from reslink.errors import UsageError
from reslink.printable_names import escape_name, unescape_name
from reslink.remote_paths import RemotePath, parse_remote

_FILE_URI = re.compile(r"file:(?://(?P<host>[^/]*)(?=/))?(?P<path>.*)", re.I | re.S)
_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")


class FolderRowError(UsageError):
    """A row of a table of slices names a folder."""


def find_file(row: Row, column: str, folder: Path, *, or_folder: bool = False) -> Path:
    """Returns the absolute path of the file that a cell names.

    Args:
        row: The row.
        column: The header of the cell.
        folder: The folder that relative paths start from.
        or_folder: Whether the cell may also name a folder: that of a series.

    Raises:
        UsageError: If the cell is empty or there is no such file.
    """
    text = row.require(column)
    if (remote := _remote(row, text, folder)) is not None:
        return remote
    path = locate(text, folder)
    if path is None:
        raise _not_found(row, text, folder)
    if not path.is_file() and not (or_folder and path.is_dir()):
        error = row.error(
            f"names the folder {text!r}" if path.is_dir() else f"names {text!r}, which is not a file",
            "A row names one file with one slice, unless each series has one label",
            "If it has, use reslink split --case series, which finds leakage, and reslink train --case series; otherwise write "
            "one row per slice, with the same patient_id",
        )
        raise FolderRowError(*error.args) if path.is_dir() else error
    return path


def _remote(row: Row, text: str, folder: Path) -> RemotePath | None:
    """Returns the remote file that a cell names: a URL, or a path below a remote folder. Whether it exists is seen later."""
    try:
        return parse_remote(text) or (folder / text if isinstance(folder, RemotePath) else None)
    except UsageError as error:
        raise row.error(f"names a path that cannot be used: {error.given}", error.allowed, error.next_step) from error


def locate(text: str, folder: Path) -> Path | None:
    """Returns the absolute path that a text names: the first of its possible readings that exists."""
    return next((path for reading in _readings(text) if (path := _absolute(reading, folder)) is not None), None)


def _readings(text: str) -> Iterator[str]:
    """Yields the ways to read a text as a path, the literal one first."""
    texts = [text]
    if uri := _FILE_URI.fullmatch(text):
        host = uri["host"] or ""
        server = f"//{host}" if host not in ("", "localhost") else ""
        texts += [server + path for path in (unquote(uri["path"]), uri["path"])]
        texts += [path[1:] for path in texts if re.match(r"/[A-Za-z]:[\\/]", path)]  # file:///C:/images
    if "\\" in text:
        texts += [reading.replace("\\", "/") for reading in texts] + [unescape_name(text)]
    for reading in texts:
        home = os.path.expanduser(reading)  # noqa: PTH111  (Path.expanduser raises for an unknown user)
        for path in (reading, home):
            yield path
            yield from (unicodedata.normalize(form, path) for form in ("NFC", "NFD") if not path.isascii())


def _absolute(text: str, folder: Path) -> Path | None:
    """Returns a path without ``..``, or None if it does not exist; a link before ``..`` is followed, as in the file system."""
    given, plain = folder / text, Path(os.path.normpath(folder / text))
    try:
        if not given.exists():
            return plain if plain.exists() else None
        if ".." in Path(text).parts and not (plain.exists() and plain.samefile(given)):
            return Path(os.path.realpath(given.parent)) / given.name
    except OSError:  # such as a name that is too long
        return None
    return plain


def _not_found(row: Row, text: str, folder: Path) -> UsageError:
    if _WINDOWS_DRIVE.match(text) and os.name != "nt":
        return row.error(
            f"names {text!r}, a path on a Windows drive or server",
            f"Paths are relative to {folder}, or are absolute paths of this computer",
            "Remove the drive from the paths, and give the folder that they start from with --root",
        )
    return row.error(
        f"names {text!r}, which does not exist",
        f"Paths are absolute, or relative to {folder}",
        "Correct the path, or give the folder that the paths start from with --root",
    )


def move_below(path: Path, folder: Path) -> Path:
    """Returns the path through ``folder`` if it lies below it by another way, such as a symbolic link."""
    if isinstance(path, RemotePath) or path.is_relative_to(folder):
        return path
    real = Path(os.path.realpath(path.parent)) / path.name
    real_folder = Path(os.path.realpath(folder))
    return folder / real.relative_to(real_folder) if real.is_relative_to(real_folder) else path


def name_files(images: Iterable[Path], others: Iterable[Path], folder: Path) -> tuple[dict[Path, str], Path]:
    """Returns a unique name for each image that does not depend on where the data set lies, and the folder of the names.

    The names are relative to ``folder`` if it contains all images, and otherwise to the closest folder that contains all files.
    If that is only the root of the file system, an image is named after the closest folder that contains all files of the same
    top folder, so that no absolute path is published.

    Args:
        images: Absolute paths of the images.
        others: Absolute paths of the masks.
        folder: The folder that relative paths start from.
    """
    paths = sorted(set(images))
    if all(path.is_relative_to(folder) for path in paths):
        return {path: case_name(path, folder) for path in paths}, folder
    remote = _remote_names([path for path in paths if isinstance(path, RemotePath)])
    if remote:
        local = [path for path in paths if path not in remote]
        names, root = name_files(local, [path for path in others if not isinstance(path, RemotePath)], folder)
        return remote | names, root
    files = sorted({*paths, *others})
    if len({path.anchor for path in files}) == 1:
        root = _common_folder(files)
        if root != Path(root.anchor):
            return {path: case_name(path, root) for path in paths}, root
    return _names_by_top_folder(paths), folder


def _remote_names(paths: Sequence[RemotePath]) -> dict[Path, str]:
    """Returns the URLs of remote images as their names, without credentials and queries.

    Raises:
        UsageError: If two URLs differ only in their queries.
    """
    names = {path: escape_name(str(path)) for path in paths}
    repeated = next((name for name, n in Counter(names.values()).items() if n > 1), None)
    if repeated is not None:
        raise UsageError(
            f"Two images of the table are named {repeated}",
            "A remote image is named by its URL without the query",
            "Give each image a URL of its own, such as s3://BUCKET/KEY",
        )
    return dict(names)


def _names_by_top_folder(paths: Iterable[Path]) -> dict[Path, str]:
    tops: dict[tuple[str, ...], list[Path]] = {}
    for path in paths:
        tops.setdefault(path.parts[:2], []).append(path)
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for group in tops.values():
        root = _common_folder(group)
        name = root.name or "root"
        while name in taken:
            name += "_"
        taken.add(name)
        names |= {path: escape_name(f"{name}/{path.relative_to(root).as_posix()}") for path in group}
    return names


def _common_folder(paths: Iterable[Path]) -> Path:
    return Path(os.path.commonpath([path.parent for path in paths]))
