"""Every image is decoded once, into arrays that are mapped from disk; a batch is one copy out of them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.cache.decode import HEAD_SIZE, Decoded, Job, decode_all, refuse_in_worker
from reslink.datasets.cache.storage import Index, RowWriter, code_digest, open_rows
from reslink.datasets.manifest import Case, Manifest, file_hash
from reslink.datasets.near_duplicates.thumbnails import SIDE as THUMBNAIL_SIZE
from reslink.datasets.patient_ids import HeaderPatient, header_patients, with_header_patients
from reslink.errors import InputError, UsageError
from reslink.files import lock_folder, sha256
from reslink.imaging.preprocess import Preprocess

if TYPE_CHECKING:  # torch is imported where a batch is made, so that a cache can be filled and judged without it
    import torch

Progress = Callable[[int, int], None]
Grey = NDArray[np.uint8]
Indices = Sequence[int] | NDArray[np.integer[Any]]

_SAVE_EVERY = 2.0
_MANY = 400


@dataclass(frozen=True, eq=False)
class PixelCache:
    """The preprocessed images of a data set, mapped from disk: a row for each case that could be read.

    Attributes:
        manifest: The cases that were read, in the order of the rows; a patient that the data set does not state is that of
            the DICOM header, as a hash.
        pixels: (n, planes, S, S) uint8, read-only: what ``Preprocess.pixels`` returns.
        heads: (n, 56, 56) uint8, 1 where the head is.
        thumbnails: (n, 64, 64) uint8 of the isolated head, for ``twins.groups``.
        masks: (n, S, S) uint8, 1 where the lesion is; zeros for a case without a mask. None where no case has a mask.
        has_mask: (n,) whether the case has a mask file.
        targets: (n,) int64 class index.
        hashes: SHA-256 of each image file that has a row.
        file_hashes: SHA-256 of every image file by case name, also of those that failed, for ``Manifest.digest``.
        failed: Why a case has no row, by its name.
        kept: Index in the manifest that was given for each row.
        notes: What should be said of the data set as a whole.
    """

    manifest: Manifest
    pixels: Grey
    heads: Grey
    thumbnails: Grey
    masks: Grey | None
    has_mask: NDArray[np.bool_]
    targets: NDArray[np.int64]
    hashes: list[str]
    file_hashes: Mapping[str, str]
    failed: dict[str, str]
    kept: list[int]
    notes: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        manifest: Manifest,
        preprocess: Preprocess,
        folder: str | Path,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> PixelCache:
        """Opens the cache of a data set and fills it first where that has not been done.

        Rows are kept by the hash of the file's content, the settings and the code that decodes: a file that has
        changed is decoded again, one that stands in another cache of the same folder is copied. An interrupted run
        goes on where it was stopped. If another process is filling the same cache, this one waits for it.

        Args:
            manifest: The cases.
            preprocess: What is done to each image.
            folder: Where caches lie; each data set has a folder of its own inside.
            workers: Processes that decode; 0 decodes in this process, None chooses by the number of cases.
            progress: Called with the number of cases done and their total.

        Raises:
            UsageError: If not one image can be read.
            StorageError: If the folder cannot be written to.
        """
        refuse_in_worker()
        sources = _Sources.of(manifest)
        recipe = sha256(preprocess.digest() + code_digest())
        place = Path(folder) / sha256("\n".join([recipe, *sources.keys]))[:16]
        index = _usable(place, recipe, sources.keys, _shapes(preprocess, manifest))
        if index is None:
            with lock_folder(place, wait=True):
                index = _usable(place, recipe, sources.keys, _shapes(preprocess, manifest))
                index = index or _fill(place, Index(recipe, sources.keys), manifest, sources, preprocess, workers, progress)
        return _opened(cls, place, index, manifest, sources, _shapes(preprocess, manifest))

    def __len__(self) -> int:
        return len(self.kept)

    def batch(self, indices: Indices) -> torch.Tensor:
        """Returns the pixels of some rows, (B, planes, S, S) uint8, as a copy that may be changed."""
        return _tensor(self.pixels, indices)

    def batch_heads(self, indices: Indices) -> torch.Tensor:
        """Returns the head masks of some rows, (B, 1, 56, 56) uint8, 1 inside."""
        return _tensor(self.heads, indices)[:, None]

    def batch_masks(self, indices: Indices) -> torch.Tensor | None:
        """Returns the lesion masks of some rows, (B, 1, S, S) uint8, 1 inside; None where no case has a mask."""
        return None if self.masks is None else _tensor(self.masks, indices)[:, None]

    def batches(
        self,
        indices: Indices,
        batch_size: int,
        generator: torch.Generator | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
    ) -> Iterator[NDArray[np.int64]]:
        """Yields the rows of one epoch, each row once, batch by batch.

        Args:
            indices: The rows to go through.
            batch_size: Rows in a batch; the last may be smaller.
            generator: Decides the order of a shuffle; it is used once, before the first batch.
            shuffle: Mix the rows.
            drop_last: Leave out a last batch that is smaller.

        Raises:
            UsageError: If the batch size is below 1.
        """
        if batch_size < 1:
            raise UsageError(f"The batch size is {batch_size}", "A batch has at least one image", "Use 32")
        rows = np.asarray(indices, np.int64)
        if shuffle:
            import torch

            rows = rows[torch.randperm(len(rows), generator=generator).numpy()]
        stop = len(rows) - len(rows) % batch_size if drop_last else len(rows)
        return (rows[start : start + batch_size] for start in range(0, stop, batch_size))


@dataclass(frozen=True)
class _Sources:
    """The content hashes of a data set's files, and the patients that their headers name.

    Headers are read whenever a cache is opened, as the hashes are: so nothing of a patient is kept in the cache.
    """

    keys: list[str]
    hashes: dict[str, str]
    missing: dict[int, str]
    patients: list[HeaderPatient]

    @classmethod
    def of(cls, manifest: Manifest) -> _Sources:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing releases the GIL, reading waits for disks
            found = list(pool.map(_hashes, manifest.cases))
        stated = all(case.patient_id is not None for case in manifest.cases)
        patients = [HeaderPatient()] * len(manifest) if stated else header_patients(manifest.cases)
        missing = {i: pair for i, pair in enumerate(found) if isinstance(pair, str)}
        keys = ["missing" if isinstance(pair, str) else " ".join(pair) for pair in found]
        known = {case.name: pair[0] for case, pair in zip(manifest.cases, found, strict=True) if not isinstance(pair, str)}
        return cls(keys, known, missing, patients)


def _hashes(case: Case) -> tuple[str, str] | str:
    """The hashes of image and mask, or why they cannot be had."""
    try:
        image = file_hash(case.path, case.name)
        return image, file_hash(case.mask, f"The mask of {case.name}") if case.mask else "-"
    except InputError as error:
        return str(error)


def _shapes(preprocess: Preprocess, manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Shape of a row of each array."""
    side = preprocess.size
    shapes: dict[str, tuple[int, ...]] = {
        "pixels": (preprocess.planes, side, side),
        "heads": (HEAD_SIZE, HEAD_SIZE),
        "thumbnails": (THUMBNAIL_SIZE, THUMBNAIL_SIZE),
    }
    return {**shapes, "masks": (side, side)} if any(case.mask for case in manifest.cases) else shapes


