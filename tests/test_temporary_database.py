"""A database on disk for long lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslink.errors import StorageError
from reslink.temporary_database import TemporaryDatabase

TABLE = "CREATE TABLE numbers (number INTEGER, text TEXT)"


def test_rows_are_written_and_read_while_others_are_read() -> None:
    with TemporaryDatabase(TABLE) as database:
        for number in range(100):
            database.run("INSERT INTO numbers VALUES (?, ?)", number, "ä")
        rows = database.rows("SELECT number, text FROM numbers ORDER BY number")
        assert next(rows) == (0, "ä")
        assert list(database.rows("SELECT count(*) FROM numbers WHERE number > ?", 89)) == [(10,)]
        assert sum(number for number, _ in rows) == sum(range(100))


def test_the_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    with TemporaryDatabase(TABLE) as database:
        for number in range(5000):  # more than is kept in memory
            database.run("INSERT INTO numbers VALUES (?, ?)", number, "x" * 1000)
        assert list(database.rows("SELECT count(*) FROM numbers")) == [(5000,)]
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_with_the_next_step() -> None:
    with TemporaryDatabase(TABLE) as database:
        database.run("PRAGMA max_page_count = 10")
        with pytest.raises(StorageError, match=r"could not be kept on disk: database or disk is full\..*set TMPDIR to"):
            database.run("INSERT INTO numbers VALUES (1, ?)", "x" * 1_000_000)
