"""Shards: filled by several processes, published when complete, found again by other data sets."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from head_files import SMALL, head, open_cache, save

from reslink.datasets.cache import shards
from reslink.datasets.cache.pixel_cache import PixelCache, fill_shards
from reslink.datasets.cache.sharded_rows import ShardedRows
from reslink.datasets.cache.storage import CacheIndex, RowWriter
from reslink.datasets.manifest import Manifest
from reslink.errors import StorageError

ARRAYS = ("pixels", "heads", "thumbnails")

FILL = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from reslink.datasets.cache import decode, shards
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.imaging.preprocess import Preprocess

data, out, hang_at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
shards.SHARD_IMAGES, shards._SAVE_SECONDS = 5, 0
plain, names = decode.decode_case, []

def watched(job):
    names.append("/".join(job.path.parts[-2:]))
    time.sleep(0.15)
    return plain(job)

def progress(done, total):
    if done == hang_at:
        (out / "hangs").touch()
        time.sleep(600)

decode.decode_case = watched
manifest = Manifest.open(data)
(out / "ready").touch()
while not (out / "go").exists():
    time.sleep(0.01)
cache = PixelCache.open(manifest, Preprocess(size=64), data.parent / "cache", 0, progress)
np.savez(out / "arrays.npz", **{name: np.asarray(getattr(cache, name)) for name in ("pixels", "heads", "thumbnails")})
(out / "names").write_text("\\n".join(names))
"""


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of five images."""
    monkeypatch.setattr(shards, "SHARD_IMAGES", 5)


def check_equal(cache: PixelCache, other: PixelCache) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(cache, name), getattr(other, name))
    assert (cache.kept, cache.hashes, cache.stated) == (other.kept, other.hashes, other.stated)
    assert (cache.failed, cache.notes) == (other.failed, other.notes)


def in_order(data: Path, order: list[int], folder: str = "cache") -> PixelCache:
    return PixelCache.open(Manifest.open(data).subset(order), SMALL, data.parent / folder, workers=0)


class TestSeveralShards:
    def test_are_read_like_one(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        manifest = Manifest.open(data)
        (data / "a" / "01.png").write_bytes(b"no image")
        (data / "a" / "04.png").unlink()
        one = PixelCache.open(manifest, SMALL, data.parent / "one", workers=0)
        monkeypatch.setattr(shards, "SHARD_IMAGES", 5)
        calls: list[tuple[int, int]] = []
        several = PixelCache.open(manifest, SMALL, data.parent / "cache", 0, lambda *call: calls.append(call))
        assert len([*(data.parent / "cache").glob("shards/*/rows")]) == 3
        assert calls == [(done, 12) for done in range(1, 13)]  # the missing file is the first
        assert isinstance(several.pixels, ShardedRows)
        assert isinstance(several.thumbnails, np.ndarray)
        assert sorted(several.failed) == ["a/01.png", "a/04.png"]
        check_equal(several, one)
        rows = np.array([9, 0, 4, 4, 5])
        for name in ("batch", "batch_heads"):
            np.testing.assert_array_equal(getattr(several, name)(rows), getattr(one, name)(rows))
        assert several.batch(rows).is_contiguous()

    @pytest.mark.usefixtures("small_shards")
    def test_a_filled_cache_is_opened(self, data: Path, decoded: list[str]) -> None:
        first = open_cache(data)
        calls: list[tuple[int, int]] = []
        check_equal(open_cache(data, on_progress=lambda *call: calls.append(call)), first)
        assert calls == [(12, 12)]
        assert len(decoded) == 12

    @pytest.mark.usefixtures("small_shards")
    def test_a_truncated_shard_is_decoded_again(self, data: Path, decoded: list[str]) -> None:
        whole = open_cache(data)
        second = decoded[5:10]
        [index] = [path for path in (data.parent / "cache").rglob("index.json") if whole.hashes[5] in path.read_text()]
        os.truncate(index.parent / "pixels.npy", (index.parent / "pixels.npy").stat().st_size - 1)
        decoded.clear()
        check_equal(open_cache(data), whole)
        assert decoded == second
        check_equal(open_cache(data, "elsewhere"), whole)

    @pytest.mark.usefixtures("small_shards")
    def test_of_parts_of_a_data_set_are_those_of_the_whole(self, data: Path, decoded: list[str]) -> None:
        (data / "a" / "00.png").write_bytes(b"no image")
        whole = Manifest.open(data)
        whole = replace(whole, cases=(*whole.cases[:-1], replace(whole.cases[-1], mask=whole.cases[-1].path)))
        for start in (0, 5, 10):
            part = whole.subset(range(start, min(start + 5, 12)))
            _, joined, _ = fill_shards(part, SMALL, data.parent / "cache", 0, with_masks=True)
            assert list(joined.index.failed) == ([0] if start == 0 else [])
        decoded.clear()
        cache = PixelCache.open(whole, SMALL, data.parent / "cache", workers=0)
        assert (len(cache), list(cache.failed), decoded) == (11, ["a/00.png"], [])
        only_broken = whole.subset([0])
        _, joined, _ = fill_shards(only_broken, SMALL, data.parent / "cache", 0)
        assert list(joined.index.failed) == [0]

    @pytest.mark.usefixtures("small_shards")
    def test_with_masks(self, data: Path) -> None:
        rows = ["path,label,mask"]
        for i, path in enumerate(sorted(data.rglob("*.png"))):
            name = path.relative_to(data).as_posix()
            mask = np.zeros((80, 80), np.uint8)
            mask[30:50, 30 + i : 45] = 255
            save(mask, data / "masks" / path.name)
            rows.append(f"{name},{name[0]},{f'masks/{path.name}' if i > 6 else ''}")
        (data / "manifest.csv").write_text("\n".join(rows) + "\n")
        cache = open_cache(data)
        assert cache.masks is not None
        assert [bool(mask.any()) for mask in cache.masks] == [False] * 7 + [True] * 5
        assert cache.batch_masks([11, 0]).shape == (2, 1, 64, 64)  # type: ignore[union-attr]

    def test_of_series(self, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "data").mkdir()
        for i in range(4):
            np.save(tmp_path / "data" / f"{i}.npy", np.stack([head(rng) for _ in range(3 + i)]))
        (tmp_path / "data" / "manifest.csv").write_text("path,label\n0.npy,a\n1.npy,b\n2.npy,a\n3.npy,b\n")
        manifest = Manifest.open(tmp_path / "data", case="series")
        one = PixelCache.open(manifest, SMALL, tmp_path / "one", 0, case="series")
        monkeypatch.setattr(shards, "SHARD_IMAGES", 40)
        several = PixelCache.open(manifest, SMALL, tmp_path / "cache", 0, case="series")
        assert len([*(tmp_path / "cache").glob("shards/*")]) == 2
        check_equal(several, one)
        np.testing.assert_array_equal(several.starts, one.starts)
        assert len(several.pixels) == 18


class TestOtherDataSets:
    def test_the_same_images_in_another_order_are_the_same_shard(self, data: Path, decoded: list[str]) -> None:
        first = open_cache(data)
        order = [7, 3, 11, 0, 1, 2, 4, 5, 6, 8, 9, 10]
        found = in_order(data, order)
        assert len([*(data.parent / "cache").glob("shards/*")]) == 1
        assert len(decoded) == 12
        assert found.hashes == [first.hashes[i] for i in order]
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(found, name), getattr(first, name)[order])

    def test_the_same_image_twice(self, data: Path) -> None:
        shutil.copy(data / "a" / "00.png", data / "a" / "03.png")
        (data / "a" / "05.png").write_bytes(b"no image")
        open_cache(data)
        order = [5, 3, 1, 0, 2, 4, *range(11, 5, -1)]
        check_equal(in_order(data, order), in_order(data, order, "elsewhere"))

    @pytest.mark.usefixtures("small_shards")
    def test_rows_of_other_shards_are_copied(self, data: Path, decoded: list[str]) -> None:
        open_cache(data)
        order = [11, 2, 6, 7, 0, 5, 9]
        copied = in_order(data, order)
        assert len(decoded) == 12
        check_equal(copied, in_order(data, order, "elsewhere"))

    @pytest.mark.usefixtures("small_shards")
    def test_an_added_image_is_the_only_one_decoded(self, data: Path, decoded: list[str], rng: np.random.Generator) -> None:
        open_cache(data)
        save(head(rng), data / "a" / "000.png")
        decoded.clear()
        cache = open_cache(data)
        assert decoded == ["a/000.png"]
        check_equal(cache, open_cache(data, "elsewhere"))

    def test_a_cache_of_an_earlier_version_is_left_alone(self, data: Path, decoded: list[str]) -> None:
        open_cache(data)
        [rows] = (data.parent / "cache").glob("shards/*/rows")
        old = data.parent / "old" / "0123456789abcdef"
        shutil.copytree(rows, old)
        before = {path: path.read_bytes() for path in old.iterdir()}
        open_cache(data, "old")
        assert len(decoded) == 24
        assert {path: path.read_bytes() for path in old.iterdir()} == before


class Process:
    """A process that fills the cache beside ``data``; it waits for :meth:`go` and stops when ``hang_at`` images are done."""

    def __init__(self, data: Path, out: Path, hang_at: int = -1) -> None:
        self.out = out
        out.mkdir()
        self.process = subprocess.Popen([sys.executable, "-c", FILL, str(data), str(out), str(hang_at)])
        self.wait_for("ready")

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 120
        while not (self.out / name).exists():
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.02)

    def go(self) -> None:
        (self.out / "go").touch()

    def end(self) -> list[str]:
        """Returns the names of the cases that it decoded."""
        assert self.process.wait(120) == 0
        return (self.out / "names").read_text().split()

    def check(self, cache: PixelCache) -> None:
        with np.load(self.out / "arrays.npz") as arrays:
            for name in ARRAYS:
                np.testing.assert_array_equal(arrays[name], getattr(cache, name))


@pytest.fixture
def start(data: Path, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def begin(hang_at: int = -1) -> Process:
        started.append(Process(data, tmp_path / f"process{len(started)}", hang_at))
        return started[-1]

    yield begin
    for item in started:
        item.process.kill()
        item.process.wait()


class TestSeveralProcesses:
    def test_fill_one_cache(self, data: Path, start: Callable[..., Process]) -> None:
        processes = [start(), start()]
        for process in processes:
            process.go()
        names = [process.end() for process in processes]
        assert all(names)
        assert sorted(names[0] + names[1]) == [case.name for case in Manifest.open(data).cases]
        for process in processes:
            process.check(open_cache(data, "elsewhere"))

    def test_one_is_killed(self, data: Path, start: Callable[..., Process]) -> None:
        killed, other = start(hang_at=3), start()
        killed.go()
        killed.wait_for("hangs")
        other.go()
        folder = data.parent / "cache" / "shards"
        deadline = time.monotonic() + 60
        while len([*folder.glob("*/rows")]) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.5)
        assert other.process.poll() is None  # it waits for the last shard, of which three images are done
        assert len([*folder.glob("*/rows")]) == 2
        killed.process.send_signal(signal.SIGKILL)
        names = other.end()
        assert len(names) in (9, 10)  # the index of the killed process was written after two or three images
        other.check(open_cache(data, "elsewhere"))
        assert not [*folder.glob("*/*.part")]

    @pytest.mark.usefixtures("small_shards")
    def test_a_host_that_sees_no_lock_publishes_second(self, data: Path) -> None:
        """Both write their own part; the first to finish is kept."""
        first = open_cache(data)
        [*folders] = (data.parent / "cache").glob("shards/*")
        for folder in folders:
            shard = shards.Shard(folder, *_identity(folder))
            shutil.copytree(shard.rows_folder, shard.part_folder)
            before = shard.rows_folder.stat().st_ino
            shard.publish()
            assert shard.rows_folder.stat().st_ino == before
            assert not shard.part_folder.exists()
        check_equal(open_cache(data), first)

    def test_a_published_shard_has_no_parts_of_other_hosts(self, data: Path, decoded: list[str]) -> None:
        part = _interrupted(data)
        other = part.rename(part.with_name("other-host.part"))
        open_cache(data)
        assert len(decoded) == 17
        assert [path.name for path in other.parent.iterdir() if path.name != ".lock"] == ["rows"]

    def test_a_host_that_sees_no_lock_removes_the_part_of_this_one(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """On NFS, later writes to a removed file fail."""
        whole = open_cache(data, "elsewhere")
        [rows] = (data.parent / "elsewhere").glob("shards/*/rows")

        def publish_elsewhere(done: int, total: int) -> None:
            if done == 5:
                [part] = (data.parent / "cache").glob("shards/*/*.part")
                shutil.copytree(rows, part.with_name("rows"))
                shutil.rmtree(part)
                monkeypatch.setattr(RowWriter, "append", _stale)

        check_equal(open_cache(data, on_progress=publish_elsewhere), whole)

    def test_a_failed_write_without_a_published_shard_is_an_error(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(RowWriter, "append", _stale)
        with pytest.raises(StorageError, match="Stale file handle"):
            open_cache(data)


def _stale(*_: object) -> None:
    raise StorageError("The cache could not be written: Stale file handle", "A cache is writable", "Run the command again")


def _interrupted(data: Path) -> Path:
    """Returns the part that a process leaves when it is interrupted after five images."""

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_cache(data, on_progress=stop)
    [part] = (data.parent / "cache").glob("shards/*/*.part")
    return part


def _identity(folder: Path) -> tuple[str, list[int], list[str], dict[str, tuple[int, ...]]]:
    index = CacheIndex.read(folder / "rows")
    assert index is not None
    return index.recipe, list(range(len(index.keys))), index.keys, {"pixels": (1, 64, 64)}


def test_a_few_images_are_decoded_in_this_process() -> None:
    assert shards.choose_workers(100) == 0
