"""Values on disk in place of memory, for lists with a row per file."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Stored(Generic[T]):
    """Values in a temporary file, which can be iterated several times, but not by two loops at once.

    Args:
        values: The values; all are written at once.
        encode: Turns a value into JSON.
        decode: Turns it back.
        folder: Where the file is made; the folder for temporary files of the system by default. The file has no name, so that
            nothing remains if the process is killed.
    """

    def __init__(
        self, values: Iterable[T], encode: Callable[[T], Any], decode: Callable[[Any], T], folder: Path | None = None
    ) -> None:
        self._decode = decode
        self._n_values = 0
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed by __exit__)
        try:
            with gzip.GzipFile(fileobj=self._file, mode="wb", compresslevel=1) as lines:
                for value in values:
                    lines.write(json.dumps(encode(value)).encode() + b"\n")
                    self._n_values += 1
        except BaseException:
            self._file.close()
            raise

    def __iter__(self) -> Iterator[T]:
        self._file.seek(0)
        with gzip.GzipFile(fileobj=self._file, mode="rb") as lines:
            for line in lines:
                yield self._decode(json.loads(line))

    def __len__(self) -> int:
        return self._n_values

    def __enter__(self) -> Stored[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._file.close()
