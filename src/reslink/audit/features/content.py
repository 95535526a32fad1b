"""The content of a file, read and parsed once for all features."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from reslink.imaging.decode import HEAD_BYTES, detect_image_format
from reslink.imaging.limits import MAX_FILE_BYTES

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class FileContent:
    """The content of a file.

    Attributes:
        data: All bytes; empty for a folder and for a file beyond the limit.
        format: The format by content such as ``DICOM`` or ``PNG``, ``unknown``; ``folder`` or ``large`` if nothing was read.
    """

    data: bytes
    format: str

    @classmethod
    def read(cls, path: str | Path) -> FileContent:
        """Reads a file.

        Raises:
            OSError: If it cannot be read.
        """
        source = Path(path)
        if not source.is_file() or source.stat().st_size > MAX_FILE_BYTES:
            return cls(b"", "folder" if source.is_dir() else "large")
        data = source.read_bytes()
        return cls(data, detect_image_format(data[:HEAD_BYTES]) or "unknown")

    @cached_property
    def dataset(self) -> Dataset:
        """The data set of a DICOM file; errors as in ``parse_dataset``, and many kinds of errors of pydicom."""
        from reslink.imaging.dicom.file_format import parse_dataset  # imports pydicom, which is slow

        return parse_dataset(self.data, "the file")
