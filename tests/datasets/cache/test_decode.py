"""Decoding in worker processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from head_files import SMALL, open_cache

from reslink.datasets.cache.decode import DecodeJob, WorkerPool, decode_all

JOBS = [SimpleNamespace(name="bomb.png")]


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

    def test_are_used_again(self) -> None:
        """Each shard of a cache maps its own jobs."""
        with WorkerPool(1) as pool:
            first, second = [[*pool.map(worker_pid, JOBS)] for _ in range(2)]
        assert first == second != [os.getpid()]

    def test_are_replaced_after_a_crash(self) -> None:
        with WorkerPool(1) as pool:
            crashed = [*pool.map(exit_process, JOBS)]
            assert [*pool.map(worker_pid, JOBS)] != [os.getpid()]
        assert "bomb.png crashes the process" in crashed[0]


def worker_pid(_: object) -> int:
    return os.getpid()


def exit_process(_: object) -> str:
    os._exit(9)
