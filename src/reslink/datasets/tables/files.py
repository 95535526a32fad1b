"""Tables in files of any supported format: CSV, a Parquet file or a folder of Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from reslink.datasets.tables.csv_file import open_csv
from reslink.datasets.tables.parquet_file import is_parquet, open_parquet, part_files
from reslink.datasets.tables.rows import RowStream, Table, data_error
from reslink.errors import UsageError
from reslink.imaging.search import FolderSearch
from reslink.remote_files import local_file

_MANIFESTS: Final = ("manifest.csv", "manifest.parquet")


def find_table(data: Path) -> Path | None:
    """Returns the table of a data set: the given file, the manifest of a folder, or a folder of Parquet files.

    Parquet files beside folders with images, such as class folders, are not a table unless one is named ``manifest.parquet``.

    Args:
        data: An existing file or folder.

    Returns:
        The table; None for a folder without one, such as a folder of class folders.

    Raises:
        UsageError: If the folder has two manifests.
    """
    if not data.is_dir():
        return data
    manifests = [data / name for name in _MANIFESTS if (data / name).is_file()]
    if len(manifests) > 1:
        raise data_error(f"{data} has a manifest.csv and a manifest.parquet", "Give the path of one of them, or remove one")
    return manifests[0] if manifests else data if part_files(data) and not _has_image_folders(data) else None


def _has_image_folders(folder: Path) -> bool:
    search = FolderSearch(folder)
    return any(file.parent != folder and search.is_image(file) for files in search.walk() for file in files)


def is_manifest(path: Path) -> bool:
    """Returns whether a path is named like the manifest of the folder that holds it."""
    return path.name in _MANIFESTS


def read_table(path: Path) -> Table:
    """Reads a table, which may be a remote file; see :func:`open_table`.

    Raises:
        UsageError: As for :func:`open_table`, and if a row is not valid.
        RemoteFileError: If there is no such remote file, or it may not be read.
    """
    with local_file(path) as local:
        try:
            stream = open_table(local)
            return Table(stream.name, stream.headers, tuple(stream.rows))
        except UsageError as error:
            raise UsageError(*(text.replace(str(local), str(path)) for text in error.args)) from error


def open_table(path: Path) -> RowStream:
    """Opens a table, to read its rows one after the other with constant memory, such as to plan shards.

    Args:
        path: A local CSV file (:func:`reslink.datasets.tables.csv_file.open_csv`), or Parquet file or folder of Parquet files
            (:func:`reslink.datasets.tables.parquet_file.open_parquet`). A Parquet file is recognized by its suffix or content.

    Raises:
        UsageError: If it is not such a file.
    """
    return open_parquet(path) if is_parquet(path) else open_csv(path)
