"""Storage of a shard of the pixel cache: arrays that grow row by row and are memory-mapped when complete."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import importlib.resources
import json
import os
from collections.abc import Iterable, Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from reslink.errors import UsageError
from reslink.files import sha256, storage_errors, write_json

UInt8Array = NDArray[np.uint8]

_VERSION = 3
_DECODING_MODULES = (  # beside all of imaging
    "datasets/cache/decode.py",
    "datasets/near_duplicates/thumbnails.py",
    "datasets/patient_ids.py",
)
_BY_CASE = ("failed", "slices")
_PACKAGES = ("numpy", "opencv-python-headless", "pillow", "scipy", "pydicom", "nibabel")


def code_digest() -> str:
    """Returns the SHA-256 of the decoding code and the versions of the packages that it uses.

    A cache is never used by a version of reslink that might decode differently.
    """
    parts = [f"cache {_VERSION}", *(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)]
    package = Path(str(importlib.resources.files("reslink")))
    for file in sorted([*(package / "imaging").rglob("*.py"), *(package / path for path in _DECODING_MODULES)]):
        parts.append(sha256(file.read_bytes()))
    return sha256("\n".join(parts))


@dataclass
class CacheIndex:
    """Index of the rows of a shard; written as JSON beside the arrays.

    Attributes:
        recipe: Digest of the settings and the decoding code; rows with the same recipe and key are equal.
        keys: The hashes of image and mask of each case.
        done: Number of processed cases, from the first.
        kept: Index of the case of each row; a series has several rows.
        failed: Case index to the reason why the case has no row, without names, see ``hide_names``.
        units: Unit of the values of each row: HU, MR or gray.
        notes: Remarks of the reader about each row, without names.
        stated: What the file of each row states: modality, sequence, plane, and why it is not a slice of a head.
        slices: Case index to the number of slices of its series, where a case is a series.
    """

    recipe: str
    keys: list[str]
    done: int = 0
    kept: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    units: list[str] = field(default_factory=list)
    notes: list[list[str]] = field(default_factory=list)
    stated: list[list[str | None]] = field(default_factory=list)
    slices: dict[int, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether all cases are processed."""
        return self.done == len(self.keys)

    def remove_unfinished(self) -> None:
        """Removes what an error or Ctrl-C left of the case that was being stored; the resumed run decodes it again."""
        rows = sum(case < self.done for case in self.kept)
        for column in (self.kept, self.units, self.notes, self.stated):
            del column[rows:]
        for name in _BY_CASE:
            vars(self)[name].pop(self.done, None)

    def write(self, folder: Path) -> None:
        """Writes ``index.json`` atomically."""
        by_case = {name: {str(case): value for case, value in vars(self)[name].items()} for name in _BY_CASE}
        write_json(folder / "index.json", {**vars(self), **by_case})

    @classmethod
    def read(cls, folder: Path) -> CacheIndex | None:
        """Returns the index in a folder, or None if it is missing or unusable."""
        try:
            value = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            return cls(**{**value, **{name: {int(case): entry for case, entry in value[name].items()} for name in _BY_CASE}})
        except (OSError, ValueError, TypeError, KeyError):
            return None


