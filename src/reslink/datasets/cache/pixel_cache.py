"""Pixel cache: each image is decoded once into memory-mapped arrays, from which batches are copied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.cache import notes
from reslink.datasets.cache.decode import HEAD_SIZE, check_not_in_worker
from reslink.datasets.cache.shards import JoinedShards, Progress, ShardFiller, split_into_shards
from reslink.datasets.cache.source_files import SourceFiles
from reslink.datasets.cache.storage import code_digest
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.thumbnails import THUMBNAIL_SIZE
from reslink.datasets.patient_ids import add_header_patients
from reslink.errors import UsageError
from reslink.files import sha256
from reslink.imaging.image import Stated
from reslink.imaging.preprocess import Preprocess
from reslink.labels import CaseKind

if TYPE_CHECKING:  # torch is imported only to make batches, so that the cache works without it
    import torch

T = TypeVar("T")
UInt8Array = NDArray[np.uint8]
Indices = Sequence[int] | NDArray[np.integer[Any]]

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
        thumbnail_rows: (rows, 64, 64) uint8, see ``thumbnails``.
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
        decoded: Number of cases that were decoded when it was opened; the others were in the folder.
    """

    manifest: Manifest
    pixels: UInt8Array
    heads: UInt8Array
    thumbnail_rows: UInt8Array
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
    decoded: int = 0

    @classmethod
    def open(
        cls,
        manifest: Manifest,
        preprocess: Preprocess,
        folder: str | Path,
        workers: int | None = None,
        on_progress: Progress | None = None,
        case: CaseKind = "slice",
        *,
        verify: bool = False,
    ) -> PixelCache:
        """Opens the cache of a data set, and fills it if needed.

        Rows are identified by the hashes of the file content, the settings and the decoding code. A changed file is decoded
        again; a row in another shard of the same folder is copied. A file counts as unchanged if its size and modification
        time are those of its last hashing; then it is not read. An interrupted run is resumed. Several processes and hosts may
        fill the same cache: each shard of about 4,096 images is filled by one of them.

        Args:
            manifest: The cases.
            preprocess: The preprocessing of the images.
            folder: The folder of the shards; all data sets may share it.
            workers: Number of worker processes; 0 decodes in this process, None chooses by the number of cases.
            on_progress: Called with the number of finished cases and the total.
            case: Whether a case is a slice, or a series with several rows.
            verify: Whether to hash all files again, also unchanged ones.

        Raises:
            UsageError: If no image can be read, or their near duplicates cannot be found because faiss is missing.
            StorageError: If the folder cannot be written to.
        """
        from reslink.datasets.near_duplicates.similar_rows import check_index  # slow to import

        check_index(len(manifest))
        filled = fill_shards(manifest, preprocess, folder, workers, on_progress, case, verify=verify)
        return _open_filled(cls, filled, manifest)

    def __len__(self) -> int:
        return len(self.kept)

    @cached_property
    def thumbnails(self) -> UInt8Array:
        """(rows, 64, 64) uint8 of the isolated head, for near-duplicate search; in memory if there are several shards."""
        return np.asanyarray(self.thumbnail_rows)

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


class Filled(NamedTuple):
    """A filled cache.

    Attributes:
        sources: The files.
        joined: The rows of all cases.
        decoded: Number of cases that this process decoded.
    """

    sources: SourceFiles
    joined: JoinedShards
    decoded: int


def settings_digest(preprocess: Preprocess) -> str:
    """Returns the part of the key of a row that is the same for all images: a digest of the settings and the decoding code.

    The other part is the content of image and mask, the stated unit, and whether a case is a series.
    """
    return sha256(preprocess.digest() + code_digest())


def fill_shards(
    manifest: Manifest,
    preprocess: Preprocess,
    folder: str | Path,
    workers: int | None = None,
    on_progress: Progress | None = None,
    case: CaseKind = "slice",
    *,
    verify: bool = False,
    with_masks: bool | None = None,
    is_part: bool = False,
) -> Filled:
    """Fills the cache as :meth:`PixelCache.open` does; no error is raised if no image can be read.

    Args:
        manifest: The cases; if they are a part of a data set, and a whole shard of it, then its cache is filled.
        preprocess: See :meth:`PixelCache.open`, as for the other arguments.
        folder: The folder of the shards.
        workers: Number of worker processes.
        on_progress: Called with the number of finished cases and the total.
        case: Whether a case is a slice or a series.
        verify: Whether to hash all files again.
        with_masks: Whether any case of the whole data set has a mask; None looks at these cases.
        is_part: Whether the cases are a part of a data set, and other tasks fill the cache with the others.

    Raises:
        StorageError: If the folder cannot be written to.
    """
    check_not_in_worker()
    sources = SourceFiles.read(manifest, case, Path(folder), code_digest(), verify=verify, is_part=is_part)
    shapes = _shapes(preprocess, any(one.mask for one in manifest.cases) if with_masks is None else with_masks)
    shards = split_into_shards(Path(folder), settings_digest(preprocess), sources, shapes)
    filler = ShardFiller(manifest, sources, preprocess, workers, on_progress)
    indexes = filler.fill(shards)
    return Filled(sources, JoinedShards.of(shards, indexes, sources, manifest.cases), filler.decoded)


def _shapes(preprocess: Preprocess, with_masks: bool) -> dict[str, tuple[int, ...]]:
    """Returns the shape of a row of each array."""
    side = preprocess.size
    shapes: dict[str, tuple[int, ...]] = {
        "pixels": (preprocess.planes, side, side),
        "heads": (HEAD_SIZE, HEAD_SIZE),
        "thumbnails": (THUMBNAIL_SIZE, THUMBNAIL_SIZE),
    }
    return {**shapes, "masks": (side, side)} if with_masks else shapes


def _open_filled(cls: type[PixelCache], filled: Filled, manifest: Manifest) -> PixelCache:
    sources, joined, decoded = filled
    index = joined.index
    if not index.kept:
        raise UsageError(
            f"None of the {len(index.keys)} images can be read",
            "At least one of them must be readable",
            f"The first error: {index.failed[min(index.failed)].removesuffix('.')}",
        )
    arrays = {name: joined.open(name) for name in joined.shards[0].shapes}
    full_manifest, patient_notes = add_header_patients(manifest, sources.patients)
    stated = [Stated(*row) for row in index.stated]  # type: ignore[arg-type]  # names from JSON
    kept, rows = np.unique(np.array(index.kept, np.int64), return_counts=True)
    readable = full_manifest.subset(kept.tolist())
    return cls(
        manifest=readable,
        pixels=arrays["pixels"],
        heads=arrays["heads"],
        thumbnail_rows=arrays["thumbnails"],
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
        decoded=decoded,
    )


def _gather(array: UInt8Array, indices: Indices) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.asarray(array[np.asarray(indices, np.int64)]))
