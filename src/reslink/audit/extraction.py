"""Extract the features of many files in worker processes; remote files are fetched meanwhile, several at once."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from reslink.audit.extract import CaseFile, Extracted, extract_features
from reslink.datasets.cache.decode import WorkerPool
from reslink.errors import InputError
from reslink.imaging.limits import MAX_FILE_BYTES
from reslink.remote_files import local_file, read_ahead
from reslink.remote_paths import parse_remote

_COPIES: Final = 16
"""Number of remote files per worker process whose copies are on disk while their features are extracted."""

_Files: TypeAlias = Sequence[CaseFile]


def extract_all(files: _Files, workers: int) -> Generator[Extracted, None, None]:
    """Yields the features of each file, in order.

    Args:
        files: The files.
        workers: Number of worker processes; 0 uses this process. A file that kills its worker is named.

    Raises:
        RemoteStorageError: If a storage fails in all attempts.
    """
    with WorkerPool(workers) as pool:
        if not any(parse_remote(file.path) for file in files):
            features: Iterator[Extracted] = pool.map(extract_features, files)
            yield from features
            return
        size = _COPIES * max(1, workers)
        parts = (files[start : start + size] for start in range(0, len(files), size))
        for part in read_ahead(parts, lambda part: [file.path for file in part], MAX_FILE_BYTES):
            yield from _extract_copies(part, pool)


def _extract_copies(files: _Files, pool: WorkerPool) -> Generator[Extracted, None, None]:
    with contextlib.ExitStack() as copies:
        fetched: list[CaseFile | str] = []
        for file in files:
            try:
                path = copies.enter_context(local_file(file.path, MAX_FILE_BYTES))
                fetched.append(replace(file, path=path))
            except InputError as error:
                fetched.append(str(error).replace(str(file.path), file.name))
        jobs = [file for file in fetched if isinstance(file, CaseFile)]
        features: Iterator[Extracted] = pool.map(extract_features, jobs)
        for one in fetched:
            if isinstance(one, str):
                yield one
            else:
                yield next(features)
