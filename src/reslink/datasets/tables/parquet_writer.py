"""Parquet files that are written row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Literal, TypeAlias

from reslink.datasets.tables.parquet_file import SUFFIX
from reslink.files import optional_import

ColumnType: TypeAlias = Literal["string", "int64", "float64", "bool", "binary", "list<int64>", "list<string>", "list<float32>"]

GROUP_ROWS: Final = 1 << 14
"""Number of rows of a row group."""


def is_parquet_name(path: Path) -> bool:
    """Returns whether a file that is to be written is a Parquet file by its suffix."""
    return path.suffix.lower() == SUFFIX


class ParquetWriter:
    """Writes rows to an open file, in row groups. The file is complete when the block ends without an error.

    Args:
        stream: The file; it stays open.
        columns: The type of each column, by name.
        group_rows: Number of rows of a row group, which are in memory at once.

    Raises:
        UsageError: If pyarrow is not installed.
    """

    def __init__(self, stream: BinaryIO, columns: Mapping[str, ColumnType], group_rows: int = GROUP_ROWS) -> None:
        parquet, self._schema = optional_import("pyarrow.parquet", "parquet"), parquet_schema(columns)
        texts = [name for name, data_type in columns.items() if data_type == "string"]
        self._writer: Any = parquet.ParquetWriter(stream, self._schema, use_dictionary=texts)
        self._group_rows = group_rows
        self._cells: tuple[list[Any], ...] = tuple([] for _ in columns)

    def append(self, row: Sequence[Any]) -> None:
        """Adds a row with a cell for each column, in order; None is null."""
        for column, cell in zip(self._cells, row, strict=True):
            column.append(cell)
        if len(self._cells[0]) == self._group_rows:
            self._write_group()

    def close(self) -> None:
        """Writes the last rows, and completes the file; closing it again does nothing."""
        try:
            if self._cells[0]:
                self._write_group()
        finally:
            self._writer.close()

    def __enter__(self) -> ParquetWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self._writer.close()

    def _write_group(self) -> None:
        import pyarrow as pa

        arrays = [pa.array(cells, field.type) for cells, field in zip(self._cells, self._schema, strict=True)]
        self._writer.write_table(pa.table(arrays, schema=self._schema))
        for cells in self._cells:
            cells.clear()


def parquet_schema(columns: Mapping[str, ColumnType]) -> Any:
    """Returns the Arrow schema of columns with these names and types.

    Raises:
        UsageError: If pyarrow is not installed.
    """
    pa: Any = optional_import("pyarrow", "parquet")

    def arrow_type(name: str) -> Any:
        return pa.list_(arrow_type(name[5:-1])) if name.startswith("list<") else pa.type_for_alias(name)

    return pa.schema([(name, arrow_type(data_type)) for name, data_type in columns.items()])


def has_columns(path: Path, columns: Mapping[str, ColumnType]) -> bool:
    """Returns whether a file is a Parquet file with exactly these columns.

    Raises:
        UsageError: If pyarrow is not installed.
    """
    parquet: Any = optional_import("pyarrow.parquet", "parquet")
    import pyarrow as pa

    try:
        return bool(parquet.read_schema(path).equals(parquet_schema(columns)))
    except (OSError, pa.ArrowException):
        return False
