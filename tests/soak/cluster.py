"""Soak test of ``predict --on``: the output must be that of one process, whatever is killed meanwhile.

    make soak-cluster                                  2,000 files on two nodes of this machine
    make soak-cluster SOAK="--files 20000 --seed 1"

A worker is killed every few seconds, a node is killed and another added, the driver is killed and started again, and the object
store is full. At the end the table must have the bytes of a single process. The exit code is 1 if it has not, or if a file
is lost or repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from PIL import Image as Picture

sys.path.insert(0, str(Path(__file__).parents[1] / "cluster"))

from conftest import ENVIRONMENT, two_nodes
from reslink.cluster.connection import connect, parse_address

PREDICT = [sys.executable, "-m", "reslink", "predict"]
SHARD = 256
STORE_BYTES = 80 * 2**20
"""Memory for objects of a node; objects of twice that size are kept while files are predicted, so that Ray spills to disk."""


MOST_GIVEN_UP = 5
"""How often the driver may end because a task died more than four times."""


def write_heads(folder: Path, n: int, seed: int) -> None:
    """Writes gray pictures that look like heads; every 500th file is broken."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:128, :128]
    folder.mkdir()
    for i in range(n):
        r = np.hypot(y - 64, (x - 64) * rng.uniform(1.0, 1.3))
        gray = (r < 50) * (80 + rng.integers(0, 60, (128, 128))) + (abs(r - 52) < 3) * 250
        path = folder / f"{i:06d}.png"
        Picture.fromarray(np.clip(gray, 0, 255).astype(np.uint8)).save(path)
        if i % 500 == 499:
            path.write_bytes(b"\x89PNG no picture")


class Faults:
    """Kills workers, a node and the driver of a cluster while a block runs.

    Args:
        nodes: The cluster.
        pause: Seconds between two killed workers.
        seed: Seed of the choice.
    """

    def __init__(self, nodes: object, pause: float, seed: int) -> None:
        self.nodes, self.pause, self.rng = nodes, pause, random.Random(seed)
        self.killed_workers = self.removed_nodes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Faults:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def replace_node(self) -> None:
        """Kills the node that was added last, with its workers, and adds another."""
        node = self.nodes.worker_nodes.copy().pop()
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        workers = raylet.children(recursive=True)
        self.nodes.remove_node(node, allow_graceful=False)
        for worker in workers:
            kill(worker)
        self.nodes.add_node(num_cpus=1)
        self.removed_nodes += 1

    def _run(self) -> None:
        while not self._ended.wait(self.pause):
            running = [child for child in psutil.Process().children(recursive=True) if "_run_shard" in title(child)]
            if running and kill(self.rng.choice(running)):
                self.killed_workers += 1


def title(process: psutil.Process) -> str:
    """Returns the command line; Ray puts the name of the running task there."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill(process: psutil.Process) -> bool:
    """Kills a process; returns False if it had ended."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


@contextmanager
def full_store(address: str) -> Iterator[None]:
    """Keeps more objects than the store of a node has memory for."""
    import ray

    with connect(parse_address(address)):
        objects = [ray.put(np.full(2**20, i)) for i in range(2 * STORE_BYTES // 2**23)]
        yield
        del objects


def driver(folder: Path, address: str) -> subprocess.Popen[bytes]:
    """Starts the prediction of all files on the cluster."""
    on = ["--on", address, "--shard-size", str(SHARD), "--csv", "several.csv"]
    return subprocess.Popen([*PREDICT, "ct", "heads", *on], cwd=folder, stderr=subprocess.PIPE)


def n_parts(folder: Path) -> int:
    """Number of parts that are written."""
    return len(list((folder / ".several.csv.parts").glob("*.part")))


def soak(folder: Path, files: int, pause: float, seed: int) -> dict[str, object]:
    """Runs the soak test; returns its counts."""
    write_heads(folder / "heads", files, seed)
    began = time.monotonic()
    one = subprocess.run([*PREDICT, "ct", "heads", "--csv", "one.csv"], cwd=folder, capture_output=True, check=False)
    seconds_alone = time.monotonic() - began
    n_shards, kills, events, given_up = -(-files // SHARD), [0.25, 0.6], [], 0
    nodes = two_nodes(object_store_memory=STORE_BYTES)
    try:
        began = time.monotonic()
        with full_store(nodes.address), Faults(nodes, pause, seed) as faults:
            process = driver(folder, nodes.address)
            while process.poll() is None or (given_up < MOST_GIVEN_UP and not (folder / "several.csv").exists()):
                if process.poll() is not None:  # the shard of a worker that was killed too often: the same command resumes
                    given_up += 1
                    print(process.communicate()[1].decode()[-500:], file=sys.stderr)
                    process = driver(folder, nodes.address)
                time.sleep(0.2)
                share = n_parts(folder) / n_shards
                if kills and share >= kills[0]:
                    kills.pop(0)
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                    events.append(n_parts(folder))
                    process = driver(folder, nodes.address)
                if not faults.removed_nodes and share >= 0.4:
                    faults.replace_node()
            messages = process.communicate()[1].decode()
        seconds = time.monotonic() - began
    finally:
        nodes.shutdown()
    expected, paths, same = read_paths(folder / "one.csv"), Counter[str](), False
    if (folder / "several.csv").exists():
        paths = read_paths(folder / "several.csv")
        same = (folder / "one.csv").read_bytes() == (folder / "several.csv").read_bytes()
    return {
        "files": files,
        "shards": n_shards,
        "workers killed": faults.killed_workers,
        "nodes removed": faults.removed_nodes,
        "drivers killed": len(events),
        "parts kept at each kill": events,
        "given up and started again": given_up,
        "lost": (expected - paths).total(),
        "repeated": (paths - expected).total(),
        "same bytes as one process": same and process.returncode == one.returncode,
        "seconds of one process": round(seconds_alone, 1),
        "seconds on the cluster": round(seconds, 1),
        "messages": [] if same else messages.splitlines()[-5:],
    }


def read_paths(table: Path) -> Counter[str]:
    """Counts the files of a table."""
    with table.open(newline="", encoding="utf-8") as stream:
        return Counter(row["path"] for row in csv.DictReader(stream))


def main() -> int:
    """Runs the soak from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000, help="Number of files.")
    parser.add_argument("--pause", type=float, default=10, help="Seconds between two killed workers.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the files and of the killed workers.")
    options = parser.parse_args()
    os.environ |= ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="reslink-soak-") as folder:
        counts = soak(Path(folder), options.files, options.pause, options.seed)
    print(json.dumps(counts, indent=2))
    return 0 if counts["same bytes as one process"] and not counts["lost"] + counts["repeated"] else 1


if __name__ == "__main__":
    sys.exit(main())