class RowWriter:
    """Appends uint8 rows to one ``.npy`` file per name.

    Uses plain writes instead of a writable memory map: a full disk raises an error, where a map would kill the process.

    Args:
        folder: The folder of the files.
        shapes: Shape of a row by name.
        rows: Number of rows to keep from an interrupted run; later rows are removed.

    Raises:
        StorageError: If a file cannot be written, now or in a later call.
    """

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]], rows: int) -> None:
        self._folder = folder
        self._shapes = shapes
        self._files: dict[str, BinaryIO] = {}
        with self._guarded():
            folder.mkdir(parents=True, exist_ok=True)
            for name, shape in shapes.items():
                path = folder / f"{name}.npy"
                self._files[name] = stream = path.open("r+b" if rows else "wb")
                self._header(name, rows)
                stream.truncate(stream.tell() + rows * int(np.prod(shape)))
                stream.seek(0, os.SEEK_END)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for stream in self._files.values():
            with contextlib.suppress(OSError):  # sync has already reported a full disk
                stream.close()

    def append(self, rows: Mapping[str, UInt8Array]) -> None:
        """Appends one row to each file."""
        with self._guarded():
            for name, stream in self._files.items():
                stream.write(np.ascontiguousarray(rows[name]).data)

    def sync(self) -> None:
        """Flushes all rows to disk."""
        with self._guarded():
            for stream in self._files.values():
                stream.flush()
                os.fsync(stream.fileno())

    def finish(self, rows: int) -> None:
        """Writes the number of rows into the headers, which numpy pads for this purpose."""
        with self._guarded():
            for name in self._files:
                self._header(name, rows)
        self.sync()

    def _header(self, name: str, rows: int) -> None:
        stream = self._files[name]
        stream.seek(0)
        shape = (rows, *self._shapes[name])
        npy.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})

    def _guarded(self) -> AbstractContextManager[None]:
        return storage_errors(
            f"The cache {self._folder}",
            "Free some space or choose another folder, then run the same command again to continue",
        )


def open_rows(folder: Path, name: str, shape: tuple[int, ...]) -> UInt8Array | None:
    """Maps an array of a shard for reading; None where it is missing, cut short or of another shape.

    Raises:
        UsageError: If the process has too many open files.
    """
    try:
        array = npy.open_memmap(folder / f"{name}.npy", mode="r")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EMFILE:
            raise UsageError(
                f"The cache {folder.parent.parent} has more files than this process may open",
                "Each shard of about 4,096 images has three or four",
                "Raise the limit of open files, for example with: ulimit -n 8192",
            ) from error
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None


@dataclass(frozen=True)
class CacheRow:
    """The row of one case in each array, the unit of its values, the remarks of the reader, and what the file states."""

    arrays: Mapping[str, UInt8Array]
    unit: str
    notes: list[str]
    stated: list[str | None]


@dataclass(frozen=True)
class CaseRows:
    """The rows of one case, and the number of slices of its series; None for a slice."""

    rows: list[CacheRow]
    slices: int | None = None


@dataclass(frozen=True)
class StoredCase:
    """A case in another shard."""

    arrays: Mapping[str, UInt8Array]
    index: CacheIndex
    case: int
    rows: list[int]

    def read(self) -> CaseRows:
        """Returns its rows."""
        other = self.index
        rows = [
            CacheRow(
                {name: array[row] for name, array in self.arrays.items()}, other.units[row], other.notes[row], other.stated[row]
            )
            for row in self.rows
        ]
        return CaseRows(rows, other.slices.get(self.case))


def find_stored_cases(
    folders: Iterable[Path], recipe: str, keys: Set[str], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, StoredCase]:
    """Returns cases of the same recipe in complete shards, by key.

    Args:
        folders: Folders that may hold the rows of a shard.
        recipe: The digest of settings and code.
        keys: The keys to look for.
        shapes: Shape of a row of each array that is needed.
    """
    stored: dict[str, StoredCase] = {}
    for folder in folders:
        index = CacheIndex.read(folder)
        if index is None or not index.complete or index.recipe != recipe or keys.isdisjoint(index.keys):
            continue
        arrays = {name: open_rows(folder, name, (len(index.kept), *shape)) for name, shape in shapes.items()}
        mapped = {name: array for name, array in arrays.items() if array is not None}
        if len(mapped) == len(shapes):
            rows: dict[int, list[int]] = {}
            for row, case in enumerate(index.kept):
                rows.setdefault(case, []).append(row)
            stored.update(
                (index.keys[case], StoredCase(mapped, index, case, own))
                for case, own in rows.items()
                if index.keys[case] in keys
            )
    return stored
