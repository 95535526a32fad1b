"""Where a batch ends whatever it holds."""

from __future__ import annotations

import io
import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from reslink.bundles.scope import Scope
from reslink.errors import UsageError
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.search import ListedFiles
from reslink.inference import blocks
from reslink.inference.blocks import BLOCK_BATCHES, SliceReader, SourceItem, in_blocks, read_slices
from reslink.inference.prediction import Slice


def listed(folder: str, n_files: int = 1) -> ListedFiles:
    return ListedFiles(tuple(Path(f"{i}.dcm") for i in range(n_files)), folder, folder)


def sizes(*sources: object, batch_size: int = 1) -> list[int]:
    """The numbers of items between the ends of blocks."""
    counts = [0]
    for item in in_blocks(sources, batch_size):
        counts = [*counts, 0] if item is None else [*counts[:-1], counts[-1] + 1]
    return counts


def test_a_block_ends_after_its_batches_of_files_and_splits_no_series() -> None:
    assert BLOCK_BATCHES == 8
    assert sizes(*[listed("")] * 20) == [8, 8, 4]
    assert sizes(*[np.zeros((4, 4), np.uint8)] * 9) == [8, 1]
    assert sizes(*[listed("", 3)] * 7, batch_size=2) == [6, 1]
    assert sizes(listed("", 100), listed("")) == [1, 1]


def test_a_block_ends_with_its_folder_and_an_error_has_no_file() -> None:
    assert sizes(*[listed("")] * 3, *[listed("a")] * 5, *[listed("b")] * 9) == [3, 5, 8, 1]
    assert sizes(*[ListedFiles((), "", "x", "missing")] * 30) == [30]


def test_what_is_no_source_is_refused() -> None:
    with pytest.raises(UsageError, match="int"):
        list(in_blocks([3], 1))


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Ten pictures: the third is broken, the fifth has several frames."""
    for i in range(10):
        frames = [Picture.fromarray(rng.integers(0, 256, (40, 40 + i), dtype=np.uint8)) for _ in range(2)]
        stream = io.BytesIO()
        frames[0].save(stream, "PNG", save_all=i == 4, append_images=frames[1:] if i == 4 else [])
        (tmp_path / f"{i}.png").write_bytes(stream.getvalue()[: 60 if i == 2 else None])
    return tmp_path


def read(reader: SliceReader, folder: Path | str, workers: int) -> tuple[list[dict[str, object] | None], list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        slices = list(read_slices(reader, in_blocks([folder], 1), workers))
    rows = [None if one is None else {**vars(one), "image": None} for one in slices]
    for row in rows:
        if row is not None and isinstance(row["pixels"], np.ndarray):
            row["pixels"] = row["pixels"].tobytes()
    return rows, [str(warning.message) for warning in caught]


def test_worker_processes_read_what_one_process_reads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "FILES_BEFORE_WORKERS", 2)
    reader = SliceReader(Preprocess(size=64), Scope(), "slice", measure=True)
    rows, messages = read(reader, folder, 0)
    assert read(reader, folder, 2) == (rows, messages)
    assert [row["error"] is not None for row in rows if row] == [i == 2 for i in range(10)]
    assert len(messages) == 1
    assert "several frames" in messages[0]


class DyingReader(SliceReader):
    """Ends a worker process that reads with it."""

    def slices(self, item: SourceItem) -> Iterator[Slice]:
        if multiprocessing.parent_process() is not None:
            os._exit(1)
        return super().slices(item)


def test_files_are_read_although_a_worker_process_dies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "FILES_BEFORE_WORKERS", 2)
    reader = SliceReader(Preprocess(size=64), Scope(), "slice")
    dying = DyingReader(Preprocess(size=64), Scope(), "slice")
    rows, messages = read(reader, folder, 0)
    again, told = read(dying, folder, 1)
    assert again == rows
    assert "A process that reads files has died" in told[0]
    assert told[1:] == messages


def test_no_file_is_lost_if_a_worker_dies_while_nobody_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(60):
        Picture.fromarray(np.full((40, 40), i, np.uint8)).save(tmp_path / f"{i:02d}.png")
    monkeypatch.setattr(blocks, "FILES_BEFORE_WORKERS", 2)
    monkeypatch.setattr(blocks, "_FILES_PER_JOB", 2)
    reader, names = SliceReader(Preprocess(size=64), Scope(), "slice"), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for one in read_slices(reader, in_blocks([tmp_path], 1), 1):
            if one is not None:
                names.append(Path(one.path).name)
            if len(names) == 5:
                for child in multiprocessing.active_children():
                    child.kill()
                    child.join()
                time.sleep(1)  # the pool notices
    assert names == [f"{i:02d}.png" for i in range(60)]
    assert "A process that reads files has died" in str(caught[0].message)


def test_a_series_is_a_job_of_its_own() -> None:
    items = iter([listed("a", 3), None, listed("a", 300), listed("a"), listed("a")])
    assert [len(tuple(blocks._take(items, 4))) for _ in range(3)] == [3, 2, 0]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_next_remote_files_are_fetched_meanwhile(
    folder: Path, s3: Any, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "FILES_BEFORE_WORKERS", 2)
    for file in folder.iterdir():
        s3.put(f"{workers}/{file.name}", file.read_bytes())
    s3.reset()
    together = threading.Barrier(3)
    first = 2 + (2 if workers else 0)  # the list, and the files that this process reads
    s3.refuse = lambda number, *_: first <= number < first + 3 and together.wait(60) < 0  # broken if read one by one
    reader = SliceReader(Preprocess(size=64), Scope(), "slice")
    rows, _ = read(reader, f"s3://heads/{workers}/", workers)
    expected, _ = read(reader, folder, 0)
    assert [row and (row["error"] is None, row["pixels"]) for row in rows] == [
        row and (row["error"] is None, row["pixels"]) for row in expected
    ]
    assert not together.broken
