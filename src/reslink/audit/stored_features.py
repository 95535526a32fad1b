"""Features of files in Parquet: the parts of an audit on a cluster, and the features of data sets too large for memory."""

from __future__ import annotations

import json
import math
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, overload

import numpy as np

from reslink.audit.burned_in_text import TextBox
from reslink.audit.extract import Extracted, FileFeatures, Volume
from reslink.audit.features.image import ImageFeatures
from reslink.datasets.near_duplicates.thumbnails import THUMBNAIL_SIZE, Thumbnails
from reslink.datasets.patient_ids import HeaderPatient
from reslink.datasets.tables.parquet_writer import ColumnType, ParquetWriter
from reslink.errors import UsageError
from reslink.files import optional_import

if TYPE_CHECKING:
    import pyarrow as pa

MAX_IN_MEMORY: Final = 20_000
"""Number of files up to which features are kept in memory, 10 KB each; those of more files are kept on disk."""

GROUP_ROWS: Final = 1000
"""Number of files of a row group, which is read at once."""


@dataclass(frozen=True)
class _Column:
    """How the values of a field are stored.

    Attributes:
        data_type: Its type in the file.
        encode: Turns a value into what Arrow accepts.
        decode: Turns it back.
    """

    data_type: ColumnType
    encode: Callable[[Any], Any] = lambda value: value
    decode: Callable[[Any], Any] = lambda value: value


def _square(value: bytes) -> Any:
    side = math.isqrt(len(value))
    return np.frombuffer(value, np.uint8).reshape(side, side)


_SCALARS: Final = {
    "str": _Column("string"),
    "int | None": _Column("int64"),
    "float": _Column("float64", float),
    "float | None": _Column("float64", lambda value: None if value is None else float(value)),
    "tuple[int, int]": _Column("list<int64>", lambda value: [int(side) for side in value], tuple),
    "list[str]": _Column("list<string>"),
    "list[TextBox]": _Column(
        "string",
        lambda boxes: json.dumps([asdict(box) for box in boxes], default=lambda value: value.item()),
        lambda text: [TextBox(**box) for box in json.loads(text)],
    ),
    "HeaderFeatures": _Column("string", json.dumps, json.loads),
    "NDArray[np.uint8]": _Column("binary", lambda picture: picture.tobytes(), _square),
    "NDArray[np.float32]": _Column("list<float32>"),
    "NDArray[np.float32] | None": _Column("list<float32>"),
}
"""The columns by the type of a field. Numbers keep all their bits, so that an audit does not depend on where they were."""

_NESTED: Final[dict[str, Any]] = {"ImageFeatures": ImageFeatures, "HeaderPatient": HeaderPatient}
_MESSAGE: Final = "message"
_VOLUME: Final = "volume"


@lru_cache(maxsize=1)
def _columns() -> dict[str, _Column]:
    """Returns the columns by name, such as ``sha256`` or ``image.contrast``."""
    columns = {_MESSAGE: _Column("string"), _VOLUME: _Column("string")}
    for field in fields(FileFeatures):
        if (nested := _NESTED.get(str(field.type))) is None:
            columns[field.name] = _SCALARS[str(field.type)]
        else:
            columns |= {f"{field.name}.{inner.name}": _SCALARS[str(inner.type)] for inner in fields(nested)}
    return columns


def _writer(file: Any) -> ParquetWriter:
    return ParquetWriter(file, {name: column.data_type for name, column in _columns().items()}, GROUP_ROWS)


def _row(item: Extracted) -> list[Any]:
    """Returns the cells of a file in the order of the columns."""
    columns = _columns()
    if isinstance(item, FileFeatures):
        return [None, None, *(column.encode(_value(item, name)) for name, column in list(columns.items())[2:])]
    message, volume = (item, None) if isinstance(item, str) else (item.message, item.problem)
    return [message, volume, *[None] * (len(columns) - 2)]


def _value(item: FileFeatures, name: str) -> Any:
    outer, _, inner = name.partition(".")
    value = getattr(item, outer)
    return getattr(value, inner) if inner else value


def _extracted(table: pa.Table) -> Iterator[Extracted]:
    """Yields the files of a table."""
    names = list(_columns())
    for row in zip(*(_values(table.column(name).combine_chunks(), _columns()[name]) for name in names), strict=True):
        values = dict(zip(names, row, strict=True))
        message, volume = values.pop(_MESSAGE), values.pop(_VOLUME)
        if volume is not None:
            yield Volume(volume, message)
        elif message is not None:
            yield message
        else:
            yield _features(values)


