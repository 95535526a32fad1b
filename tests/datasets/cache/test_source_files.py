"""Source files: hashed once, and again only if they may have changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from head_files import SMALL, head, open_cache

from reslink.datasets.cache import source_files
from reslink.datasets.cache.pixel_cache import PixelCache, fill_shards
from reslink.datasets.cache.source_files import FILE_TABLE, PART_TABLES, file_state
from reslink.datasets.manifest import Manifest, file_hash
from reslink.errors import StorageError

HOUR = 3600


def write(path: Path, rng: np.random.Generator, age: float = HOUR) -> None:
    """Writes a file whose size does not depend on its content."""
    np.save(path, head(rng))
    set_age(path, age)


def set_age(path: Path, age: float) -> None:
    changed = time.time() - age
    os.utime(path, (changed, changed))


@pytest.fixture
def arrays(tmp_path: Path, rng: np.random.Generator) -> Path:
    root = tmp_path / "data"
    for name in ("a/0.npy", "a/1.npy", "b/2.npy", "b/3.npy"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write(root / name, rng)
    return root


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed."""
    names: list[str] = []

    def watched(path: Path, name: str) -> str:
        names.append(name)
        return file_hash(path, name)

    monkeypatch.setattr(source_files, "file_hash", watched)
    return names


def test_are_hashed_once(arrays: Path, hashed: list[str]) -> None:
    first = open_cache(arrays)
    assert sorted(hashed) == ["a/0.npy", "a/1.npy", "b/2.npy", "b/3.npy"]
    again = open_cache(arrays)
    assert len(hashed) == 4
    assert (again.hashes, again.file_hashes) == (first.hashes, first.file_hashes)


