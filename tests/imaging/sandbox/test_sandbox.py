"""Decoding in a child process: crashes, time limits, memory limits, forks and threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import builders as b
import corpus
import numpy as np
import pytest
from pydicom import uid

from reslink.errors import InputError
from reslink.imaging.reading import read_image
from reslink.imaging.sandbox import pool
from reslink.imaging.sandbox.guarded_process import GuardedProcess

STORED = b.picture(64, 48).astype(np.uint16) * 16

COMPRESSED = b.compressed(STORED, uid.JPEGLSLossless)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSEGV])
def test_a_child_that_died_while_idle_is_replaced(sent: signal.Signals) -> None:
    read_image(COMPRESSED)
    for idle in pool._pool.idle:
        os.kill(idle.process.pid, sent)
        idle.process.wait()
    assert read_image(COMPRESSED).pixels.shape == STORED.shape


def test_a_child_that_dies_at_work_costs_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    read_image(COMPRESSED)
    victim = pool._pool.idle[-1]
    read_line = victim._read_line

    def kill_and_read() -> bytes:
        """Kills the child after the request was sent, before it can respond."""
        os.kill(victim.process.pid, signal.SIGKILL)
        return read_line()

    os.kill(victim.process.pid, signal.SIGSTOP)
    monkeypatch.setattr(victim, "_read_line", kill_and_read)
    with pytest.raises(InputError, match="the decoder crashed"):
        read_image(COMPRESSED)
    assert victim.process.returncode == -signal.SIGKILL
    assert read_image(COMPRESSED).pixels.shape == STORED.shape


def test_modules_of_the_working_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of images from somebody else may hold a file with the name of a standard module."""
    (tmp_path / "resource.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    assert GuardedProcess("reslink.imaging.sandbox.worker").close() == 0


def test_a_child_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "CPU_SECONDS", 0.01)
    slow = b.zipped(b.nifti(np.zeros((256, 256, 256), np.int16)))
    with pytest.raises(InputError, match=r"decoding took longer than 0\.01 seconds"):
        read_image(slow)


def _read_in_worker(data: bytes) -> float:
    return float(read_image(data).pixels.sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_it_works_in_multiprocessing_workers(method: str, tmp_path: Path) -> None:
    expected = _read_in_worker(COMPRESSED)  # the parent has a child before it forks
    if method == "fork":
        with multiprocessing.get_context(method).Pool(2) as workers:
            assert workers.map(_read_in_worker, [COMPRESSED] * 4) == [expected] * 4
        assert _read_in_worker(COMPRESSED) == expected
        return
    code = (
        "import multiprocessing, sys; from reslink.imaging.reading import read_image\n"
        "if __name__ == '__main__':\n"
        f"    with multiprocessing.get_context('{method}').Pool(2) as workers:\n"
        "        print([i.pixels.shape for i in workers.map(read_image, sys.argv[1:] * 4)])\n"
    )
    script, image = tmp_path / "main.py", tmp_path / "image.dcm"
    script.write_text(code)
    image.write_bytes(COMPRESSED)
    done = subprocess.run([sys.executable, str(script), str(image)], capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == str([STORED.shape] * 4), done.stderr


def test_threads_read_concurrently() -> None:
    results: list[float] = []
    threads = [threading.Thread(target=lambda: results.append(_read_in_worker(COMPRESSED))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [_read_in_worker(COMPRESSED)] * 6


def test_the_readers_import_no_torch_and_leave_no_process_behind(tmp_path: Path) -> None:
    image = tmp_path / "image.dcm"
    image.write_bytes(COMPRESSED)
    code = (
        "import sys; from reslink.imaging.reading import read_image; from reslink.imaging.sandbox import pool\n"
        f"read_image({str(image)!r}); print('torch' in sys.modules, pool._pool.idle[0].process.pid)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=600)
    torch, pid = done.stdout.split()
    assert (torch, done.stderr) == ("False", "")
    assert not Path("/proc", pid).exists()


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
def test_bombs_stay_below_a_gibibyte(tmp_path: Path) -> None:
    """Peak memory of the reader and of its child, over the bombs and the largest good files."""
    entries = {name: data for name, data, _ in corpus.entries()}
    names = [
        "png bomb",
        "png of 64 megapixels",
        "dicom deflate bomb",
        "gz bomb of zeros",
        "gz bomb after nifti",
        "png data bomb",
    ]
    for i, name in enumerate(names):
        (tmp_path / f"{i}.bin").write_bytes(corpus.content(entries[name]))
    # VmHWM starts at 0 in each program, unlike ru_maxrss, which a child inherits from its parent.
    code = (
        "import sys; from pathlib import Path; from reslink.imaging.reading import read_image\n"
        "from reslink.imaging.sandbox import pool\n"
        "for path in sys.argv[1:]:\n"
        "    try: read_image(path)\n"
        "    except Exception: pass\n"
        "for pid in ('self', str(pool._pool.idle[0].process.pid)):\n"
        "    print(Path('/proc', pid, 'status').read_text().split('VmHWM:')[1].split()[0])\n"
    )
    paths = [str(p) for p in sorted(tmp_path.iterdir())]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=600)
    reader, child = (int(kib) / 1024 for kib in done.stdout.split())
    assert reader + child < 1024, (reader, child)
