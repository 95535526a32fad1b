"""Source files of a data set: their content hashes, which are computed again only for files that may have changed."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest, file_hash
from reslink.datasets.patient_ids import HeaderPatient, read_header_patient
from reslink.errors import InputError, StorageError
from reslink.files import lock_folder, sha256, write_atomic
from reslink.labels import CaseKind

FILE_TABLE: Final = "files.json"
PART_TABLES: Final = "files"
"""Folder of tables that tasks of a cluster wrote, each of its own files; the next process that opens the cache joins them."""

_RACY_NS: Final = 2_000_000_000
"""A file that changed less than this before it was hashed may have changed again without a new modification time."""

_TASKS: Final = 64


class FileState(NamedTuple):
    """The state of a source file, from its metadata.

    Attributes:
        identity: Text that is another one if the content may have changed.
        changed: Time of the last change, in nanoseconds since 1970.
    """

    identity: str
    changed: int


class KnownFile(NamedTuple):
    """What was learned about a source file when it was hashed.

    Attributes:
        identity: Its identity at that time, see :class:`FileState`.
        hashed: The time, in nanoseconds since 1970.
        sha256: The hash of its content.
        names_patient: Whether a DICOM header names a patient or a study. Which one is not stored.
    """

    identity: str
    hashed: int
    sha256: str
    names_patient: bool


@dataclass(frozen=True)
class SourceFiles:
    """The content hashes of the files of a data set, and the patients in their headers.

    The cache stores nothing about patients: DICOM headers that name one are read each time.

    Attributes:
        case: Whether a case is a slice or a series.
        keys: The key of the rows of each case: hashes of image and mask, and the stated unit; ``missing`` without a readable
            file.
        hashes: SHA-256 of each image file by case name.
        missing: Case index to the reason why a file cannot be read.
        patients: The patient of each case by its DICOM header.
    """

    case: CaseKind
    keys: list[str]
    hashes: dict[str, str]
    missing: dict[int, str]
    patients: list[HeaderPatient]

    @classmethod
    def read(
        cls, manifest: Manifest, case_kind: CaseKind, folder: Path, code: str, *, verify: bool = False, is_part: bool = False
    ) -> SourceFiles:
        """Returns the source files of a data set; hashes of unchanged files are taken from the cache folder.

        Args:
            manifest: The cases.
            case_kind: Whether a case is a slice or a series.
            folder: The cache folder.
            code: Digest of the code that reads files; hashes that other code stored are not used.
            verify: Whether to hash all files again.
            is_part: Whether the cases are a part of a data set whose parts are read by many tasks. They have tables of their
                own, because each of them would otherwise write the table of all files again.
        """
        parts = [_part_table(folder, manifest.cases)] if is_part else sorted((folder / PART_TABLES).glob("*.json"))
        known = _read_tables(folder, parts, code)
        examined = _examine_all(manifest.cases, {} if verify else known)
        fresh = {key: file for case in examined for key, file in case.files.items() if known.get(key) != file}
        if fresh and is_part:
            _write_part(parts[0], code, {key: file for case in examined for key, file in case.files.items()})
        elif fresh or parts:
            _update_table(folder, parts, code, fresh)
        kind = ("series",) if case_kind == "series" else ()
        return cls(
            case_kind,
            [
                "missing" if item.error else " ".join((*kind, *item.hashes, *([case.unit] if case.unit else ())))
                for case, item in zip(manifest.cases, examined, strict=True)
            ],
            {case.name: item.hashes[0] for case, item in zip(manifest.cases, examined, strict=True) if not item.error},
            {i: item.error for i, item in enumerate(examined) if item.error},
            [item.patient for item in examined],
        )


def file_state(path: Path) -> FileState:
    """Returns the state of a file without opening it: size and modification time; for a folder, those of its files.

    This is the only place that says what identifies a local file. Of a remote one, ``file_hash`` asks the storage each time for
    its entity tag, which is as quick.

    Raises:
        OSError: If the file does not exist, or is remote.
    """
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        return FileState(f"{status.st_size} {status.st_mtime_ns}", status.st_mtime_ns)
    with os.scandir(path) as entries:
        files = sorted((entry.name, *_size_and_time(entry)) for entry in entries)
    listing = "\n".join(f"{name} {size} {changed}" for name, size, changed in files)
    return FileState(sha256(os.fsencode(listing)), max((changed for *_, changed in files), default=status.st_mtime_ns))


def _size_and_time(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        status = entry.stat()
    except OSError:  # a broken link
        return -1, 0
    return status.st_size, status.st_mtime_ns


class _Examined(NamedTuple):
    """Hashes of image and mask of a case, or the reason why a file cannot be read."""

    hashes: tuple[str, str]
    patient: HeaderPatient
    files: dict[str, KnownFile]
    error: str = ""


def _examine_all(cases: Sequence[Case], known: Mapping[str, KnownFile]) -> list[_Examined]:
    size = max(1, len(cases) // _TASKS)
    parts = [cases[start : start + size] for start in range(0, len(cases), size)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing releases the GIL, and reading waits for disks
        return [item for part in pool.map(partial(_examine_part, known), parts) for item in part]


def _examine_part(known: Mapping[str, KnownFile], cases: Sequence[Case]) -> list[_Examined]:
    return [_examine(case, known) for case in cases]


def _examine(case: Case, known: Mapping[str, KnownFile]) -> _Examined:
    files: dict[str, KnownFile] = {}
    try:
        image, patient = _examine_file(case.path, case.name, known, files)
        mask = _examine_file(case.mask, f"The mask of {case.name}", known, files)[0].sha256 if case.mask else "-"
    except InputError as error:
        return _Examined(("", ""), HeaderPatient(), files, str(error))
    return _Examined((image.sha256, mask), patient, files)


def _examine_file(
    path: Path, name: str, known: Mapping[str, KnownFile], files: dict[str, KnownFile]
) -> tuple[KnownFile, HeaderPatient]:
    """Returns the hash of a file and the patient in its header, and adds the file to ``files``."""
    key, now = sha256(os.fsencode(path))[:32], time.time_ns()
    try:
        state = file_state(path)
    except OSError:
        state = FileState("", now)  # a remote file, or file_hash says why
    file = known.get(key)
    if file is None or file.identity != state.identity or state.changed > file.hashed - _RACY_NS:
        digest, patient = file_hash(path, name), read_header_patient(path)
        file = KnownFile(state.identity, now, digest, patient != HeaderPatient())
    else:
        patient = read_header_patient(path) if file.names_patient else HeaderPatient()
    files[key] = file
    return file, patient


def _read_tables(folder: Path, parts: Sequence[Path], code: str) -> dict[str, KnownFile]:
    """Returns the known files by a hash of their path; empty if the tables are missing, damaged or of other code."""
    known: dict[str, KnownFile] = {}
    for table in (folder / FILE_TABLE, *parts):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            value = json.loads(table.read_text(encoding="utf-8"))
            known |= {key: KnownFile(*entry) for key, entry in value["files"].items()} if value["code"] == code else {}
    return known


def _write(table: Path, code: str, files: Mapping[str, KnownFile]) -> None:
    write_atomic(table, json.dumps({"code": code, "files": files}))


_UNWRITABLE: Final = (OSError, StorageError)
"""In a read-only cache the files are hashed again next time."""


def _part_table(folder: Path, cases: Sequence[Case]) -> Path:
    return folder / PART_TABLES / f"{sha256(bytes(1).join(os.fsencode(case.path) for case in cases))}.json"


def _write_part(table: Path, code: str, files: Mapping[str, KnownFile]) -> None:
    with contextlib.suppress(*_UNWRITABLE):
        table.parent.mkdir(parents=True, exist_ok=True)
        _write(table, code, files)


def _update_table(folder: Path, parts: Sequence[Path], code: str, fresh: Mapping[str, KnownFile]) -> None:
    """Adds files, and those of the parts, to the table; other processes may do so at the same time."""
    with contextlib.suppress(*_UNWRITABLE), lock_folder(folder, wait=True):
        _write(folder / FILE_TABLE, code, _read_tables(folder, parts, code) | dict(fresh))
        for part in parts:
            part.unlink(missing_ok=True)
