"""Shards of the pixel cache: the rows of some thousand images each, which one process at a time fills.

``CACHE/shards/NAME/rows`` holds a complete shard, and ``CACHE/shards/NAME/HOST.part`` one that a process on this host fills.
The second is renamed to the first when its last row is written, so that no reader sees a part of a shard.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.cache.case_names import CASE, hide_names, show_names
from reslink.datasets.cache.decode import DecodedCase, DecodedSeries, DecodeJob, WorkerPool, decode_all
from reslink.datasets.cache.sharded_rows import ShardedRows, UInt8Array
from reslink.datasets.cache.source_files import SourceFiles
from reslink.datasets.cache.storage import (
    CacheIndex,
    CacheRow,
    CaseRows,
    RowWriter,
    StoredCase,
    find_stored_cases,
    open_rows,
)
from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.errors import StorageError, UsageError
from reslink.files import fsync_folder, lock_folder, sha256, storage_errors
from reslink.imaging.preprocess import Preprocess
from reslink.labels import CaseKind

Progress = Callable[[int, int], None]

SHARD_IMAGES: Final = 4096

_SAVE_SECONDS = 2.0
_MIN_IMAGES_FOR_WORKERS = 400
_SLICES_PER_SERIES = 20


@dataclass(frozen=True)
class Shard:
    """Some cases of a data set, whose rows are in one folder.

    Attributes:
        folder: The folder; its name is a digest of the recipe, the arrays and the sorted keys.
        recipe: Digest of the settings and the decoding code.
        cases: Index of each case in the manifest, ascending.
        keys: The key of each case. The rows of the folder may have another order.
        shapes: Shape of a row of each array.
    """

    folder: Path
    recipe: str
    cases: list[int]
    keys: list[str]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def rows_folder(self) -> Path:
        """Folder of the complete rows."""
        return self.folder / "rows"

    @property
    def part_folder(self) -> Path:
        """Folder of the rows that this host decodes. Another host has its own, in case its locks are not seen here."""
        return self.folder / f"{platform.node()}.part"

    def read(self) -> CacheIndex | None:
        """Returns the index if the rows are complete, otherwise None."""
        index = CacheIndex.read(self.rows_folder)
        if index is None or not index.complete or index.recipe != self.recipe or sorted(index.keys) != sorted(self.keys):
            return None
        complete = all(
            open_rows(self.rows_folder, name, (len(index.kept), *shape)) is not None for name, shape in self.shapes.items()
        )
        return index if complete else None

    def read_part(self) -> CacheIndex:
        """Returns the index of an interrupted run if its arrays hold all of its rows, otherwise a new index."""
        new, part = CacheIndex(self.recipe, self.keys), CacheIndex.read(self.part_folder)
        if part is None or (part.recipe, part.keys) != (new.recipe, new.keys):
            return new
        for name, shape in self.shapes.items():
            path = self.part_folder / f"{name}.npy"
            if not path.exists() or path.stat().st_size < len(part.kept) * int(np.prod(shape)):
                return new
        return part

    def publish(self) -> None:
        """Renames the folder of a filled shard, so that others can read it, and removes the parts that other hosts left.

        Raises:
            StorageError: If it cannot be renamed.
        """
        with storage_errors(f"The cache {self.folder}"):
            if self.rows_folder.exists() and self.read() is None:  # damaged
                shutil.rmtree(self.rows_folder)
            try:
                self.part_folder.rename(self.rows_folder)
            except OSError:  # a host that does not see the lock was faster
                if self.read() is None:
                    raise
            for part in self.folder.glob("*.part"):
                shutil.rmtree(part, ignore_errors=True)  # such a host may still write to its own
            fsync_folder(self.folder)

    def positions(self, index: CacheIndex) -> list[int]:
        """Returns the position of each case in the index of the rows."""
        if index.keys == self.keys:
            return list(range(len(self.keys)))
        stored = sorted(range(len(self.keys)), key=index.keys.__getitem__)
        wanted = sorted(range(len(self.keys)), key=self.keys.__getitem__)
        return [position for _, position in sorted(zip(wanted, stored, strict=True))]


def split_into_shards(folder: Path, recipe: str, sources: SourceFiles, shapes: Mapping[str, tuple[int, ...]]) -> list[Shard]:
    """Divides the readable files of a data set into shards, in the order of the cases.

    Args:
        folder: The cache folder.
        recipe: Digest of the settings and the decoding code.
        sources: The files.
        shapes: Shape of a row of each array.
    """
    cases = [i for i in range(len(sources.keys)) if i not in sources.missing]
    size, shards = shard_size(sources.case), []
    for own in (cases[start : start + size] for start in range(0, len(cases), size)):
        keys = [sources.keys[i] for i in own]
        name = sha256("\n".join([recipe, *shapes, *sorted(keys)]))[:16]
        shards.append(Shard(folder / "shards" / name, recipe, own, keys, shapes))
    return shards


def shard_size(case: CaseKind) -> int:
    """Returns the number of cases of a shard."""
    return max(1, SHARD_IMAGES // (_SLICES_PER_SERIES if case == "series" else 1))


class ShardFiller:
    """Decodes the shards that are missing; several processes may do so at the same time, each shard in one of them.

    Args:
        manifest: The cases.
        sources: Their files.
        preprocess: The preprocessing of the images.
        workers: Number of worker processes; 0 decodes in this process, None chooses by the number of images.
        on_progress: Called with the number of finished cases and the total.

    Attributes:
        decoded: Number of cases that this process has decoded; the other readable ones were in the folder.
    """

    def __init__(
        self,
        manifest: Manifest,
        sources: SourceFiles,
        preprocess: Preprocess,
        workers: int | None,
        on_progress: Progress | None,
    ) -> None:
        self._manifest, self._sources, self._preprocess = manifest, sources, preprocess
        self._workers, self._on_progress = workers, on_progress
        self._done = len(sources.missing)
        self._stored: dict[str, StoredCase] = {}
        self.decoded = 0

    def fill(self, shards: Sequence[Shard]) -> list[CacheIndex]:
        """Returns the index of each shard, once all are complete.

        Raises:
            StorageError: If a folder cannot be written to.
        """
        indexes = {i: index for i, shard in enumerate(shards) if (index := shard.read()) is not None}
        missing = [i for i in range(len(shards)) if i not in indexes]
        self._done += sum(len(index.keys) for index in indexes.values())
        if self._done:
            self._report()
        if missing:
            self._stored = self._find_stored(shards, missing)
            with WorkerPool(choose_workers(_MIN_IMAGES_FOR_WORKERS) if self._workers is None else self._workers) as pool:
                while missing:
                    taken = {i: index for i in missing if (index := self._take(shards[i], pool)) is not None}
                    if not taken:  # other processes fill all of them
                        taken = {missing[0]: self._wait(shards[missing[0]], pool)}
                    indexes.update(taken)
                    missing = [i for i in missing if i not in indexes]
        return [indexes[i] for i in range(len(shards))]

    def _find_stored(self, shards: Sequence[Shard], missing: Sequence[int]) -> dict[str, StoredCase]:
        first = shards[missing[0]]
        folders = sorted(first.folder.parent.glob("*/rows"))
        keys = {key for i in missing for key in shards[i].keys}
        return find_stored_cases(folders, first.recipe, keys, first.shapes)

    def _take(self, shard: Shard, pool: WorkerPool) -> CacheIndex | None:
        """Completes a shard; returns None if another process is filling it."""
        with contextlib.ExitStack() as lock:
            try:
                self._lock(lock, shard, wait=False)
            except UsageError:
                return None
            return self._complete(shard, pool)

    def _wait(self, shard: Shard, pool: WorkerPool) -> CacheIndex:
        """Completes a shard after the process that is filling it has finished or died."""
        with contextlib.ExitStack() as lock:
            self._lock(lock, shard, wait=True)
            return self._complete(shard, pool)

    @staticmethod
    def _lock(lock: contextlib.ExitStack, shard: Shard, *, wait: bool) -> None:
        with storage_errors(f"The cache {shard.folder}"):
            lock.enter_context(lock_folder(shard.folder, wait=wait))

    def _complete(self, shard: Shard, pool: WorkerPool) -> CacheIndex:
        if (index := shard.read()) is None:
            try:
                index = self._fill(shard, pool)
            except StorageError:
                if (index := shard.read()) is None:
                    raise
                # a host that does not see the lock was faster, and removed the part of this one
            self._done += len(shard.keys)
        else:  # another process filled it
            self._done += len(shard.keys)
            self._report()
        return index

    def _report(self, n_in_shard: int = 0) -> None:
        if self._on_progress:
            self._on_progress(self._done + n_in_shard, len(self._sources.keys))

    def _fill(self, shard: Shard, pool: WorkerPool) -> CacheIndex:
        """Decodes the missing rows in order; writes the index every few seconds and at the end, also after an error."""
        index, folder = shard.read_part(), shard.part_folder
        if index.done:
            self._report(index.done)
        with RowWriter(folder, shard.shapes, len(index.kept)) as writer:
            saved = time.monotonic()
            try:
                for rows in self._case_rows(shard, index, pool):
                    _store(index, writer, rows)
                    self._report(index.done)
                    if time.monotonic() - saved > _SAVE_SECONDS:
                        writer.sync()
                        index.write(folder)
                        saved = time.monotonic()
                writer.finish(len(index.kept))
            finally:
                index.remove_unfinished()
                writer.sync()
                index.write(folder)
        shard.publish()
        return index

    def _case_rows(self, shard: Shard, index: CacheIndex, pool: WorkerPool) -> Iterator[CaseRows | str]:
        """Yields the rows of each case from ``index.done`` on, or the reason why it has none."""
        remaining = range(index.done, len(shard.keys))
        cases = [self._manifest.cases[shard.cases[i]] for i in remaining if shard.keys[i] not in self._stored]
        with_mask = "masks" in shard.shapes
        jobs = [DecodeJob(CASE, case.path, case.mask, self._preprocess, with_mask, case.unit) for case in cases]
        n_images = len(jobs) * (_SLICES_PER_SERIES if self._sources.case == "series" else 1)
        in_process = self._workers is None and choose_workers(n_images) == 0
        with contextlib.closing(decode_all(jobs, WorkerPool(0) if in_process else pool, self._sources.case)) as decoded:
            for i in remaining:
                if (stored := self._stored.get(shard.keys[i])) is not None:
                    yield stored.read()
                    continue
                rows = _as_rows(next(decoded), self._manifest.cases[shard.cases[i]])
                self.decoded += not isinstance(rows, str)
                yield rows


def choose_workers(n_images: int) -> int:
    """Returns the number of worker processes to use; 0 for a few hundred images, which finish before a worker starts."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(processors, 8) if n_images >= _MIN_IMAGES_FOR_WORKERS and processors > 1 else 0


