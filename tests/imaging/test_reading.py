"""Whatever the file: a whole image or an InputError, within 5 seconds and 1 GiB."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import builders as b
import corpus
import numpy as np
import pytest
from PIL import Image as Pillow
from pydicom import uid

from reslink.errors import InputError
from reslink.imaging import reading
from reslink.imaging.image import Image
from reslink.imaging.limits import ImagingWarning
from reslink.imaging.reading import each_image, find_images, read_image
from reslink.imaging.sandbox import pool as child

ENTRIES = {name: (data, verdict) for name, data, verdict in corpus.entries()}


def outcome(data: bytes | Path) -> Image | InputError:
    """The image or the refusal; any other exception passes and fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImagingWarning)
        try:
            image = read_image(data)
        except InputError as error:
            return error
    assert image.pixels.ndim in (2, 3)
    assert np.isfinite(image.pixels).all()
    return image


def test_the_corpus_is_large() -> None:
    assert len(ENTRIES) >= 150
    assert {verdict for _, verdict in ENTRIES.values()} == {"good", "bad", "any"}


@pytest.mark.parametrize("name", ENTRIES)
def test_corpus(name: str) -> None:
    data, verdict = ENTRIES[name]
    start = time.perf_counter()
    result = outcome(data)
    if os.getloadavg()[0] < 1.5 * (os.cpu_count() or 1):  # elapsed time means nothing on an overloaded machine
        assert time.perf_counter() - start < 5
    if verdict == "good":
        assert isinstance(result, Image), result
    if verdict == "bad":
        assert isinstance(result, InputError)
        assert all((result.given, result.allowed, result.next_step))


GREY = Pillow.fromarray(b.picture(32, 24))
STORED = b.picture(64, 48).astype(np.uint16) * 16
SMALL: dict[str, Callable[[], bytes]] = {
    "png": lambda: b.saved(GREY, "PNG"),
    "jpeg": lambda: b.saved(GREY, "JPEG"),
    "jpeg progressive": lambda: b.saved(GREY.convert("RGB"), "JPEG", progressive=True),
    "bmp": lambda: b.saved(GREY, "BMP"),
    "tiff": lambda: b.saved(GREY, "TIFF", compression="tiff_lzw"),
    "webp": lambda: b.saved(GREY.convert("RGB"), "WEBP", lossless=True),
    "npy": lambda: b.npy(STORED),
    "dicom": lambda: b.written(b.dataset(STORED)),
    "dicom rle": lambda: b.compressed(STORED, uid.RLELossless),
    "dicom jpeg-ls": lambda: b.compressed(STORED, uid.JPEGLSLossless),
    "dicom jpeg 2000": lambda: b.compressed(STORED, uid.JPEG2000Lossless),
    "dicom jpeg lossless": lambda: b.compressed(STORED, uid.JPEGLosslessSV1),
    "nifti.gz": lambda: b.zipped(b.nifti(np.stack([STORED.T] * 17, axis=-1))),
}


@pytest.mark.parametrize("kind", SMALL)
def test_truncation_gives_no_half_image(kind: str) -> None:
    """A cut file is refused, or gives every pixel (where the cut took only what follows the pixels)."""
    data = SMALL[kind]()
    whole = read_image(data).pixels
    cuts = np.unique(np.linspace(1, len(data) - 1, 160).astype(int)).tolist() + list(range(len(data) - 12, len(data)))
    for cut in cuts:
        result = outcome(data[:cut])
        if isinstance(result, Image):
            np.testing.assert_array_equal(result.pixels, whole, err_msg=f"cut at {cut} of {len(data)}")


@pytest.mark.parametrize("kind", SMALL)
def test_flipped_bits_raise_nothing_else(kind: str) -> None:
    data = SMALL[kind]()
    rng = np.random.default_rng(7)
    for _ in range(60):
        broken = bytearray(data)
        for at in rng.integers(0, min(len(data), 700), rng.integers(1, 4)):
            broken[at] ^= 1 << rng.integers(8)
        outcome(bytes(broken))