def _usable(place: Path, recipe: str, keys: list[str], shapes: Mapping[str, tuple[int, ...]]) -> Index | None:
    """The index of a complete cache whose arrays are all there."""
    index = Index.read(place)
    if index is None or not index.complete or (index.recipe, index.keys) != (recipe, keys):
        return None
    whole = all(open_rows(place, name, (len(index.kept), *shape)) is not None for name, shape in shapes.items())
    return index if whole else None


def _fill(
    place: Path,
    fresh: Index,
    manifest: Manifest,
    sources: _Sources,
    preprocess: Preprocess,
    workers: int | None,
    progress: Progress | None,
) -> Index:
    """Decodes what is missing, in order, and writes the index every few seconds and at the end, however that comes."""
    shapes = _shapes(preprocess, manifest)
    index = _resumable(place, fresh, shapes)
    with RowWriter(place, shapes, len(index.kept)) as writer:
        saved = time.monotonic()
        try:
            for rows in _rows(place, index, manifest, sources, preprocess, workers):
                _take(index, writer, rows)
                if progress:
                    progress(index.done, len(index.keys))
                if time.monotonic() - saved > _SAVE_EVERY:
                    writer.sync()
                    index.write(place)
                    saved = time.monotonic()
            writer.finish(len(index.kept))
        finally:
            writer.sync()
            index.write(place)
    return index


