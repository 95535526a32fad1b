"""The reading part of an audit on a Ray cluster, in shards of files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reslink import __version__
from reslink.audit.extract import CaseFile, Extracted
from reslink.audit.extraction import extract_all
from reslink.audit.stored_features import features_from_parquet, features_to_parquet
from reslink.cluster.shards import Shard, file_states, kept_parts, run_shards
from reslink.files import lock_folder, sha256
from reslink.training.monitoring.progress import Progress


@dataclass(frozen=True)
class ClusterExtraction:
    """Extracts the features of files on the connected cluster, as ``audit.run_audit`` does in this process.

    Attributes:
        folder: The folder of the parts, on storage that all nodes share. It stays until the caller has written the result and
            calls :meth:`remove_parts`; until then, the same call resumes.
        shard_size: Number of files of a shard.
    """

    folder: Path
    shard_size: int

    def __call__(self, files: Sequence[CaseFile], progress: Progress) -> Iterator[Extracted]:
        """Yields the features of each file in order, with those of a thousand files in memory at a time.

        Raises:
            InputError: If a task died again and again.
        """
        with lock_folder(self.folder):
            shards = [_shard(files[start : start + self.shard_size]) for start in range(0, len(files), self.shard_size)]
            with kept_parts(shards, self.folder, progress):
                run_shards(shards, extract_shard, self.folder, progress, "Reading images")
            for shard in shards:
                yield from features_from_parquet(shard.path(self.folder))

    def remove_parts(self) -> None:
        """Removes the parts."""
        shutil.rmtree(self.folder)


def _shard(files: Sequence[CaseFile]) -> Shard:
    states = [
        [file.name, file.unit, *state] for file, state in zip(files, file_states([file.path for file in files]), strict=True)
    ]
    return Shard(sha256(json.dumps([__version__, "Parquet", states])), len(files), str(files[0].path), tuple(files))


def extract_shard(files: Sequence[CaseFile]) -> tuple[bytes, int]:
    """Extracts the features of some files in a process of its own, so that a file that kills it is named.

    Returns:
        The part, a Parquet file, and the number of files that cannot be used.
    """
    items = list(extract_all(files, workers=1))
    failed = sum(isinstance(item, str) for item in items)
    return features_to_parquet(items), failed