@pytest.mark.parametrize("kind", ["png", "nifti.gz"])
def test_a_flipped_bit_in_checked_data_is_refused(kind: str) -> None:
    data = bytearray(SMALL[kind]())
    data[len(data) // 2] ^= 4
    with pytest.raises(InputError):
        read_image(bytes(data))


# --- the file system ------------------------------------------------------------------------------------------------


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.png"
    os.mkfifo(fifo)
    device = tmp_path / "zero.png"
    device.symlink_to("/dev/zero")
    for path in (fifo, device, Path("/dev/random")):
        with pytest.raises(InputError, match="is not a regular file"):
            read_image(path)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    for path in (tmp_path / "missing.png", tmp_path / "gone.png", "a\0b.png", "x" * 5000):
        with pytest.raises(InputError, match="cannot be opened"):
            read_image(path)
    with pytest.raises(InputError, match="holds no DICOM file"):
        read_image(tmp_path)


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "picture.dcm"
    path.write_bytes(b.saved(GREY, "PNG"))
    np.testing.assert_array_equal(read_image(path).pixels, np.asarray(GREY))
    assert read_image(str(path)).source == str(path)


def test_a_sparse_file_of_a_gigabyte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    with path.open("wb") as stream:
        stream.write(b"\x93NUMPY")
        stream.truncate(1 << 30)
    with pytest.raises(InputError, match=r"has 1024 MiB\. The limit is 512 MiB a file"):
        read_image(path)


# --- the child ------------------------------------------------------------------------------------------------------

RISKY = b.compressed(STORED, uid.JPEGLSLossless)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_child_that_died_while_idle_is_replaced(how: signal.Signals) -> None:
    read_image(RISKY)
    for waiting in child._pool.idle:
        os.kill(waiting.process.pid, how)
        waiting.process.wait()
    assert read_image(RISKY).pixels.shape == STORED.shape


def test_a_child_that_dies_at_work_costs_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    read_image(RISKY)
    victim = child._pool.idle[-1]
    os.kill(victim.process.pid, signal.SIGSTOP)  # so that the request waits when the blow falls
    threading.Timer(0.3, os.kill, (victim.process.pid, signal.SIGKILL)).start()
    with pytest.raises(InputError, match="the decoder died on it"):
        read_image(RISKY)
    assert victim.process.returncode == -signal.SIGKILL
    assert read_image(RISKY).pixels.shape == STORED.shape


def test_a_child_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "SECONDS", 0.01)  # of work
    slow = b.zipped(b.nifti(np.zeros((256, 256, 256), np.int16)))
    with pytest.raises(InputError, match=r"decoding took longer than 0\.01 seconds"):
        read_image(slow)


