"""The DICOM series of a remote folder, whose slices are kept on disk until all are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reslink.imaging.dicom.geometry import Plane
from reslink.imaging.dicom.series import along_normal, read_series_position
from reslink.remote_paths import RemotePath
from reslink.temporary_database import TemporaryDatabase


class ListedSlices(TemporaryDatabase):
    """DICOM files of a remote folder, in a temporary file; in memory are those of one series."""

    def __init__(self) -> None:
        super().__init__(
            "CREATE TABLE slices (number INTEGER PRIMARY KEY, series TEXT, url TEXT, version TEXT, plane BLOB)",
            "CREATE INDEX by_series ON slices (series, number)",
        )

    def add(self, file: RemotePath) -> None:
        """Adds a file, whose header is read.

        Raises:
            RemoteStorageError: If the storage fails.
        """
        positioned = read_series_position(file)
        series, values = "", b""
        if positioned is not None:
            series, plane = positioned
            values = np.stack([plane.position, plane.rows, plane.columns]).tobytes()
        self.run("INSERT INTO slices (series, url, version, plane) VALUES (?, ?, ?, ?)", series, file.url, file.version, values)

    def take_series(self) -> Iterator[list[Path]]:
        """Yields the files of each series in the order of :func:`reslink.imaging.dicom.series.group_files`, and forgets all."""
        first = "SELECT series FROM slices WHERE series != '' GROUP BY series ORDER BY min(number)"
        for (series,) in self.rows(first):
            yield along_normal(list(self._slices_of(series)))
        for url, version in self.rows("SELECT url, version FROM slices WHERE series = '' ORDER BY number"):
            yield [RemotePath(url, version)]
        self.run("DELETE FROM slices")

    def _slices_of(self, series: str) -> Iterator[tuple[Path, Plane]]:
        statement = "SELECT url, version, plane FROM slices WHERE series = ? ORDER BY number"
        for url, version, values in self.rows(statement, series):
            yield RemotePath(url, version), Plane(*np.frombuffer(values).reshape(3, 3))
