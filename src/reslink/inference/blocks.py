"""Blocks of files: where a new batch begins, so that parts of a job give the same bits as the job as a whole; their reader."""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.scope import Scope
from reslink.cores import worker_pool
from reslink.errors import ReslinkError, UsageError
from reslink.imaging.formats.numpy_array import image_from_array, invalid_source_error
from reslink.imaging.head_mask import head_mask, stated_content
from reslink.imaging.image import Image, Unit, slice_format
from reslink.imaging.limits import MAX_FILE_BYTES, ImagingWarning, warn
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image, read_with_geometry
from reslink.imaging.search import ListedFiles, list_files
from reslink.inference.prediction import Slice
from reslink.labels import CaseKind
from reslink.remote_files import read_ahead

if TYPE_CHECKING:
    from concurrent.futures import Future

SourceItem: TypeAlias = Image | NDArray[Any] | ListedFiles

BLOCK_BATCHES: Final = 8
"""Number of batches of files in a block.

An output may depend on the size of its batch in the last bits. A batch therefore ends with a block, whatever its files hold.
"""

FILES_BEFORE_WORKERS: Final = 256
"""Number of files that are read before worker processes start: their start takes half a second."""

_FILES_PER_JOB: Final = 8
"""Number of files of a job, but a DICOM series is one job."""

_JOBS_PER_WORKER: Final = 4


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


@dataclass(frozen=True)
class SliceReader:
    """Reads and preprocesses the slices of sources; an unreadable one gives a slice with its error.

    Attributes:
        preprocess: The preprocessing of the bundle.
        scope: The scope of the bundle.
        case: Whether a case of the bundle is a slice or a series.
        sequence: The MR sequence of the files; None takes what each file states.
        unit: Unit of arrays, and of files that state none.
        measure: Whether to read what decides about the series of a slice: geometry, format and head area.
    """

    preprocess: Preprocess
    scope: Scope
    case: CaseKind
    sequence: str | None = None
    unit: Unit | None = None
    measure: bool = False

    def slices(self, item: SourceItem) -> Iterator[Slice]:
        """Yields the slices of an item of :func:`in_blocks`."""
        if isinstance(item, ListedFiles):
            yield from self._listed_slices(item)
        else:
            image = item if isinstance(item, Image) else partial(image_from_array, item, self.unit)
            yield from self._slices_of(Slice(getattr(item, "source", "array") or "image", None, None), image)

    def _listed_slices(self, listed: ListedFiles) -> Iterator[Slice]:
        if listed.error:
            yield Slice(listed.given, None, None, listed.error)
        read = read_with_geometry if self.measure else read_image
        for position, file in enumerate(listed.files):
            item = Slice(str(file), position if len(listed.files) > 1 else None, None, folder=listed.folder)
            yield from self._slices_of(item, partial(read, file, self.unit))

    def _slices_of(self, file: Slice, read: Image | Callable[[], Image | tuple[Image, dict[str, Any]]]) -> Iterator[Slice]:
        """Yields the slices of a file, which is given without pixels."""
        try:
            content = read if isinstance(read, Image) else read()
            image, geometry = (content, {}) if isinstance(content, Image) else content
            planes, file = image.slices(), replace(file, notes=image.notes)
        except UsageError:
            raise
        except ReslinkError as error:
            yield replace(file, error=str(error))
            return
        stated = stated_content(image, self.sequence)
        refused = self.scope.refusal(stated)
        file = replace(file, count=len(planes), geometry=geometry, stated=stated, refused=refused)
        for position, plane in enumerate(planes):
            item = replace(file, index=position, image=plane) if len(planes) > 1 else replace(file, image=plane)
            try:
                item = item if refused else replace(item, pixels=self.preprocess.pixels(plane))
            except ReslinkError as error:
                yield replace(item, error=str(error))
                continue
            yield self._measured(item, plane) if self.measure else item

    def _measured(self, item: Slice, plane: Image) -> Slice:
        """Returns the slice with format and head area, if it may belong to a series."""
        if self.case == "slice" and item.count == 1 and item.geometry.get("position") is None:
            return item
        return replace(item, slice_format=slice_format(plane), head_area=int(head_mask(plane).sum()))


def read_slices(reader: SliceReader, items: Iterator[SourceItem | None], workers: int = 0) -> Iterator[Slice | None]:
    """Yields the slices of items in order, and None where a block ends; the next remote files are fetched meanwhile.

    Args:
        reader: Reads the items.
        items: From :func:`in_blocks`.
        workers: Number of worker processes, which read after ``FILES_BEFORE_WORKERS`` files; their slices have no image. 0
            reads everything in this process.
    """
    here = _take(items, FILES_BEFORE_WORKERS) if workers else items
    for item in read_ahead(here, _files_of, MAX_FILE_BYTES):
        yield from (None,) if item is None else reader.slices(item)
    jobs = iter(lambda: tuple(_take(items, _FILES_PER_JOB)), ())
    first = next(jobs, ())
    if not first:
        return
    for slices, messages in _read_jobs(reader, itertools.chain([first], jobs), workers):
        for message in messages:
            warn(message)
        yield from slices


def _take(items: Iterator[SourceItem | None], n_files: int) -> Iterator[SourceItem | None]:
    """Yields items until they have a number of files."""
    count = 0
    for item in items:
        yield item
        count += 0 if item is None else max(1, len(_files_of(item)))
        if count >= n_files:
            return


_Job: TypeAlias = tuple[SourceItem | None, ...]
_Read: TypeAlias = tuple[list[Slice | None], list[str]]


def _read_jobs(reader: SliceReader, jobs: Iterator[_Job], workers: int) -> Iterator[_Read]:
    """Yields the slices and warnings of each job in order; if a worker dies, this process reads the rest."""
    waiting: deque[_Job] = deque()
    results: deque[Future[_Read]] = deque()
    with worker_pool(workers) as pool:
        try:
            while True:
                for job in itertools.islice(jobs, workers * _JOBS_PER_WORKER - len(waiting)):
                    waiting.append(job)  # before it is given to a pool that may have died
                    results.append(pool.submit(_read_job, reader, job))
                if not waiting:
                    return
                result = results.popleft().result()
                waiting.popleft()
                yield result
        except BrokenProcessPool:
            warn("A process that reads files has died, possibly because memory ran out; this process reads the remaining files")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    for job in itertools.chain(waiting, jobs):
        yield _read_job(reader, job)


def _read_job(reader: SliceReader, job: _Job) -> _Read:
    """Returns the slices of a job without their images, and the warnings of the readers, which are not shown here."""
    slices: list[Slice | None] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ImagingWarning)
        for item in read_ahead(job, _files_of, MAX_FILE_BYTES):
            slices += [None] if item is None else [replace(one, image=None) for one in reader.slices(item)]
    return slices, [str(warning.message) for warning in caught if warning.category is ImagingWarning]