def _resumable(place: Path, fresh: Index, shapes: Mapping[str, tuple[int, ...]]) -> Index:
    """The index of an interrupted run whose arrays hold all the rows it speaks of, else the fresh one."""
    found = Index.read(place)
    if found is None or found.complete or (found.recipe, found.keys) != (fresh.recipe, fresh.keys):
        return fresh
    for name, shape in shapes.items():
        path = place / f"{name}.npy"
        if not path.exists() or path.stat().st_size < len(found.kept) * int(np.prod(shape)):
            return fresh
    return found


def _take(index: Index, writer: RowWriter, rows: Mapping[str, Grey] | str) -> None:
    if isinstance(rows, str):
        index.failed[index.done] = rows
    else:
        writer.append(rows)
        index.kept.append(index.done)
    index.done += 1


def _rows(
    place: Path, index: Index, manifest: Manifest, sources: _Sources, preprocess: Preprocess, workers: int | None
) -> Iterator[Mapping[str, Grey] | str]:
    """Yields the rows of each case from ``index.done`` on, or why it has none."""
    todo = range(index.done, len(index.keys))
    known = _rows_elsewhere(place, index, _shapes(preprocess, manifest))
    with_mask = any(case.mask for case in manifest.cases)
    jobs = [
        Job(case.name, case.path, case.mask, preprocess, with_mask)
        for case in (manifest.cases[i] for i in todo if i not in sources.missing and index.keys[i] not in known)
    ]
    chosen = workers_for(len(jobs)) if workers is None else workers
    with contextlib.closing(decode_all(jobs, chosen)) as decoded:
        for i in todo:
            if i in sources.missing:
                yield sources.missing[i]
            elif index.keys[i] in known:
                arrays, row = known[index.keys[i]]
                yield {name: array[row] for name, array in arrays.items()}
            else:
                yield _as_rows(next(decoded))


def _as_rows(decoded: Decoded | str) -> Mapping[str, Grey] | str:
    if isinstance(decoded, str):
        return decoded
    rows = {"pixels": decoded.pixels, "heads": decoded.head, "thumbnails": decoded.thumbnail}
    return rows if decoded.mask is None else {**rows, "masks": decoded.mask}


def _rows_elsewhere(place: Path, index: Index, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[dict[str, Grey], int]]:
    """Rows of the same recipe in complete caches beside this one, by key."""
    known: dict[str, tuple[dict[str, Grey], int]] = {}
    for folder in sorted(place.parent.iterdir()):
        other = Index.read(folder) if folder != place else None
        if other is None or not other.complete or other.recipe != index.recipe:
            continue
        arrays = {name: open_rows(folder, name, (len(other.kept), *shape)) for name, shape in shapes.items()}
        whole = {name: array for name, array in arrays.items() if array is not None}
        if len(whole) == len(shapes):
            known.update((other.keys[case], (whole, row)) for row, case in enumerate(other.kept))
    return known


def workers_for(n: int) -> int:
    """Processes worth starting for n images: none for a few hundred, which are done before a process has started."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(processors, 8) if n >= _MANY and processors > 1 else 0


def _opened(
    cls: type[PixelCache],
    place: Path,
    index: Index,
    manifest: Manifest,
    sources: _Sources,
    shapes: Mapping[str, tuple[int, ...]],
) -> PixelCache:
    if not index.kept:
        raise UsageError(
            f"Not one of the {len(index.keys)} images can be read; the first: {next(iter(index.failed.values()))}",
            "The data set needs images that reslink can read: PNG, JPEG, TIFF, WebP, BMP, NPY, DICOM, NIfTI",
            "Look at one of the files",
        )
    arrays = {name: open_rows(place, name, (len(index.kept), *shape)) for name, shape in shapes.items()}
    pixels, heads, thumbnails = (arrays[name] for name in ("pixels", "heads", "thumbnails"))
    if pixels is None or heads is None or thumbnails is None:
        raise UsageError(f"The cache {place} has vanished", "It stays as long as it is used", "Run the command again")
    whole, note = with_header_patients(manifest, sources.patients)
    part = whole.subset(index.kept)
    return cls(
        manifest=part,
        pixels=pixels,
        heads=heads,
        thumbnails=thumbnails,
        masks=arrays.get("masks"),
        has_mask=np.array([case.mask is not None for case in part.cases], np.bool_),
        targets=np.array(part.targets, np.int64),
        hashes=[sources.hashes[case.name] for case in part.cases],
        file_hashes=sources.hashes,
        failed={manifest.cases[i].name: message for i, message in sorted(index.failed.items())},
        kept=list(index.kept),
        notes=(note,) if note else (),
    )


def _tensor(array: Grey, indices: Indices) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.asarray(array[np.asarray(indices, np.int64)]))
