"""A database in a temporary file, for lists with a row per file that would fill the memory."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from reslink.errors import StorageError


class TemporaryDatabase:
    """An SQLite database in a temporary file without a name, so that nothing remains if the process is killed.

    The file is in ``TMPDIR``, otherwise in ``/var/tmp``.

    At most 2 MB of it are in memory. It may be used by several threads, but not at the same time.

    Args:
        tables: A ``CREATE TABLE`` statement for each table.

    Raises:
        StorageError: By each method, if the file cannot be written.
    """

    def __init__(self, *tables: str) -> None:
        with _write_errors():
            self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            for statement in ("PRAGMA journal_mode = OFF", "PRAGMA temp_store = FILE", "BEGIN", *tables):
                self._connection.execute(statement)

    def rows(self, statement: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """Yields the rows that a ``SELECT`` finds, one by one."""
        with _write_errors():  # a sort needs disk too
            yield from self._connection.execute(statement, values)

    def run(self, statement: str, *values: object) -> None:
        """Runs another statement."""
        with _write_errors():
            self._connection.execute(statement, values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._connection.close()


@contextlib.contextmanager
def _write_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(
            f"A list of files could not be kept on disk: {error}",
            "Long lists of files are kept in the folder for temporary files",
            "Free some space there, or set TMPDIR to a folder on another disk",
        ) from error