def _store(index: CacheIndex, writer: RowWriter, case: CaseRows | str) -> None:
    if isinstance(case, str):
        index.failed[index.done] = case
    else:
        for row in case.rows:
            writer.append(row.arrays)
            index.kept.append(index.done)
            index.units.append(row.unit)
            index.notes.append(row.notes)
            index.stated.append(row.stated)
        if case.slices is not None:
            index.slices[index.done] = case.slices
    index.done += 1


def _as_rows(decoded: DecodedCase | DecodedSeries | str, case: Case) -> CaseRows | str:
    if isinstance(decoded, str):
        return hide_names(decoded, case)
    if isinstance(decoded, DecodedSeries):
        return CaseRows([_as_row(part, case) for part in decoded.slices], decoded.count)
    return CaseRows([_as_row(decoded, case)])


def _as_row(decoded: DecodedCase, case: Case) -> CacheRow:
    arrays = {"pixels": decoded.pixels, "heads": decoded.head, "thumbnails": decoded.thumbnail}
    masks = {} if decoded.mask is None else {"masks": decoded.mask}
    return CacheRow(arrays | masks, decoded.unit, [hide_names(note, case) for note in decoded.notes], list(decoded.stated))


@dataclass(frozen=True)
class JoinedShards:
    """The rows of all cases of a data set, in their order.

    Attributes:
        shards: The shards.
        indexes: The index of each shard.
        index: The index of all rows; its cases are those of the manifest.
        shard_of_row: (rows,) number of the shard of each row.
        row_in_shard: (rows,) its row there.
    """

    shards: Sequence[Shard]
    indexes: Sequence[CacheIndex]
    index: CacheIndex
    shard_of_row: NDArray[np.int64]
    row_in_shard: NDArray[np.int64]

    @classmethod
    def of(
        cls, shards: Sequence[Shard], indexes: Sequence[CacheIndex], sources: SourceFiles, cases: Sequence[Case]
    ) -> JoinedShards:
        """Joins the indexes of all shards; messages and remarks get the names of the cases."""
        joined = CacheIndex("", sources.keys, len(sources.keys), failed=dict(sources.missing))
        places: list[tuple[int, int]] = []
        for number, (shard, index) in enumerate(zip(shards, indexes, strict=True)):
            first = np.searchsorted(index.kept, np.arange(len(index.keys) + 1)).tolist()
            for case, position in zip(shard.cases, shard.positions(index), strict=True):
                if position in index.failed:
                    joined.failed[case] = show_names(index.failed[position], cases[case])
                if position in index.slices:
                    joined.slices[case] = index.slices[position]
                for row in range(first[position], first[position + 1]):
                    places.append((number, row))
                    joined.kept.append(case)
                    joined.units.append(index.units[row])
                    joined.notes.append([show_names(note, cases[case]) for note in index.notes[row]])
                    joined.stated.append(index.stated[row])
        columns = np.array(places, np.int64).reshape(-1, 2)
        return cls(shards, indexes, joined, columns[:, 0].copy(), columns[:, 1].copy())

    def open(self, name: str) -> UInt8Array:
        """Maps an array: that of the shard if there is one in this order, otherwise a :class:`ShardedRows`, which reads alike.

        Raises:
            UsageError: If a shard was deleted in the meantime.
        """
        arrays = []
        for shard, index in zip(self.shards, self.indexes, strict=True):
            array = open_rows(shard.rows_folder, name, (len(index.kept), *shard.shapes[name]))
            if array is None:
                raise UsageError(
                    f"The cache {shard.folder} was deleted", "The cache must exist while it is in use", "Run the command again"
                )
            arrays.append(array)
        if not self.shard_of_row.any() and (self.row_in_shard == np.arange(len(self.row_in_shard))).all():
            return arrays[0]
        return cast("UInt8Array", ShardedRows(arrays, self.shard_of_row, self.row_in_shard))
