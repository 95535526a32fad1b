"""The storage of shards: the digest of the code, resumed and damaged arrays."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import itertools
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from head_files import SMALL, head, open_cache
from numpy.lib import format as npy
from numpy.typing import NDArray

from reslink.datasets.cache import storage
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.cache.storage import CacheIndex, RowWriter
from reslink.datasets.manifest import Manifest
from reslink.errors import StorageError, UsageError


@pytest.mark.parametrize("package", ["opencv-python-headless", "pillow"])
def test_another_version_of_a_decoding_package_is_another_key(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, known = storage.code_digest(), importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0" if name == package else known(name))
    assert storage.code_digest() != before


class TestInterruption:
    @staticmethod
    def stop_at(count: int) -> object:
        def progress(done: int, total: int) -> None:
            assert total == 12
            if done == count:
                raise KeyboardInterrupt

        return progress

    def test_an_interrupted_run_is_resumed(self, data: Path, decoded: list[str]) -> None:
        (data / "a" / "01.png").write_bytes(b"no image")
        with pytest.raises(KeyboardInterrupt):
            open_cache(data, on_progress=self.stop_at(7))
        assert len(decoded) == 7
        calls: list[tuple[int, int]] = []
        resumed = open_cache(data, on_progress=lambda *call: calls.append(call))
        assert calls == [(done, 12) for done in range(7, 13)]
        assert len(decoded) == 12
        fresh = open_cache(data, "elsewhere")
        for name in ("pixels", "heads", "thumbnails"):
            np.testing.assert_array_equal(getattr(resumed, name), getattr(fresh, name))
        assert (resumed.kept, resumed.failed) == (fresh.kept, fresh.failed)

    def test_killed_after_more_rows_than_the_index_says(self, data: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            open_cache(data, on_progress=self.stop_at(5))
        (file,) = (data.parent / "cache").glob("shards/*/*.part/pixels.npy")
        with file.open("ab") as stream:
            stream.write(b"half a row")
        np.testing.assert_array_equal(open_cache(data).pixels, open_cache(data, "elsewhere").pixels)

    @pytest.mark.parametrize("damage", ["cut", "gone", "index"])
    def test_a_damaged_cache_is_rebuilt(self, data: Path, decoded: list[str], damage: str) -> None:
        whole = np.array(open_cache(data).pixels)
        (folder,) = (data.parent / "cache").glob("shards/*/rows")
        file = folder / ("index.json" if damage == "index" else "heads.npy")
        if damage == "gone":
            file.unlink()
        else:
            os.truncate(file, file.stat().st_size - 100)
        np.testing.assert_array_equal(open_cache(data).pixels, whole)
        assert len(decoded) == 24

    def test_a_killed_process_is_resumed(self, data: Path, decoded: list[str]) -> None:
        code = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from reslink.datasets.cache import pixel_cache, shards\n"
            "from reslink.datasets.manifest import Manifest\n"
            "from reslink.imaging.preprocess import Preprocess\n"
            "shards._SAVE_SECONDS = 0\n"
            "stop = lambda done, total: done == 8 and os.kill(os.getpid(), signal.SIGKILL)\n"
            "data = Path(sys.argv[1])\n"
            "pixel_cache.PixelCache.open(Manifest.open(data), Preprocess(size=64), data.parent / 'cache', 0, stop)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(data)], check=False)
        assert done.returncode == -9
        cache = open_cache(data)
        assert len(decoded) == 5
        np.testing.assert_array_equal(cache.pixels, open_cache(data, "elsewhere").pixels)

    def test_full_disk(self, data: Path) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
        try:
            with pytest.raises(StorageError, match=r"cache .* could not be written: File too large"):
                open_cache(data)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        np.testing.assert_array_equal(open_cache(data).pixels, open_cache(data, "elsewhere").pixels)

    @pytest.mark.parametrize("failing", [1, 4, 5])
    def test_an_error_within_a_series(self, tmp_path: Path, rng: np.random.Generator, failing: int) -> None:
        (tmp_path / "data").mkdir()
        for i in range(4):
            np.save(tmp_path / "data" / f"{i}.npy", np.stack([head(rng) for _ in range(2)]))
        (tmp_path / "data" / "manifest.csv").write_text("path,label\n0.npy,a\n1.npy,b\n2.npy,a\n3.npy,b\n")
        manifest = Manifest.open(tmp_path / "data", case="series")
        whole = PixelCache.open(manifest, SMALL, tmp_path / "whole", 0, case="series")
        append, calls = RowWriter.append, itertools.count(1)

        def full(writer: RowWriter, rows: Mapping[str, NDArray[np.uint8]]) -> None:
            if next(calls) == failing:
                raise StorageError("The disk is full", "A cache needs space", "Free some space")
            append(writer, rows)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RowWriter, "append", full)
            with pytest.raises(StorageError, match="The disk is full"):
                PixelCache.open(manifest, SMALL, tmp_path / "cache", 0, case="series")
        resumed = PixelCache.open(manifest, SMALL, tmp_path / "cache", 0, case="series")
        assert resumed.starts.tolist() == [0, 2, 4, 6, 8]
        np.testing.assert_array_equal(resumed.pixels, whole.pixels)

    def test_waits_for_another_process(self, data: Path, decoded: list[str]) -> None:
        done = open_cache(data)
        (folder,) = (data.parent / "cache").glob("shards/*/rows")
        index = (folder / "index.json").read_text()
        (folder / "index.json").write_text(json.dumps({**json.loads(index), "done": 3}))
        with (folder.parent / ".lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            found: list[PixelCache] = []
            waiting = threading.Thread(target=lambda: found.append(open_cache(data)))
            waiting.start()
            time.sleep(0.3)
            assert not found
            (folder / "index.json").write_text(index)
        waiting.join(20)
        np.testing.assert_array_equal(found[0].pixels, done.pixels)
        assert len(decoded) == 12


def test_an_unfinished_case_is_removed_from_an_index() -> None:
    def index(*more: int) -> CacheIndex:
        rows = [0, 0, 2, *more]
        return CacheIndex("r", ["a"] * 5, 3, rows, {1: "no image"}, ["HU"] * 3, [[]] * 3, [[None]] * 3, {0: 2, 2: 1})

    interrupted = index(3, 3)
    interrupted.units.append("HU")
    interrupted.slices[3], interrupted.failed[3] = 2, "needs memory"
    interrupted.remove_unfinished()
    assert interrupted == index()


def test_too_many_open_files_are_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_cache(data)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(npy, "open_memmap", refuse)
    with pytest.raises(
        UsageError, match=r"more files than this process may open\. .*Raise the limit of open files.*ulimit -n 8192"
    ):
        open_cache(data)
