"""The pixel cache of a data set, filled on a Ray cluster."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reslink.cluster.nodes import check_files
from reslink.cluster.shards import Shard, run_shards
from reslink.datasets.cache.pixel_cache import fill_shards
from reslink.datasets.cache.shards import shard_size
from reslink.datasets.case import Case
from reslink.datasets.manifest import Manifest
from reslink.files import storage_errors
from reslink.imaging.preprocess import Preprocess
from reslink.labels import CaseKind, case_noun
from reslink.remote_paths import parse_remote
from reslink.training.monitoring.progress import Progress


@dataclass(frozen=True)
class _Part:
    """Cases of one shard of the cache, and its settings."""

    manifest: Manifest
    preprocess: Preprocess
    folder: str
    case: CaseKind
    with_masks: bool
    verify: bool


def fill_cache(
    manifest: Manifest, preprocess: Preprocess, folder: Path, case: CaseKind, progress: Progress, *, verify: bool = False
) -> int:
    """Hashes and decodes the images of a data set on the connected cluster, with one task per shard of the cache.

    ``PixelCache.open`` then finds all shards. Shards that exist are not decoded again.

    Args:
        manifest: The cases.
        preprocess: The preprocessing of the images.
        folder: The cache folder, on storage that all nodes share under the same path.
        case: Whether a case is a slice or a series.
        progress: Receives the number of finished and unreadable cases.
        verify: Whether to hash all files again, also unchanged ones.

    Returns:
        The number of cases that were decoded.

    Raises:
        UsageError: If a node does not see the images, or has another version of reslink.
        InputError: If a task died again and again.
        StorageError: If the folder cannot be written to.
    """
    existing, size = [i for i, one in enumerate(manifest.cases) if _exists(one)], shard_size(case)
    with_masks = any(one.mask for one in manifest.cases)
    parts = (manifest.subset(existing[start : start + size]) for start in range(0, len(existing), size))
    shards = [
        Shard(
            f"{i:08d}", len(part), part.cases[0].name, _Part(part, preprocess, str(folder.absolute()), case, with_masks, verify)
        )
        for i, part in enumerate(parts)
    ]
    with storage_errors(f"The cache {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        counts = tempfile.TemporaryDirectory(dir=folder, prefix=".fill-")
    with counts as name:
        run_shards(shards, fill_part, Path(name), progress, "Reading images", case_noun(case))
        return sum(int(shard.path(Path(name)).read_bytes()) for shard in shards)


def _exists(case: Case) -> bool:
    """Returns whether the cache has the files of a case in a shard; of remote files this is not known here."""
    return all(parse_remote(path) is not None or os.access(path, os.F_OK) for path in _files([case]))


def _files(cases: Sequence[Case]) -> list[Path]:
    return [path for case in cases for path in (case.path, case.mask) if path is not None]


def fill_part(part: _Part) -> tuple[bytes, int]:
    """Fills one shard of the cache, in a process of its own, so that a file that kills it is named.

    Returns:
        The number of cases that were decoded as text, and the number of cases that cannot be read.
    """
    check_files(_files(part.manifest.cases))
    settings = (part.preprocess, part.folder, 1, None, part.case)
    filled = fill_shards(part.manifest, *settings, verify=part.verify, with_masks=part.with_masks, is_part=True)
    return str(filled.decoded).encode(), len(filled.joined.index.failed)
