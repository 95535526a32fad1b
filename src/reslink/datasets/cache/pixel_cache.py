"""Pixel cache: each image is decoded once into memory-mapped arrays, from which batches are copied."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.cache import notes
from reslink.datasets.cache.decode import (
    HEAD_SIZE,
    DecodedCase,
    DecodedSeries,
    DecodeJob,
    check_not_in_worker,
    decode_all,
)
from reslink.datasets.cache.storage import (
    CacheIndex,
    CacheRow,
    CaseRows,
    RowWriter,
    cases_of_other_caches,
    code_digest,
    open_rows,
)
from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest, file_hash
from reslink.datasets.near_duplicates.thumbnails import THUMBNAIL_SIZE
from reslink.datasets.patient_ids import HeaderPatient, add_header_patients, read_header_patients
from reslink.errors import InputError, UsageError
from reslink.files import lock_folder, sha256
from reslink.imaging.image import Stated
from reslink.imaging.preprocess import Preprocess
from reslink.labels import CaseKind

if TYPE_CHECKING:  # torch is imported only to make batches, so that the cache works without it
    import torch

Progress = Callable[[int, int], None]
T = TypeVar("T")
UInt8Array = NDArray[np.uint8]
Indices = Sequence[int] | NDArray[np.integer[Any]]

_SAVE_SECONDS = 2.0
_MIN_IMAGES_FOR_WORKERS = 400
_SLICES_PER_SERIES = 20

MATCHED_SHARE: Final = 0.5
"""A series matches known images if at least this share of its slices does."""


@dataclass(frozen=True, eq=False)
class PixelCache:
    """The preprocessed images of a data set, memory-mapped, with one row per readable case, or per slice of a series.

    Attributes:
        manifest: The readable cases, in row order. Patient ids that the data set does not state come from the DICOM headers,
            as hashes.
        pixels: (rows, planes, S, S) uint8, read-only: the result of ``Preprocess.pixels``.
        heads: (rows, 56, 56) uint8, 1 inside the head.
        thumbnails: (rows, 64, 64) uint8 of the isolated head, for near-duplicate search.
        masks: (n, S, S) uint8, 1 inside the lesion; zeros for a case without a mask. None if no case has a mask.
        has_mask: (n,) bool, whether the case has a mask file.
        targets: (n,) int64 class indices.
        hashes: SHA-256 of the image file of each case.
        file_hashes: SHA-256 of every image file by case name, also of failed cases, for ``Manifest.digest``.
        failed: Case name to the reason why the case has no row.
        kept: Index of each case in the original manifest.
        is_series: Whether a case is a series.
        starts: (n + 1,) first row of each case, and the number of rows; a case that is a slice has one row.
        notes: Remarks about the data set as a whole, for the user.
        stated: What the file of each row states about its content; a sequence that the data set states replaces that of the
            file.
    """

    manifest: Manifest
    pixels: UInt8Array
    heads: UInt8Array
    thumbnails: UInt8Array
    masks: UInt8Array | None
    has_mask: NDArray[np.bool_]
    targets: NDArray[np.int64]
    hashes: list[str]
    file_hashes: Mapping[str, str]
    failed: dict[str, str]
    kept: list[int]
    starts: NDArray[np.int64]
    is_series: bool = False
    notes: tuple[str, ...] = ()
    stated: tuple[Stated, ...] = ()

    @classmethod
    def open(
        cls,
        manifest: Manifest,
        preprocess: Preprocess,
        folder: str | Path,
        workers: int | None = None,
        on_progress: Progress | None = None,
        case: CaseKind = "slice",
    ) -> PixelCache:
        """Opens the cache of a data set, and fills it if needed.

        Rows are identified by the hashes of the file content, the settings and the decoding code. A changed file is decoded
        again; a row in another cache of the same folder is copied. An interrupted run is resumed. If another process is
        filling the same cache, this one waits for it.

        Args:
            manifest: The cases.
            preprocess: The preprocessing of the images.
            folder: The folder of all caches; each data set gets its own subfolder.
            workers: Number of worker processes; 0 decodes in this process, None chooses by the number of cases.
            on_progress: Called with the number of finished cases and the total.
            case: Whether a case is a slice, or a series with several rows.

        Raises:
            UsageError: If no image can be read.
            StorageError: If the folder cannot be written to.
        """
        check_not_in_worker()
        sources = _SourceFiles.of(manifest, case)
        recipe = sha256(preprocess.digest() + code_digest())
        cache_folder = Path(folder) / sha256("\n".join([recipe, *sources.keys]))[:16]
        index = _read_complete(cache_folder, recipe, sources.keys, _shapes(preprocess, manifest))
        if index is None:
            with lock_folder(cache_folder, wait=True):
                index = _read_complete(cache_folder, recipe, sources.keys, _shapes(preprocess, manifest))
                index = index or _fill(
                    cache_folder, CacheIndex(recipe, sources.keys), manifest, sources, preprocess, workers, on_progress
                )
        elif on_progress:
            on_progress(len(index.keys), len(index.keys))
        return _open_filled(cls, cache_folder, index, manifest, sources, _shapes(preprocess, manifest))

    def __len__(self) -> int:
        return len(self.kept)

    def rows(self, case: int) -> NDArray[np.int64]:
        """Returns the rows of a case."""
        return np.arange(self.starts[case], self.starts[case + 1])

    def rows_of(self, cases: Indices) -> NDArray[np.int64]:
        """Returns the rows of some cases, case after case; empty without cases."""
        return np.concatenate([np.zeros(0, np.int64), *(self.rows(int(case)) for case in cases)])

    @property
    def case_of_row(self) -> NDArray[np.int64]:
        """(rows,) the case of each row."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def middle_rows(self, cases: Indices) -> NDArray[np.int64]:
        """Returns the middle row of some cases: that of the slice, or of the slice in the middle of the series."""
        index = np.asarray(cases, np.int64)
        return np.asarray((self.starts[index] + self.starts[index + 1]) // 2, np.int64)

    @property
    def case_stated(self) -> list[Stated]:
        """What the file of each case states; of a series its first row."""
        return [self.stated[row] for row in self.starts[:-1].tolist()]

    @property
    def row_manifest(self) -> Manifest:
        """The case of each row, for comparisons of images."""
        return self.manifest if not self.is_series else self.manifest.subset(self.case_of_row.tolist())

    def case_groups(self, row_groups: Sequence[str]) -> list[str]:
        """Returns the group of each case: groups of rows are joined if a case has rows in both.

        Args:
            row_groups: The group of each row.
        """
        if not self.is_series:
            return list(row_groups)
        from reslink.datasets.near_duplicates.groups import connected_groups  # slow to import

        numbers: dict[str, int] = {}
        rows = np.array([numbers.setdefault(group, len(self) + len(numbers)) for group in row_groups], np.intp)
        pairs = np.stack([self.case_of_row, rows], axis=1)
        joined = connected_groups(len(self) + len(numbers), pairs)[: len(self)]
        names: dict[int, str] = {}
        return [names.setdefault(group, row_groups[row]) for group, row in zip(joined, self.starts[:-1].tolist(), strict=True)]

    def matched_cases(self, matches: Mapping[int, float]) -> dict[int, float]:
        """Returns the cases that match known images with their highest correlation, by case, for correlations by row.

        A series counts if at least half of its slices match: it has dozens of slices, and simple ones, such as those near the
        vertex, look alike in different patients.
        """
        counts = Counter(self.case_of_row[list(matches)].tolist())
        highest, slices = self.by_case(matches, max), np.diff(self.starts)
        return {case: value for case, value in highest.items() if counts[case] >= MATCHED_SHARE * slices[case]}

    def by_case(self, by_row: Mapping[int, T], choose: Callable[[T, T], T] = lambda first, _: first) -> dict[int, T]:
        """Returns one value of each case, by case, for values by row.

        Args:
            by_row: The values.
            choose: Chooses between two rows of a case; by default the first.
        """
        cases = self.case_of_row
        result: dict[int, T] = {}
        for row in sorted(by_row):
            case, value = int(cases[row]), by_row[row]
            result[case] = choose(result[case], value) if case in result else value
        return result

    def batch(self, indices: Indices) -> torch.Tensor:
        """Returns the pixels of some rows, (B, planes, S, S) uint8, as a writable copy."""
        return _gather(self.pixels, indices)

    def batch_heads(self, indices: Indices) -> torch.Tensor:
        """Returns the head masks of some rows, (B, 1, 56, 56) uint8, 1 inside."""
        return _gather(self.heads, indices)[:, None]

    def batch_masks(self, indices: Indices) -> torch.Tensor | None:
        """Returns the lesion masks of some rows, (B, 1, S, S) uint8, 1 inside; None if no case has a mask."""
        return None if self.masks is None else _gather(self.masks, indices)[:, None]

    def batches(self, indices: Indices, batch_size: int) -> Iterator[NDArray[np.int64]]:
        """Yields rows in batches, in order; the last batch may be smaller.

        Raises:
            UsageError: If the batch size is below 1.
        """
        if batch_size < 1:
            raise UsageError(f"The batch size is {batch_size}", "A batch has at least one image", "Use 32")
        rows = np.asarray(indices, np.int64)
        return (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))