def _read_in_worker(data: bytes) -> float:
    return float(read_image(data).pixels.sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_it_works_in_multiprocessing_workers(method: str, tmp_path: Path) -> None:
    expected = _read_in_worker(RISKY)  # the parent has a child before it forks
    if method == "fork":
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(_read_in_worker, [RISKY] * 4) == [expected] * 4
        assert _read_in_worker(RISKY) == expected
        return
    code = (
        "import multiprocessing, sys; from reslink.imaging.reading import read_image\n"
        "if __name__ == '__main__':\n"
        f"    with multiprocessing.get_context('{method}').Pool(2) as pool:\n"
        "        print([i.pixels.shape for i in pool.map(read_image, sys.argv[1:] * 4)])\n"
    )
    script, image = tmp_path / "main.py", tmp_path / "image.dcm"
    script.write_text(code)
    image.write_bytes(RISKY)
    done = subprocess.run([sys.executable, str(script), str(image)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str([STORED.shape] * 4), done.stderr


def test_threads_read_side_by_side() -> None:
    results: list[float] = []
    threads = [threading.Thread(target=lambda: results.append(_read_in_worker(RISKY))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [_read_in_worker(RISKY)] * 6


def test_the_readers_import_no_torch_and_leave_no_process_behind(tmp_path: Path) -> None:
    image = tmp_path / "image.dcm"
    image.write_bytes(RISKY)
    code = (
        "import sys; from reslink.imaging.reading import read_image; from reslink.imaging import child\n"
        f"read_image({str(image)!r}); print('torch' in sys.modules, child._pool.idle[0].process.pid)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    torch, pid = done.stdout.split()
    assert (torch, done.stderr) == ("False", "")
    assert not Path("/proc", pid).exists()


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
def test_bombs_stay_below_a_gibibyte(tmp_path: Path) -> None:
    """Peak memory of the reader and of its child, each, over the bombs and the largest good files."""
    names = [
        "png bomb",
        "png of 64 megapixels",
        "dicom deflate bomb",
        "gz bomb of zeros",
        "gz bomb after nifti",
        "png data bomb",
    ]
    for i, name in enumerate(names):
        (tmp_path / f"{i}.bin").write_bytes(ENTRIES[name][0])
    # VmHWM begins at 0 with each program, unlike ru_maxrss, which a child takes over from its parent.
    code = (
        "import sys; from pathlib import Path; from reslink.imaging.reading import read_image\n"
        "from reslink.imaging import child\n"
        "for path in sys.argv[1:]:\n"
        "    try: read_image(path)\n"
        "    except Exception as error: pass\n"
        "for pid in ('self', str(child._pool.idle[0].process.pid)):\n"
        "    print(Path('/proc', pid, 'status').read_text().split('VmHWM:')[1].split()[0])\n"
    )
    paths = [str(p) for p in sorted(tmp_path.iterdir())]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=100)
    ours, theirs = (int(kib) / 1024 for kib in done.stdout.split())
    assert ours + theirs < 1024, (ours, theirs)


def test_images_are_found_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(20):
        (tmp_path / f"{i:02d}.png").write_bytes(b.saved(GREY, "PNG"))
    looked_at: list[Path] = []
    kind = reading._kind_in_folder
    monkeypatch.setattr(reading, "_kind_in_folder", lambda path: looked_at.append(path) or kind(path))
    stream = each_image(tmp_path)
    assert next(stream) == tmp_path / "00.png"
    assert looked_at == [tmp_path / "00.png"], "the rest of the folder waits"
    assert [path.name for path in stream] == [f"{i:02d}.png" for i in range(1, 20)]
    (tmp_path / "sub").mkdir()
    (tmp_path / "00.png").rename(tmp_path / "sub" / "00.png")
    found = list(each_image(str(tmp_path / "**")))  # the folder, the folder in it, and every file of both
    assert len(found) == len(set(found)) == 20


def test_find_images(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "sub/c.bin", ".hidden.png", "sub/.x/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b.saved(GREY, "PNG"))
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    (tmp_path / "head.NRRD").write_bytes(b"NRRD0004")
    for ending in ("gif", "heic", "jp2", "mha", "mhd"):
        (tmp_path / f"other.{ending}").write_bytes(b"GIF89a")
    (tmp_path / "manifest.csv").write_text("path,label")
    found = [str(p.relative_to(tmp_path)) for p in find_images([tmp_path])]
    others = ["other.gif", "other.heic", "other.jp2", "other.mha", "other.mhd"]
    assert found == ["a.jpg", "b.png", "broken.png", "head.NRRD", *others, "sub/c.bin"]
    with pytest.raises(InputError, match=r"head\.NRRD is not an image that reslink knows"):
        read_image(tmp_path / "head.NRRD")
    assert [p.name for p in find_images([tmp_path / "b.png", str(tmp_path / "*.png"), tmp_path / "b.png"])] == [
        "b.png",
        "broken.png",
    ]
    assert [p.name for p in find_images([str(tmp_path / "**" / "c.*")])] == ["c.bin"]
    with pytest.raises(InputError, match=r"nowhere\.png does not exist"):
        find_images([tmp_path / "nowhere.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no image"):
        find_images([tmp_path / "empty"])
