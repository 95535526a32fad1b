"""Blocks of files: where a new batch begins, so that parts of a job give the same bits as the job as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.imaging.formats.numpy_array import invalid_source_error
from reslink.imaging.image import Image
from reslink.imaging.limits import MAX_FILE_BYTES
from reslink.imaging.search import ListedFiles, list_files
from reslink.remote_files import read_ahead

SourceItem: TypeAlias = Image | NDArray[Any] | ListedFiles

BLOCK_BATCHES: Final = 8
"""Number of batches of files in a block.

An output may depend on the size of its batch in the last bits. A batch therefore ends with a block, whatever its files hold.
"""


def in_blocks(sources: Iterable[Any], batch_size: int) -> Iterator[SourceItem | None]:
    """Yields images, arrays and listed files, and None after each block and at each change of the folder.

    Args:
        sources: Sources of :meth:`reslink.inference.classifier.Classifier.predict`, and listed files.
        batch_size: Number of slices per batch.

    Raises:
        UsageError: If a source has an unsupported type.
    """
    folder, n_files = "", 0
    for item in _items(sources):
        own, size = (item.folder, len(item.files)) if isinstance(item, ListedFiles) else ("", 1)
        if own != folder:
            yield None
            folder, n_files = own, 0
        yield item
        n_files += size
        if n_files >= BLOCK_BATCHES * batch_size:
            yield None
            n_files = 0


def read_blocks(sources: Iterable[Any], batch_size: int) -> Iterator[SourceItem | None]:
    """Yields what :func:`in_blocks` yields, for a caller that reads it: the next remote files are fetched meanwhile."""
    return read_ahead(in_blocks(sources, batch_size), _files_of, MAX_FILE_BYTES)


def _files_of(item: SourceItem | None) -> tuple[Path, ...]:
    return item.files if isinstance(item, ListedFiles) else ()


def _items(sources: Iterable[Any]) -> Iterator[SourceItem]:
    for source in sources:
        if isinstance(source, Image | np.ndarray | ListedFiles):
            yield source
        elif isinstance(source, str | Path):
            yield from list_files(source)
        else:
            raise invalid_source_error(source)
