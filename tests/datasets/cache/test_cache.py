"""The cache: decoded once, whole or resumed, the same from one process or several."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from head_files import SMALL, head, open_cache, save
from PIL import Image as Picture

from reslink.datasets.cache import pixel_cache, shards, storage
from reslink.datasets.cache.decode import DecodeJob, WorkerPool, decode_all
from reslink.datasets.cache.notes import excluded_notes, sequence_notes
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.thumbnails import make_thumbnail
from reslink.errors import StorageError, UsageError
from reslink.imaging.head_mask import SEVERAL_HEADS
from reslink.imaging.image import NOTHING_STATED, Stated
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.imaging.units import NO_HU


def test_rows_are_the_preprocessed_images(data: Path) -> None:
    manifest = Manifest.open(data)
    cache = open_cache(data)
    assert (cache.pixels.shape, cache.heads.shape, cache.thumbnails.shape) == ((12, 1, 64, 64), (12, 56, 56), (12, 64, 64))
    assert isinstance(cache.pixels, np.memmap)
    assert not cache.pixels.flags.writeable
    for row, case in enumerate(manifest.cases):
        image = read_image(case.path)
        np.testing.assert_array_equal(cache.pixels[row], SMALL.pixels(image))
        np.testing.assert_array_equal(cache.thumbnails[row], make_thumbnail(image))
        assert cache.heads[row].mean() == pytest.approx(SMALL.resized_head_mask(image).mean(), abs=0.02)
    assert cache.kept == list(range(12))
    assert (cache.masks, cache.has_mask.any(), cache.failed) == (None, False, {})
    assert list(cache.targets) == manifest.targets
    assert len(cache) == 12
    assert manifest.digest(cache.file_hashes) == manifest.digest()


def test_second_open_decodes_nothing(data: Path, decoded: list[str]) -> None:
    first = open_cache(data)
    assert len(decoded) == 12
    calls: list[tuple[int, int]] = []
    second = open_cache(data, on_progress=lambda *call: calls.append(call))
    assert len(decoded) == 12
    assert calls == [(12, 12)]
    np.testing.assert_array_equal(first.pixels, second.pixels)


def test_only_what_changed_is_decoded_again(data: Path, decoded: list[str], rng: np.random.Generator) -> None:
    open_cache(data)
    decoded.clear()
    save(head(rng), data / "b" / "06.png")
    save(head(rng), data / "b" / "99.png")
    (data / "a" / "00.png").unlink()
    cache = open_cache(data)
    assert sorted(decoded) == ["b/06.png", "b/99.png"]
    for row, case in enumerate(cache.manifest.cases):
        np.testing.assert_array_equal(cache.pixels[row], SMALL.pixels(read_image(case.path)))


def test_settings_and_code_are_part_of_the_key(data: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    open_cache(data)
    PixelCache.open(Manifest.open(data), SMALL.model_copy(update={"isolate_head": False}), data.parent / "cache")
    assert len(decoded) == 24
    monkeypatch.setattr(pixel_cache, "code_digest", lambda: "another version")
    open_cache(data)
    assert len(decoded) == 36


@pytest.mark.parametrize("package", ["opencv-python-headless", "pillow"])
def test_another_version_of_a_decoding_package_is_another_key(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, known = storage.code_digest(), importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0" if name == package else known(name))
    assert storage.code_digest() != before


def test_bad_files_are_named_and_left_out(data: Path) -> None:
    (data / "a" / "01.png").write_bytes(b"no image")
    whole = (data / "b" / "07.png").read_bytes()
    (data / "b" / "07.png").write_bytes(whole[: len(whole) // 2])
    np.save(data / "b" / "08.npy", np.zeros((3, 20, 20), np.uint8))
    cache = open_cache(data)
    assert sorted(cache.failed) == ["a/01.png", "b/07.png", "b/08.npy"]
    assert "b/08.npy holds 3 slices" in cache.failed["b/08.npy"]
    names = [case.name for case in cache.manifest.cases]
    assert names == [Manifest.open(data).cases[i].name for i in cache.kept]
    assert not {*names} & {*cache.failed}
    assert len(cache.pixels) == len(names) == 10
    np.testing.assert_array_equal(cache.pixels[-1], SMALL.pixels(read_image(data / "b" / "11.png")))
    again = open_cache(data)
    assert again.failed == cache.failed
    (file,) = (data.parent / "cache").glob("shards/*/rows/pixels.npy")
    np.testing.assert_array_equal(np.load(file), cache.pixels)


def test_a_contact_sheet_is_stated_as_such(data: Path, rng: np.random.Generator) -> None:
    save(np.tile(head(rng), (2, 2)), data / "a" / "00.png")
    assert [stated.excluded for stated in open_cache(data).stated] == [SEVERAL_HEADS, *[None] * 11]


def test_nothing_readable(data: Path) -> None:
    for path in data.rglob("*.png"):
        path.write_bytes(path.name.encode())
    with pytest.raises(UsageError, match=r"None of the 12 images can be read\..*The first error: "):
        open_cache(data)


class TestMasks:
    @pytest.fixture
    def masked(self, data: Path) -> Path:
        rows = ["path,label,mask"]
        for path in sorted(data.rglob("*.png")):
            name = path.relative_to(data).as_posix()
            if name.startswith("b/"):
                mask = np.zeros((80, 80), np.uint8)
                mask[30:50, 35:45] = 1 if name == "b/06.png" else 255
                save(mask, data / "masks" / path.name)
            rows.append(f"{name},{name[0]},{f'masks/{path.name}' if name.startswith('b/') else ''}")
        (data / "manifest.csv").write_text("\n".join(rows) + "\n")
        return data

    def test_are_aligned_with_the_image(self, masked: Path) -> None:
        cache = open_cache(masked)
        assert cache.masks is not None
        assert list(cache.has_mask) == [False] * 6 + [True] * 6
        assert cache.masks[:6].max() == 0
        for row in range(6, 12):
            place = SMALL.placement(read_image(cache.manifest.cases[row].path))
            mask = np.asarray(Picture.open(masked / "masks" / f"{row:02}.png"))
            np.testing.assert_array_equal(cache.masks[row], place.to_network(mask))
            assert set(np.unique(cache.masks[row])) == {0, 1}
        batch = cache.batch_masks([6, 0])
        assert batch is not None
        assert (tuple(batch.shape), batch.dtype) == ((2, 1, 64, 64), torch.uint8)

    def test_of_another_size_fails_its_case(self, masked: Path) -> None:
        save(np.ones((80, 81), np.uint8), masked / "masks" / "07.png")
        (masked / "masks" / "08.png").write_bytes(b"no mask")
        cache = open_cache(masked)
        assert sorted(cache.failed) == ["b/07.png", "b/08.png"]
        assert r"mask of b/07.png has (80, 81) pixels, but the image has (80, 80)" in cache.failed["b/07.png"]

    def test_are_part_of_the_key(self, masked: Path, decoded: list[str]) -> None:
        open_cache(masked)
        decoded.clear()
        save(np.ones((80, 80), np.uint8), masked / "masks" / "07.png")
        assert open_cache(masked).masks[7].mean() > 0.5  # type: ignore[index]
        assert decoded == ["b/07.png"]


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


class TestWorkers:
    def test_give_the_same_as_one_process(self, data: Path) -> None:
        (data / "a" / "01.png").write_bytes(b"no image")
        calls: list[tuple[int, int]] = []
        several = open_cache(data, workers=2, on_progress=lambda done, total: calls.append((done, total)))
        single = open_cache(data, "elsewhere", workers=0)
        np.testing.assert_array_equal(several.pixels, single.pixels)
        assert (several.kept, several.failed) == (single.kept, single.failed)
        assert calls == [(i + 1, 12) for i in range(12)]

    def test_a_file_that_kills_its_worker_is_left_out(self, data: Path) -> None:
        class Bomb:
            """Ends the process that unpickles it."""

            def __reduce__(self) -> tuple[object, tuple[int]]:
                return os._exit, (9,)

        paths = sorted(data.rglob("*.png"))[:4]
        jobs = [DecodeJob(path.name, path, None, SMALL, False) for path in paths]
        jobs[2] = DecodeJob("bomb.png", Bomb(), None, SMALL, False)  # type: ignore[arg-type]
        with WorkerPool(1) as pool:
            results = list(decode_all(jobs, pool))
        assert [isinstance(result, str) for result in results] == [False, False, True, False]
        assert "bomb.png crashes the process that decodes it" in str(results[2])

    def test_a_script_without_a_main_guard_is_refused(self, data: Path, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(
            "from reslink.datasets.cache.pixel_cache import PixelCache\n"
            "from reslink.datasets.manifest import Manifest\n"
            "from reslink.imaging.preprocess import Preprocess\n"
            f"PixelCache.open(Manifest.open({str(data)!r}), Preprocess(size=64), {str(tmp_path / 'c')!r}, workers=1)\n"
        )
        done = subprocess.run([sys.executable, str(script)], check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1
        assert "UsageError: The worker processes that decode images cannot be started" in done.stderr

    def test_import_no_torch(self) -> None:
        code = "import sys, reslink.datasets.cache.pixel_cache, reslink.datasets.cache.decode; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def test_none_for_a_few_images(self) -> None:
        assert shards.choose_workers(100) == 0


class TestBatches:
    def test_a_batch_is_a_copy(self, data: Path) -> None:
        cache = open_cache(data)
        batch = cache.batch(np.array([3, 1, 3]))
        assert (batch.dtype, tuple(batch.shape)) == (torch.uint8, (3, 1, 64, 64))
        np.testing.assert_array_equal(batch.numpy(), cache.pixels[[3, 1, 3]])
        batch.zero_()
        assert cache.pixels[3].any()
        assert tuple(cache.batch_heads([0]).shape) == (1, 1, 56, 56)
        assert cache.batch_masks([0]) is None

    def test_rows_stay_in_order(self, data: Path) -> None:
        found = open_cache(data).batches([7, 2, 5], 2)
        assert [list(rows) for rows in found] == [[7, 2], [5]]

    def test_empty_batches_are_refused(self, data: Path) -> None:
        with pytest.raises(UsageError, match="The batch size is 0"):
            open_cache(data).batches([1], 0)


@pytest.mark.data
def test_a_batch_of_real_images_costs_little(shared_data: Path, tmp_path: Path) -> None:
    manifest = Manifest.open(shared_data / "ct").subset(range(0, 3693, 100))
    cache = PixelCache.open(manifest, Preprocess(), tmp_path, workers=0)
    assert not cache.failed
    rows = np.arange(32)
    cache.batch(rows)
    start = time.thread_time()
    for _ in range(10):
        cache.batch(rows)
    assert (time.thread_time() - start) / 320 < 0.0012


def test_a_deleted_file_is_named(data: Path, tmp_path: Path) -> None:
    manifest = Manifest.open(data)
    (data / "a" / "02.png").unlink()
    cache = PixelCache.open(manifest, SMALL, tmp_path / "cache")
    assert list(cache.failed) == ["a/02.png"]
    assert "No such file" in cache.failed["a/02.png"]
    assert cache.kept == [0, 1, *range(3, 12)]


def test_mixed_units_and_remarks_of_the_readers_are_said_once(data: Path, rng: np.random.Generator) -> None:
    hu = np.where(head(rng) == 255, 900, np.where(head(rng) > 0, 30, -1000)).astype(np.float32)
    hu[:4] = -100  # fat
    for i in range(3):
        np.save(data / "a" / f"{i}.npy", hu + 1024)
        np.save(data / "b" / f"{i}.npy", hu + rng.normal(0, 5, hu.shape))
    for folder in ("cache", "cache", "again"):  # the remarks are stored with the rows
        cache = open_cache(data, folder)
        units, remark, few = cache.notes
        assert units.startswith(
            "Units: the data set mixes 12 images in gray values, 6 images in CT in HU. CT in HU gets a fixed"
        )
        assert remark == "3 images, the first: holds HU + 1024 by its histogram; the values are converted to HU"
        assert few.startswith("3 images, the first: holds only a few different values, as masks and blank images do")
    for path in data.glob("?/??.png"):
        path.unlink()
    assert [note for note in open_cache(data).notes if note.startswith("Units")] == []


@pytest.mark.parametrize(
    ("kind", "has_few"),
    [("mask", True), ("mask.jpg", True), ("label map", True), ("blank", True), ("head", False), ("dark head", False)],
)
def test_images_that_look_like_masks_are_counted(data: Path, rng: np.random.Generator, kind: str, has_few: bool) -> None:
    gray = np.clip(head(rng) * 0.5 + rng.normal(20, 5, (80, 80)), 0, 255).astype(np.uint8)
    mask = np.zeros((80, 80), np.uint8)
    mask[30:40, 30:45], mask[32:36, 32:36] = 2, 4
    pixels = {"label map": mask, "blank": np.zeros_like(mask), "head": gray, "dark head": gray // 8}.get(kind, (mask > 0) * 255)
    for i in range(2):
        Picture.fromarray(pixels.astype(np.uint8)).save(data / "b" / f"m{i}{'.jpg' if kind == 'mask.jpg' else '.png'}")
    notes = open_cache(data).notes
    assert [note.startswith("2 images, the first: holds only a few different values") for note in notes] == [True] * has_few


def test_the_stated_unit_decides_the_pixels_and_is_part_of_the_key(data: Path, rng: np.random.Generator) -> None:
    for path in data.glob("?/??.png"):
        hu = np.where(np.asarray(Picture.open(path)) > 0, rng.normal(30, 5, (80, 80)), -1000.0)
        path.unlink()
        np.save(path.with_suffix(".npy"), hu)
    caches = {
        unit: PixelCache.open(Manifest.open(data, unit=unit), SMALL, data.parent / "cache") for unit in (None, "hu", "mr")
    }
    case = caches["mr"].manifest.cases[0]
    np.testing.assert_array_equal(caches["mr"].pixels[0], SMALL.pixels(read_image(case.path, "mr")))
    np.testing.assert_array_equal(caches["hu"].pixels[0], caches[None].pixels[0])
    assert (caches["mr"].pixels[0] != caches["hu"].pixels[0]).any()
    assert len({tuple(cache.hashes) for cache in caches.values()}) == 1


def test_the_sequence_of_the_table_replaces_that_of_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "abcd":
        save(head(rng), tmp_path / f"{name}.png")
    table = "path,label,sequence\na.png,x,T1w\nb.png,x,t1ce\nc.png,y,\nd.png,y,MAGiC\n"
    (tmp_path / "manifest.csv").write_text(table)
    cache = PixelCache.open(Manifest.open(tmp_path), SMALL, tmp_path / "cache", workers=0)
    assert [item.sequence for item in cache.stated] == ["T1", "T1C+", None, "MAGiC"]
    assert cache.manifest.cases[0].extra["sequence"] == "T1w"  # for subgroups
    again = Manifest.open(tmp_path, columns={"sequence": ""})
    assert [item.sequence for item in PixelCache.open(again, SMALL, tmp_path / "cache", workers=0).stated] == [None] * 4
    assert again.digest() != cache.manifest.digest()


def test_other_sequences_in_files_and_table_are_counted() -> None:
    stated = [Stated("MR", "T1"), Stated("MR", "T1"), Stated("MR", "T2"), Stated("MR")]
    assert sequence_notes(stated, ["T1C+", "T1C+", "T2", "T1"]) == [
        "2 images stated as T1C+ by the table and as T1 by the file; the table is used"
    ]


def test_files_that_a_model_refuses_are_counted_by_reason() -> None:
    localizer = Stated("CT", excluded="localizer, not a slice")
    assert excluded_notes([localizer, NOTHING_STATED, localizer, Stated(excluded=NO_HU)]) == [
        "A model refuses 2 images: localizer, not a slice",
        f"A model refuses 1 image: {NO_HU}",
    ]
