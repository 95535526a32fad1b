"""The files of a pixel cache: arrays that grow row by row and are mapped from disk when they are whole."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.resources
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from reslink.errors import StorageError
from reslink.files import sha256, write_json

Grey = NDArray[np.uint8]

_VERSION = 1
_CODE = ("datasets/cache/decode.py", "datasets/near_duplicates/thumbnails.py")  # beside all of imaging
_PACKAGES = ("numpy", "opencv-python-headless", "pillow", "scipy", "pydicom", "nibabel")


def code_digest() -> str:
    """Returns the SHA-256 of what makes the rows besides the settings: the code that decodes and the packages below it.

    A cache is never used by a version of reslink that would have filled it in another way.
    """
    parts = [f"cache {_VERSION}", *(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)]
    package = Path(str(importlib.resources.files("reslink")))
    for file in sorted([*(package / "imaging").rglob("*.py"), *(package / path for path in _CODE)]):
        parts.append(sha256(file.read_bytes()))
    return sha256("\n".join(parts))


@dataclass
class Index:
    """What the rows of a cache are; written as JSON beside the arrays.

    Attributes:
        recipe: Digest of the settings and the code that made the rows; rows with the same recipe and key are equal.
        keys: For each case the hashes of its image and mask.
        done: How many cases have been tried, from the first on.
        kept: The cases that have a row, in the order of the rows.
        failed: Messages of the cases that have none.
    """

    recipe: str
    keys: list[str]
    done: int = 0
    kept: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every case has been tried."""
        return self.done == len(self.keys)

    def write(self, folder: Path) -> None:
        """Writes ``index.json``, whole or not at all."""
        failed = {str(case): message for case, message in self.failed.items()}
        write_json(folder / "index.json", {**vars(self), "failed": failed})

    @classmethod
    def read(cls, folder: Path) -> Index | None:
        """Returns the index of a cache folder, None where there is none that can be used."""
        try:
            value = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            return cls(**{**value, "failed": {int(case): message for case, message in value["failed"].items()}})
        except (OSError, ValueError, TypeError, KeyError):
            return None


class RowWriter:
    """Appends uint8 rows to ``.npy`` files, one a name.

    Plain writes, not a writable map: a full disk is an error here, and would kill the process there.

    Args:
        folder: Where the files lie.
        shapes: Shape of a row by name.
        rows: Rows to keep of files that stand there from an interrupted run; what follows them is cut off.

    Raises:
        StorageError: If the files cannot be written, also later.
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
            with contextlib.suppress(OSError):  # a full disk has been reported by sync
                stream.close()

    def append(self, rows: Mapping[str, Grey]) -> None:
        """Writes one row to each file."""
        with self._guarded():
            for name, stream in self._files.items():
                stream.write(np.ascontiguousarray(rows[name]).data)

    def sync(self) -> None:
        """Brings all rows to the disk."""
        with self._guarded():
            for stream in self._files.values():
                stream.flush()
                os.fsync(stream.fileno())

    def finish(self, rows: int) -> None:
        """Writes the number of rows into the headers, which numpy leaves room for."""
        with self._guarded():
            for name in self._files:
                self._header(name, rows)
        self.sync()

    def _header(self, name: str, rows: int) -> None:
        stream = self._files[name]
        stream.seek(0)
        shape = (rows, *self._shapes[name])
        npy.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"The cache {self._folder} could not be written: {error.strerror or error}",
                "The cache needs a folder that may be written to, with room for every preprocessed image",
                "Free some space or choose another folder, then run the same command again; it goes on from here",
            ) from error


def open_rows(folder: Path, name: str, shape: tuple[int, ...]) -> Grey | None:
    """Maps an array of a cache for reading; None where it is missing, cut short or of another shape."""
    try:
        array = npy.open_memmap(folder / f"{name}.npy", mode="r")
    except (OSError, ValueError):
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None