def test_a_filled_cache_opens_no_image_file(arrays: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from reslink.datasets.cache.pixel_cache import PixelCache\n"
        "from reslink.datasets.manifest import Manifest\n"
        "from reslink.imaging.preprocess import Preprocess\n"
        "data, opened = Path(sys.argv[1]), []\n"
        "note = lambda event, args: event == 'open' and str(args[0]).startswith(f'{data}/') and opened.append(args[0])\n"
        "manifest = Manifest.open(data)\n"
        "sys.addaudithook(note)\n"
        "for _ in range(2):\n"
        "    PixelCache.open(manifest, Preprocess(size=64), data.parent / 'cache', 0)\n"
        "    print(len(set(opened)))\n"
        "    opened.clear()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(arrays)], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["4", "0"]


def test_another_size_is_seen(arrays: Path, hashed: list[str], decoded: list[str], rng: np.random.Generator) -> None:
    open_cache(arrays)
    changed, before = arrays / "a" / "1.npy", (arrays / "a" / "1.npy").stat()
    np.save(changed, head(rng, 90))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    cache = open_cache(arrays)
    assert hashed[4:] == decoded[4:] == ["a/1.npy"]
    np.testing.assert_array_equal(cache.pixels, open_cache(arrays, "elsewhere").pixels)


def test_another_time_is_seen(arrays: Path, hashed: list[str], decoded: list[str], rng: np.random.Generator) -> None:
    before = open_cache(arrays)
    write(arrays / "a" / "1.npy", rng, HOUR / 2)
    set_age(arrays / "b" / "2.npy", HOUR / 2)  # touched, not changed
    cache = open_cache(arrays)
    assert sorted(hashed[4:]) == ["a/1.npy", "b/2.npy"]
    assert decoded[4:] == ["a/1.npy"]
    assert [a == b for a, b in zip(cache.hashes, before.hashes, strict=True)] == [True, False, True, True]


def test_the_same_size_and_time_is_seen_with_verify(arrays: Path, decoded: list[str], rng: np.random.Generator) -> None:
    before, state = open_cache(arrays), (arrays / "a" / "1.npy").stat()
    write(arrays / "a" / "1.npy", rng)
    os.utime(arrays / "a" / "1.npy", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert open_cache(arrays).hashes == before.hashes
    verified = open_cache(arrays, verify=True)
    assert decoded[4:] == ["a/1.npy"]
    assert verified.hashes != before.hashes
    assert open_cache(arrays).hashes == verified.hashes


def test_a_file_that_changed_just_before_it_was_hashed_is_hashed_again(arrays: Path, rng: np.random.Generator) -> None:
    write(arrays / "a" / "1.npy", rng, 0.5)
    before, state = open_cache(arrays), (arrays / "a" / "1.npy").stat()
    write(arrays / "a" / "1.npy", rng)
    os.utime(arrays / "a" / "1.npy", ns=(state.st_atime_ns, state.st_mtime_ns))  # a write within the same tick of the clock
    cache = open_cache(arrays)
    assert [a == b for a, b in zip(cache.hashes, before.hashes, strict=True)] == [True, False, True, True]


def test_a_file_from_the_future_is_hashed_each_time(arrays: Path, hashed: list[str]) -> None:
    set_age(arrays / "a" / "1.npy", -HOUR)
    for _ in range(3):
        open_cache(arrays)
    assert hashed[4:] == ["a/1.npy", "a/1.npy"]


@pytest.mark.parametrize("damage", ["cut", "other code", "gone"])
def test_without_a_table_all_are_hashed(arrays: Path, hashed: list[str], decoded: list[str], damage: str) -> None:
    open_cache(arrays)
    table = arrays.parent / "cache" / FILE_TABLE
    if damage == "cut":
        os.truncate(table, table.stat().st_size - 10)
    elif damage == "gone":
        table.unlink()
    else:
        table.write_text(json.dumps({**json.loads(table.read_text()), "code": "other"}))
    open_cache(arrays)
    assert len(hashed) == 8
    assert len(decoded) == 4


def test_data_sets_share_the_table(arrays: Path, hashed: list[str]) -> None:
    manifest = Manifest.open(arrays)
    for cases in ([0, 2], [1, 3], [0, 1, 2, 3]):
        PixelCache.open(manifest.subset(cases), SMALL, arrays.parent / "cache", workers=0)
    assert hashed == [manifest.cases[i].name for i in (0, 2, 1, 3)]


def test_parts_have_tables_of_their_own_which_are_joined_at_the_next_opening(arrays: Path, hashed: list[str]) -> None:
    manifest, folder = Manifest.open(arrays), arrays.parent / "parts"
    for part in (manifest.subset([0, 1]), manifest.subset([2, 3])):
        fill_shards(part, SMALL, folder, 0, with_masks=False, is_part=True)
    assert len(hashed) == 4
    assert not (folder / FILE_TABLE).exists()
    assert sorted(len(json.loads(table.read_text())["files"]) for table in (folder / PART_TABLES).iterdir()) == [2, 2]
    fill_shards(manifest.subset([0, 1]), SMALL, folder, 0, with_masks=False, is_part=True)  # resumed
    PixelCache.open(manifest, SMALL, folder, workers=0)
    assert len(hashed) == 4
    assert len(json.loads((folder / FILE_TABLE).read_text())["files"]) == 4
    assert list((folder / PART_TABLES).iterdir()) == []
    fill_shards(manifest.subset([0, 1]), SMALL, folder, 0, with_masks=False, is_part=True)
    assert (len(hashed), list((folder / PART_TABLES).iterdir())) == (4, [])


def test_paths_are_not_stored(arrays: Path) -> None:
    open_cache(arrays)
    text = (arrays.parent / "cache" / FILE_TABLE).read_text()
    assert "npy" not in text
    assert str(arrays) not in text


def test_a_cache_whose_table_cannot_be_written_is_used(
    arrays: Path, hashed: list[str], decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: str) -> Path:
        raise StorageError(f"{path} could not be written", "read-only", "none")

    monkeypatch.setattr(source_files, "write_atomic", refuse)
    open_cache(arrays)
    open_cache(arrays)
    assert (len(hashed), len(decoded)) == (8, 4)


def test_the_state_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    for name in ("1.dcm", "2.dcm"):
        (tmp_path / name).write_bytes(b"content")
        set_age(tmp_path / name, HOUR)
    states = [file_state(tmp_path)]
    set_age(tmp_path / "1.dcm", HOUR / 2)
    states.append(file_state(tmp_path))
    (tmp_path / "2.dcm").rename(tmp_path / "3.dcm")
    states.append(file_state(tmp_path))
    (tmp_path / "4.dcm").symlink_to("nowhere")
    states.append(file_state(tmp_path))
    (tmp_path / "3.dcm").unlink()
    states.append(file_state(tmp_path))
    assert len({state.identity for state in states}) == 5
    assert states[1].changed == (tmp_path / "1.dcm").stat().st_mtime_ns
    assert file_state(tmp_path) == states[-1]
    with pytest.raises(FileNotFoundError):
        file_state(tmp_path / "missing")
