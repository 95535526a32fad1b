"""The pixel cache: each image is decoded once, and read in batches."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from head_files import SMALL, head, open_cache, save
from PIL import Image as Picture

from reslink.datasets.cache import pixel_cache
from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.datasets.near_duplicates.thumbnails import make_thumbnail
from reslink.errors import UsageError
from reslink.imaging.head_mask import SEVERAL_HEADS
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image


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
