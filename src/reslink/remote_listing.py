"""The list of a remote folder on disk, by folder, so that the memory does not grow with the number of files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reslink.remote_paths import RemotePath
from reslink.temporary_database import TemporaryDatabase


class RemoteListing(TemporaryDatabase):
    """Remote files by their folders, in a temporary file."""

    def __init__(self) -> None:
        super().__init__(
            "CREATE TABLE folders (number INTEGER PRIMARY KEY, url TEXT UNIQUE)",
            "CREATE TABLE files (folder INTEGER, name TEXT, version TEXT, PRIMARY KEY (folder, name)) WITHOUT ROWID",
            "CREATE TABLE skipped (folder TEXT PRIMARY KEY) WITHOUT ROWID",
            "CREATE TABLE stems (stem TEXT PRIMARY KEY) WITHOUT ROWID",
        )
        self._url, self._number = "", 0

    def add(self, file: RemotePath) -> None:
        """Adds a file. Files may come in any order; those of one folder are faster one after the other."""
        url, _, name = file.url.rpartition("/")
        if url != self._url:
            self.run("INSERT OR IGNORE INTO folders (url) VALUES (?)", url)
            [(self._number,)] = self.rows("SELECT number FROM folders WHERE url = ?", url)
            self._url = url
        self.run("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", self._number, name, file.version)

    def skip(self, folder: str) -> None:
        """Notes a folder that is skipped; it may be noted for each of its files."""
        self.run("INSERT OR IGNORE INTO skipped VALUES (?)", folder)

    def skipped(self) -> Iterator[str]:
        """Yields each skipped folder once."""
        for (folder,) in self.rows("SELECT folder FROM skipped"):
            yield folder

    def folders(self) -> Iterator[int]:
        """Yields the number of each folder with files, sorted by the URL of its first file."""
        statement = "SELECT number FROM folders ORDER BY url || '/' || (SELECT min(name) FROM files WHERE folder = number)"
        for (number,) in self.rows(statement):
            yield number

    def names(self, folder: int) -> Iterator[str]:
        """Yields the names of the files of a folder, sorted."""
        for (name,) in self.rows("SELECT name FROM files WHERE folder = ? ORDER BY name", folder):
            yield name

    def files(self, folder: int) -> Iterator[RemotePath]:
        """Yields the files of a folder with their versions, sorted by name."""
        [(url,)] = self.rows("SELECT url FROM folders WHERE number = ?", folder)
        for name, version in self.rows("SELECT name, version FROM files WHERE folder = ? ORDER BY name", folder):
            yield RemotePath(f"{url}/{name}", version)

    def keep_stems(self, stems: Iterable[str]) -> None:
        """Replaces the stems of the images of one folder."""
        self.run("DELETE FROM stems")
        for stem in stems:
            self.run("INSERT OR IGNORE INTO stems VALUES (?)", stem)

    def has_stem(self, stem: str) -> bool:
        """Returns whether an image has a stem."""
        return any(self.rows("SELECT 1 FROM stems WHERE stem = ?", stem))