@dataclass(frozen=True)
class _SourceFiles:
    """The content hashes of the files of a data set, and the patients in their headers.

    Headers are read each time a cache is opened, so that the cache stores nothing about patients.
    """

    case: CaseKind
    keys: list[str]
    hashes: dict[str, str]
    missing: dict[int, str]
    patients: list[HeaderPatient]

    @classmethod
    def of(cls, manifest: Manifest, case_kind: CaseKind) -> _SourceFiles:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing releases the GIL, and reading waits for disks
            hashes = list(pool.map(_hash_files, manifest.cases))
        patients = read_header_patients(manifest.cases)
        missing = {i: pair for i, pair in enumerate(hashes) if isinstance(pair, str)}
        kind = ("series",) if case_kind == "series" else ()
        keys = [
            "missing" if isinstance(pair, str) else " ".join((*kind, *pair, *([case.unit] if case.unit else ())))
            for case, pair in zip(manifest.cases, hashes, strict=True)
        ]
        image_hashes = {
            case.name: pair[0] for case, pair in zip(manifest.cases, hashes, strict=True) if not isinstance(pair, str)
        }
        return cls(case_kind, keys, image_hashes, missing, patients)


def _hash_files(case: Case) -> tuple[str, str] | str:
    """Returns the hashes of image and mask, or the reason why a file cannot be read."""
    try:
        image = file_hash(case.path, case.name)
        return image, file_hash(case.mask, f"The mask of {case.name}") if case.mask else "-"
    except InputError as error:
        return str(error)


