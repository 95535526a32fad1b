"""Parquet tables: a file, or a folder of part files, whose cells become the texts that a CSV would hold."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reslink.datasets.tables.rows import Row, RowStream, check_headers
from reslink.errors import UsageError
from reslink.files import optional_import
from reslink.labels import clean_text

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX: Final = ".parquet"

_MAGIC: Final = b"PAR1"
_BATCH_ROWS: Final = 1 << 14
_INDEX_COLUMN: Final = re.compile(r"__index_level_\d+__")
"""The columns in which pandas stores an index; in a CSV it has no name, and columns without a name are left out."""


def is_parquet(path: Path) -> bool:
    """Returns whether a path is a Parquet file by its suffix or content, or a folder of Parquet files."""
    if path.is_dir():
        return bool(part_files(path))
    if path.suffix.lower() == SUFFIX:
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def part_files(folder: Path) -> list[Path]:
    """Returns the Parquet files directly in a folder, sorted by name; hidden files and names such as ``_metadata`` are none."""
    return sorted(file for file in folder.glob(f"*{SUFFIX}") if not file.name.startswith((".", "_")) and file.is_file())


def open_parquet(path: Path) -> RowStream:
    """Opens a Parquet file, or a folder of them, of which a few thousand rows are in memory at a time.

    Text, numbers, true and false, dates and times are read, also dictionary-encoded. They become the text that pandas writes to
    a CSV: 3, 0.5, True, 2026-01-31. Only a timestamp always keeps its time, 2026-01-31 00:00:00, which pandas leaves out if it
    is midnight in all rows. Null and NaN are empty cells. Rows in which all cells are empty are skipped.

    Raises:
        UsageError: If pyarrow is not installed, the file is not Parquet, a column has another type or the name of another
            column, or the files of a folder have different columns.
    """
    files = part_files(path) if path.is_dir() else [path]
    columns = [_columns(file) for file in files]
    for file, names in zip(files[1:], columns[1:], strict=True):
        if {*names.values()} != {*columns[0].values()}:
            raise UsageError(
                f"{path} holds tables with different columns: {files[0].name} has {', '.join(columns[0].values())}, and "
                f"{file.name} has {', '.join(names.values())}",
                "All Parquet files of a folder are parts of one table",
                "Write the parts with the same columns, or give one of the files",
            )
    return RowStream(path.name, tuple(columns[0].values()), _rows(files, columns))


def _rows(files: Sequence[Path], columns: Sequence[dict[str, str]]) -> Iterator[Row]:
    for file, names in zip(files, columns, strict=True):
        number = 0
        for batch in _batches(file, list(names)):
            texts = [_texts(batch.column(column)) for column in names]
            for cells in zip(*texts, strict=True):
                number += 1
                if any(cells):
                    yield Row(file.name, number, dict(zip(names.values(), cells, strict=True)))


def _columns(file: Path) -> dict[str, str]:
    """Returns the header of each column of a file by its name there; columns without a name are left out."""
    schema = _opened(file).schema_arrow
    names = {name: "" if _INDEX_COLUMN.fullmatch(name) else clean_text(name) for name in schema.names}
    check_headers(file, [names[name] for name in schema.names])
    named = {name: header for name, header in names.items() if header}
    for field in schema:
        if field.name in named and not _is_supported(field.type):
            raise UsageError(
                f"{file} has the column {field.name!r} of the type {field.type}",
                "Columns of a table hold text, numbers, true and false, or dates and times",
                "Save the table without this column, or with its values as text",
            )
    return named


def _opened(file: Path) -> Any:
    parquet = optional_import("pyarrow.parquet", "parquet")
    return _checked(file, lambda: parquet.ParquetFile(file, memory_map=True))


def _batches(file: Path, names: list[str]) -> Iterator[pa.RecordBatch]:
    with _opened(file) as opened:
        batches = opened.iter_batches(_BATCH_ROWS, columns=names)
        while (batch := _checked(file, lambda: next(batches, None))) is not None:
            yield batch


def _checked(file: Path, read: Callable[[], Any]) -> Any:
    import pyarrow as pa

    try:
        return read()
    except (pa.ArrowException, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UsageError(
            f"{file} cannot be read as Parquet: {reason}",
            "A Parquet table is a complete file, or a folder of complete files",
            "Write or copy the file again",
        ) from error


def _is_supported(data_type: pa.DataType) -> bool:
    from pyarrow import types

    value = data_type.value_type if types.is_dictionary(data_type) else data_type
    kinds = (types.is_string, types.is_large_string, types.is_string_view, types.is_integer, types.is_floating)
    others = (types.is_boolean, types.is_decimal, types.is_date, types.is_time, types.is_timestamp, types.is_null)
    return any(kind(value) for kind in (*kinds, *others))


def _texts(column: pa.Array) -> list[str]:
    """Returns the cells of a column as a CSV would hold them, without surrounding spaces."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)  # nanoseconds would need pandas
    values = column.to_pylist()
    if pa.types.is_floating(column.type):
        number = column.type.to_pandas_dtype()  # a NumPy type: 0.1 of 32 bits is not 0.10000000149
        return ["" if value is None or math.isnan(value) else str(number(value)) for value in values]
    return ["" if value is None else str(value).strip() for value in values]
