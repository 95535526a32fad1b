"""Shards on a real cluster: killed workers, nodes and drivers lose nothing and repeat only what was under way."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image as Picture
from typer.testing import CliRunner

from reslink.cluster import shards as module
from reslink.cluster.connection import connect, parse_address
from reslink.cluster.shards import Shard, file_states, run_shards
from reslink.errors import InputError, UsageError
from reslink.remote_paths import RemotePath
from reslink.training.monitoring.progress import SilentProgress

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "inference"))
import work
from test_series_answers import head, write_series

pytestmark = pytest.mark.slow

DRIVER = """
import json, sys
from pathlib import Path
import work
from reslink.cluster.connection import connect, parse_address
from reslink.cluster.shards import Shard, run_shards
from reslink.training.monitoring.progress import SilentProgress
address, folder, shards = sys.argv[1], Path(sys.argv[2]), [Shard(*fields) for fields in json.loads(sys.argv[3])]
with connect(parse_address(address)):
    run_shards(shards, work.plain, folder, SilentProgress(), "Test")
"""


class Recorded(SilentProgress):
    """Remembers what a run reports."""

    def __init__(self) -> None:
        self.total = self.steps = 0
        self.values: dict[str, float] = {}
        self.texts: list[str] = []

    def start(self, total_steps: int, label: str, noun: str = "step") -> None:
        assert (label, noun) == ("Test", "file")
        self.total = total_steps

    def step(self, n: int = 1, **values: float) -> None:
        self.steps, self.values = self.steps + n, values

    def message(self, text: str) -> None:
        self.texts.append(text)


def make(log: Path, n: int, **more: object) -> list[Shard]:
    log.mkdir()
    return [Shard(f"{i:064x}", 10, f"{i}.png", {"index": i, "log": str(log), **more}) for i in range(n)]


def parts(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob("*.part"))]


def n_calls(log: Path, n: int) -> list[int]:
    return [len(work.calls(log, i)) for i in range(n)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    return tmp_path / "parts"


def test_a_killed_worker_repeats_its_shard_only(connected: Any, folder: Path, tmp_path: Path) -> None:
    shards, progress = make(tmp_path / "log", 6), Recorded()
    run_shards([*shards, shards[0]], work.dies_once, folder, progress, "Test")
    assert parts(folder) == [f"{i}\n" for i in range(6)]
    assert n_calls(tmp_path / "log", 6) == [1, 1, 2, 1, 1, 1]
    assert (progress.total, progress.steps, progress.values["failed"]) == (60, 60, 3)
    run_shards(shards, work.dies, folder, progress, "Test")
    assert progress.texts[-1] == "6 of 6 parts are there already"
    assert progress.total == 0


def test_the_shards_of_a_removed_node_run_elsewhere(connected: Any, folder: Path, tmp_path: Path) -> None:
    shards, log = make(tmp_path / "log", 6, free=0), tmp_path / "log"
    (log / "hold").touch()
    node = connected.add_node(num_cpus=1)
    raylet = node.all_processes["raylet"][0].process.pid

    def remove() -> None:
        work.wait_for(lambda: list(log.glob(f"*.{raylet}.*")))
        connected.remove_node(node, allow_graceful=False)
        for path in log.glob(f"*.{raylet}.*"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.suffix[1:]), signal.SIGKILL)
        (log / "hold").unlink()

    thread = threading.Thread(target=remove)
    thread.start()
    run_shards(shards, work.plain, folder, SilentProgress(), "Test")
    thread.join()
    assert parts(folder) == [f"{i}\n" for i in range(6)]
    lost = [path.name.split(".")[0] for path in log.glob(f"*.{raylet}.*")]
    assert sorted(n_calls(log, 6)) == [1] * 5 + [2], f"shard {lost} was under way"


def test_a_killed_driver_is_resumed(cluster: Any, folder: Path, tmp_path: Path) -> None:
    shards, log = make(tmp_path / "log", 8, free=3), tmp_path / "log"
    (log / "hold").touch()
    fields = json.dumps([[shard.digest, shard.n_files, shard.first, shard.content] for shard in shards])
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, cluster.address, str(folder), fields])
    try:
        work.wait_for(lambda: len(parts(folder)) == 3 and sum(n_calls(log, 8)) == 5)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    (log / "hold").unlink()
    with connect(parse_address(cluster.address)):
        run_shards(shards, work.plain, folder, SilentProgress(), "Test")
    assert parts(folder) == [f"{i}\n" for i in range(8)]
    counts = n_calls(log, 8)
    assert counts[:3] == [1, 1, 1], "finished parts are not computed again"
    assert counts[5:] == [1, 1, 1]
    assert set(counts[3:5]) <= {1, 2}


def test_a_part_without_files_of_a_failing_storage_is_computed_again(connected: Any, folder: Path, tmp_path: Path) -> None:
    shards, log = make(tmp_path / "log", 3), tmp_path / "log"
    run_shards(shards, work.needs_storage, folder, SilentProgress(), "Test")
    assert parts(folder) == ["0 False\n", "1 True\n", "2 True\n"]
    assert [shard.is_done(folder) for shard in shards] == [False, True, True]
    (log / "up").touch()
    progress = Recorded()
    for _ in range(2):
        run_shards(shards, work.needs_storage, folder, progress, "Test")
    assert progress.texts == ["2 of 3 parts are there already", "3 of 3 parts are there already"]
    assert parts(folder) == ["0 True\n", "1 True\n", "2 True\n"]
    assert n_calls(log, 3) == [2, 1, 1]


def test_errors_of_the_work_reach_the_driver(connected: Any, folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    shards = make(tmp_path / "log", 1)
    with pytest.raises(UsageError, match=r"^Shard 0 is refused\. Allowed is nothing\. Do nothing\.$"):
        run_shards(shards, work.refuses, folder, SilentProgress(), "Test")
    with pytest.raises(KeyError, match="a bug"):
        run_shards(shards, work.fails, folder, SilentProgress(), "Test")
    monkeypatch.setattr(module, "RETRIES", 0)
    with pytest.raises(InputError, match=r"The 10 files from 0\.png on were given up \(WorkerCrashedError\)"):
        run_shards(shards, work.dies, folder, SilentProgress(), "Test")
    assert parts(folder) == []


@pytest.fixture
def scans(ring_heads: Path, tmp_path: Path) -> Path:
    """Pictures, a volume and a series, with files that are hostile or cannot be read."""
    root = tmp_path / "scans"
    root.mkdir()
    for i in range(30):
        shutil.copy(ring_heads / f"{30 + i}.png", root / f"{i}.png")
    Picture.new("L", (20_000, 20_000)).save(root / "5.png")
    (root / "6.png").write_bytes(b"\x89PNG no picture")
    np.save(root / "volume.npy", np.stack([head(40), head(60), head(20)]).clip(0, 255).astype(np.uint8))
    write_series(root / "series")
    return root


def test_predict_writes_what_one_process_writes(cluster, built_zoo, scans, tmp_path, monkeypatch) -> None:
    from reslink.cli.main import app

    monkeypatch.chdir(tmp_path)
    words = ["predict", str(built_zoo / "ct"), "scans", "nowhere.png", "--batch-size", "2"]
    on = ["--on", cluster.address, "--shard-size", "4"]
    one, several = (
        CliRunner().invoke(app, [*words, "--csv", f"{name}.csv", *more]) for name, more in (("one", ()), ("several", on))
    )
    assert (one.exit_code, several.exit_code) == (1, 1), several.stderr
    assert Path("several.csv").read_bytes() == Path("one.csv").read_bytes()
    assert "5.png" in Path("one.csv").read_text()
    notes = [text for text in several.stderr.replace("several.csv", "one.csv").splitlines() if "Predict:" not in text]
    assert notes == one.stderr.splitlines()
    assert "Predict: 36 files" in several.stderr
    for name, more in (("one", ()), ("several", on)):
        assert CliRunner().invoke(app, [*words, "--csv", f"{name}.parquet", *more]).exit_code == 1
    assert Path("several.parquet").read_bytes() == Path("one.parquet").read_bytes()
    with Path("one.csv").open(newline="") as stream:
        rows = [(row["path"], row["error"], row["series_slices"], row["p_Tumor"]) for row in csv.DictReader(stream)]
    table = pq.read_table("one.parquet").select(["path", "error", "series_slices", "p_Tumor"])
    assert [tuple("" if cell is None else str(cell) for cell in row.values()) for row in table.to_pylist()] == rows
    one, several = (CliRunner().invoke(app, [*words, "--json", "--quiet", *more]) for more in ((), on))
    assert (several.exit_code, several.stdout) == (1, one.stdout)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "scans") == [
        *("one.csv", "one.parquet", "several.csv", "several.parquet")
    ]


def test_the_storage_is_not_asked_about_files_that_it_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("reslink.cluster.shards.version_state", lambda path: path.version or asked.append(str(path)) or "asked")
    monkeypatch.setattr("reslink.cluster.shards.ThreadPoolExecutor", lambda _: pytest.fail("no thread is needed"))
    assert file_states([RemotePath("s3://heads/a.png", "v")]) == [["s3://heads/a.png", "v"]]
    assert file_states([Path("/none")]) == [["/none"]]
    monkeypatch.undo()
    monkeypatch.setattr("reslink.cluster.shards.version_state", lambda path: path.version or "asked")
    files = [RemotePath("s3://heads/a.png", "v"), RemotePath("s3://heads/b.png")]
    assert file_states(files) == [["s3://heads/a.png", "v"], ["s3://heads/b.png", "asked"]]