def _shapes(preprocess: Preprocess, manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Returns the shape of a row of each array."""
    side = preprocess.size
    shapes: dict[str, tuple[int, ...]] = {
        "pixels": (preprocess.planes, side, side),
        "heads": (HEAD_SIZE, HEAD_SIZE),
        "thumbnails": (THUMBNAIL_SIZE, THUMBNAIL_SIZE),
    }
    return {**shapes, "masks": (side, side)} if any(case.mask for case in manifest.cases) else shapes


def _read_complete(folder: Path, recipe: str, keys: list[str], shapes: Mapping[str, tuple[int, ...]]) -> CacheIndex | None:
    """Returns the index of a complete cache with all of its arrays, or None."""
    index = CacheIndex.read(folder)
    if index is None or not index.complete or (index.recipe, index.keys) != (recipe, keys):
        return None
    complete = all(open_rows(folder, name, (len(index.kept), *shape)) is not None for name, shape in shapes.items())
    return index if complete else None


def _fill(
    folder: Path,
    new_index: CacheIndex,
    manifest: Manifest,
    sources: _SourceFiles,
    preprocess: Preprocess,
    workers: int | None,
    on_progress: Progress | None,
) -> CacheIndex:
    """Decodes the missing rows in order; writes the index every few seconds and at the end, also after an error."""
    shapes = _shapes(preprocess, manifest)
    index = _read_partial(folder, new_index, shapes)
    if on_progress and index.done:
        on_progress(index.done, len(index.keys))
    with RowWriter(folder, shapes, len(index.kept)) as writer:
        saved = time.monotonic()
        try:
            for rows in _case_rows(folder, index, manifest, sources, preprocess, workers):
                _store(index, writer, rows)
                if on_progress:
                    on_progress(index.done, len(index.keys))
                if time.monotonic() - saved > _SAVE_SECONDS:
                    writer.sync()
                    index.write(folder)
                    saved = time.monotonic()
            writer.finish(len(index.kept))
        finally:
            writer.sync()
            index.write(folder)
    return index


def _read_partial(folder: Path, new_index: CacheIndex, shapes: Mapping[str, tuple[int, ...]]) -> CacheIndex:
    """Returns the index of an interrupted run if its arrays hold all of its rows, otherwise the new index."""
    partial = CacheIndex.read(folder)
    if partial is None or partial.complete or (partial.recipe, partial.keys) != (new_index.recipe, new_index.keys):
        return new_index
    for name, shape in shapes.items():
        path = folder / f"{name}.npy"
        if not path.exists() or path.stat().st_size < len(partial.kept) * int(np.prod(shape)):
            return new_index
    return partial


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


def _case_rows(
    folder: Path, index: CacheIndex, manifest: Manifest, sources: _SourceFiles, preprocess: Preprocess, workers: int | None
) -> Iterator[CaseRows | str]:
    """Yields the rows of each case from ``index.done`` on, or the reason why it has none."""
    remaining = range(index.done, len(index.keys))
    available = cases_of_other_caches(folder, index, _shapes(preprocess, manifest))
    with_mask = any(case.mask for case in manifest.cases)
    jobs = [
        DecodeJob(case.name, case.path, case.mask, preprocess, with_mask, case.unit)
        for case in (manifest.cases[i] for i in remaining if i not in sources.missing and index.keys[i] not in available)
    ]
    n_images = len(jobs) * (_SLICES_PER_SERIES if sources.case == "series" else 1)
    chosen = choose_workers(n_images) if workers is None else workers
    with contextlib.closing(decode_all(jobs, chosen, sources.case)) as decoded:
        for i in remaining:
            if i in sources.missing:
                yield sources.missing[i]
            elif index.keys[i] in available:
                yield available[index.keys[i]].read()
            else:
                yield _as_rows(next(decoded))


def _as_rows(decoded: DecodedCase | DecodedSeries | str) -> CaseRows | str:
    if isinstance(decoded, str):
        return decoded
    if isinstance(decoded, DecodedSeries):
        return CaseRows([_as_row(part) for part in decoded.slices], decoded.count)
    return CaseRows([_as_row(decoded)])


def _as_row(decoded: DecodedCase) -> CacheRow:
    arrays = {"pixels": decoded.pixels, "heads": decoded.head, "thumbnails": decoded.thumbnail}
    masks = {} if decoded.mask is None else {"masks": decoded.mask}
    return CacheRow(arrays | masks, decoded.unit, list(decoded.notes), list(decoded.stated))


def choose_workers(n_images: int) -> int:
    """Returns the number of worker processes to use; 0 for a few hundred images, which finish before a worker starts."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(processors, 8) if n_images >= _MIN_IMAGES_FOR_WORKERS and processors > 1 else 0


def _open_filled(
    cls: type[PixelCache],
    folder: Path,
    index: CacheIndex,
    manifest: Manifest,
    sources: _SourceFiles,
    shapes: Mapping[str, tuple[int, ...]],
) -> PixelCache:
    if not index.kept:
        raise UsageError(
            f"None of the {len(index.keys)} images can be read",
            "At least one of them must be readable",
            f"The first error: {next(iter(index.failed.values())).removesuffix('.')}",
        )
    arrays = {name: open_rows(folder, name, (len(index.kept), *shape)) for name, shape in shapes.items()}
    pixels, heads, thumbnails = (arrays[name] for name in ("pixels", "heads", "thumbnails"))
    if pixels is None or heads is None or thumbnails is None:
        raise UsageError(f"The cache {folder} was deleted", "The cache must exist while it is in use", "Run the command again")
    full_manifest, patient_notes = add_header_patients(manifest, sources.patients)
    stated = [Stated(*row) for row in index.stated]  # type: ignore[arg-type]  # names from JSON
    kept, rows = np.unique(np.array(index.kept, np.int64), return_counts=True)
    readable = full_manifest.subset(kept.tolist())
    return cls(
        manifest=readable,
        pixels=pixels,
        heads=heads,
        thumbnails=thumbnails,
        masks=arrays.get("masks"),
        has_mask=np.array([case.mask is not None for case in readable.cases], np.bool_),
        targets=np.array(readable.targets, np.int64),
        hashes=[sources.hashes[case.name] for case in readable.cases],
        file_hashes=sources.hashes,
        failed={manifest.cases[i].name: message for i, message in sorted(index.failed.items())},
        kept=kept.tolist(),
        starts=np.concatenate([[0], np.cumsum(rows)]).astype(np.int64),
        is_series=sources.case == "series",
        notes=(
            *(f"Patients: {note}" for note in patient_notes if note),
            *notes.slice_notes(index),
            *notes.unit_notes(index.units),
            *notes.reader_notes(index.notes, "series" if index.slices else "image"),
            *notes.excluded_notes(index.stated),
            *notes.sequence_notes(stated, [manifest.cases[i].sequence for i in index.kept]),
        ),
        stated=tuple(item.with_sequence(manifest.cases[i].sequence) for item, i in zip(stated, index.kept, strict=True)),
    )


def _gather(array: UInt8Array, indices: Indices) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.asarray(array[np.asarray(indices, np.int64)]))
