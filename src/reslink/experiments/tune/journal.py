"""The journal of a search: Optuna's log of all trials in one file, which several processes share and no kill damages."""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from pathlib import Path
from typing import IO

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from reslink.errors import InputError

JOURNAL = "journal.log"
STUDY = "reslink"


class _FileLock:
    """A lock that ends with its process, also when that is killed: the next one need not wait for Optuna's grace period.

    A process that was killed while it wrote leaves a part of a line. It is removed before the next line is written, because
    the journal would be unreadable otherwise.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._stream: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Waits for the lock."""
        self._stream = self._journal.with_suffix(".lock").open("ab")
        fcntl.flock(self._stream, fcntl.LOCK_EX)
        _remove_partial_line(self._journal)
        return True

    def release(self) -> None:
        """Gives the lock back."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _remove_partial_line(journal: Path) -> None:
    with journal.open("r+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        if not size:
            return
        stream.seek(size - 1)
        if stream.read(1) != b"\n":
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)


def open_study(folder: Path) -> optuna.Study:
    """Opens the search in a folder, or begins it.

    Args:
        folder: The folder of the search.

    Raises:
        InputError: If the journal is damaged before its last line.
        StorageError: If it cannot be written.
    """
    journal = folder / JOURNAL
    journal.touch()
    is_new = not _check_lines(journal)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            backend = JournalFileBackend(str(journal), lock_obj=_FileLock(journal))  # type: ignore[arg-type]  # no public base
            storage = JournalStorage(backend)
            if is_new:
                return optuna.create_study(storage=storage, study_name=STUDY, direction="maximize", load_if_exists=True)
            return optuna.load_study(storage=storage, study_name=STUDY)
    except (LookupError, ValueError, TypeError) as error:
        raise _damaged(journal, f"its lines do not fit together ({type(error).__name__}: {error})") from error


def _check_lines(journal: Path) -> int:
    """Refuses a journal with a damaged line; the last one may be partly written. Returns the number of whole lines."""
    *lines, _ = journal.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            raise _damaged(journal, f"line {number} of {len(lines)} is not JSON")
    return len(lines)


def _damaged(journal: Path, reason: str) -> InputError:
    return InputError(
        f"The journal {journal} is damaged: {reason}",
        "Only its last line can be partly written, after a kill; reslink then removes that line",
        "Restore the file from a copy, or start the search again with another --out",
    )