def _features(values: dict[str, Any]) -> FileFeatures:
    nested: dict[str, dict[str, Any]] = {}
    for name in [name for name in values if "." in name]:
        outer, _, inner = name.partition(".")
        nested.setdefault(outer, {})[inner] = values.pop(name)
    made = {
        field.name: _NESTED[str(field.type)](**nested[field.name]) for field in fields(FileFeatures) if field.name in nested
    }
    return FileFeatures(**values, **made)


def _values(array: Any, column: _Column) -> Iterator[Any]:
    """Yields the values of a column; None where it is null."""
    if column.data_type == "list<float32>":  # as views of one array
        numbers, ends = array.values.to_numpy(), array.offsets.to_numpy()
        present = array.is_valid().to_pylist()
        return (numbers[start:end] if valid else None for start, end, valid in zip(ends[:-1], ends[1:], present, strict=True))
    return (None if value is None else column.decode(value) for value in array.to_pylist())


def features_to_parquet(items: Iterable[Extracted]) -> bytes:
    """Returns a Parquet file with a row per file.

    Raises:
        UsageError: If pyarrow is not installed (extra ``parquet``, also part of the extra ``ray``).
    """
    with tempfile.TemporaryFile() as file:
        with _writer(file) as writer:
            for item in items:
                writer.append(_row(item))
        file.seek(0)
        return file.read()


def features_from_parquet(path: Path) -> Iterator[Extracted]:
    """Yields what :func:`features_to_parquet` got, with the same bits in every number and one row group in memory at a time."""
    parquet = optional_import("pyarrow.parquet", "parquet")
    with parquet.ParquetFile(path) as stored:
        for group in range(stored.num_row_groups):
            yield from _extracted(stored.read_row_group(group))


class StoredFeatures(Sequence[FileFeatures]):
    """Features of many files in temporary files, of which a thousand are in memory at a time.

    Features are appended, then :meth:`finish` is called, and then they can be read. The files have no names, so that nothing
    remains if the process is killed. Rows are fast to read in their order.

    Raises:
        UsageError: If pyarrow is not installed.
    """

    def __init__(self) -> None:
        self._parquet: Any = optional_import("pyarrow.parquet", "parquet")
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the object)
        self._pictures: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._writer = _writer(self._file)
        self._count = 0
        self._reader: Any = None
        self._group = -1
        self._items: list[FileFeatures] = []
        weakref.finalize(self, _close, self._writer, self._file, self._pictures)

    def append(self, item: FileFeatures) -> None:
        """Adds the features of a file."""
        self._writer.append(_row(item))
        self._pictures.write(item.thumbnail.tobytes())
        self._count += 1

    def finish(self) -> None:
        """Ends the appending."""
        self._writer.close()
        self._pictures.flush()
        self._reader = self._parquet.ParquetFile(self._file)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> FileFeatures: ...
    @overload
    def __getitem__(self, index: slice) -> list[FileFeatures]: ...
    def __getitem__(self, index: int | slice) -> FileFeatures | list[FileFeatures]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index // GROUP_ROWS != self._group:
            self._group, self._items = index // GROUP_ROWS, list(self._read(index // GROUP_ROWS))
        return self._items[index % GROUP_ROWS]

    def __iter__(self) -> Iterator[FileFeatures]:
        for group in range(self._reader.num_row_groups):
            yield from self._read(group)

    def _read(self, group: int) -> Iterator[FileFeatures]:
        return (item for item in _extracted(self._reader.read_row_group(group)) if isinstance(item, FileFeatures))

    def thumbnails(self) -> Thumbnails:
        """Returns the thumbnails, (n, 64, 64) uint8, as a memory-mapped file."""
        return np.memmap(self._pictures, np.uint8, "r", shape=(self._count, THUMBNAIL_SIZE, THUMBNAIL_SIZE))


def _close(*opened: ParquetWriter | IO[bytes]) -> None:
    for one in opened:
        one.close()


def make_store(count: int, on_message: Callable[[str], None]) -> list[FileFeatures] | StoredFeatures:
    """Returns where to keep the features of a number of files: a list, or for more than 20,000 files temporary files.

    Args:
        count: Number of files.
        on_message: Receives why many files are kept in memory.
    """
    if count <= MAX_IN_MEMORY:
        return []
    try:
        return StoredFeatures()
    except UsageError as error:
        on_message(f"The features of {count:,} files are kept in memory, {count * 10 // 2**20 + 1:,} GiB: {error}")
        return []
