"""Measures ``predict`` or ``audit --on ray`` of images in an S3 server on this machine, by their number.

Run: reslink phantom --out HEADS --patients 8334 --seed 1 --set size=128    (once for each 25,002 images, with other seeds)
     python benchmarks/cluster_storage.py predict 10000 100000 --images HEADS... --out FOLDER --refuse 0.1

The server is moto, in a process of its own, and refuses a share of the requests with 503, at random. The measurements are those
of ``reslink`` and the tasks of Ray: seconds, processor time, and the largest memory of the process that runs the command. Each
file must be in the output once. The results are CSV on stdout; needs the development group ``dev``.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

MIB = 2**20
ACCOUNT = "123456789012"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


def read_rows(folders: Sequence[Path], count: int) -> list[dict[str, str]]:
    """Returns the first rows of the manifests of some cohorts, with the path of each image and a patient of its cohort."""
    rows = []
    for number, folder in enumerate(folders):
        with (folder / "manifest.csv").open(newline="") as stream:
            for row in csv.DictReader(stream):
                patient, file = f"{number}-{row['patient_id']}", str(folder / row["path"])
                rows.append({"path": f"{number}/{row['path']}", "label": row["label"], "patient_id": patient, "file": file})
    if len(rows) < count:
        raise SystemExit(f"{len(rows)} images were given, and {count} are needed: give more folders of reslink phantom")
    return rows[:count]


def serve(rows: Sequence[dict[str, str]], refuse: float, pipe: Connection) -> None:
    """Runs in a process of its own: serves images, sends the endpoint, and at the end the number of requests."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from moto.s3.models import s3_backends

    storage_server = importlib.import_module("storage_server")
    backend, drawn = s3_backends[ACCOUNT]["aws"], random.Random(0)
    backend.create_bucket(storage_server.BUCKET, "us-east-1")
    for row in rows:
        backend.put_object(storage_server.BUCKET, row["path"], Path(row["file"]).read_bytes())
    with storage_server.running_storage() as storage:
        storage.refuse = lambda *_: drawn.random() < refuse
        pipe.send((storage.url, storage_server.BUCKET))
        pipe.recv()
        pipe.send(len(storage.requests))


@contextlib.contextmanager
def storage_of(rows: Sequence[dict[str, str]], refuse: float) -> Iterator[tuple[str, str, Connection]]:
    """Yields endpoint, bucket and pipe of a server with the images."""
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe()
    process = context.Process(target=serve, args=(rows, refuse, other), daemon=True)
    process.start()
    try:
        yield (*own.recv(), own)
    finally:
        process.terminate()
        process.join()


class Watch:
    """Watches a command and the processes of its cluster: processor time, and the memory of the command itself."""

    def __init__(self, command: psutil.Process) -> None:
        self.command, self.memory = command, 0
        self._seconds: dict[tuple[int, float], float] = {}

    def look(self) -> None:
        """Reads the counters; a process that ended keeps its last value."""
        with contextlib.suppress(psutil.Error):
            self.memory = max(self.memory, self.command.memory_info().rss)
            for process in [self.command, *self.command.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    used = process.cpu_times()
                    self._seconds[process.pid, process.create_time()] = used.user + used.system

    @property
    def seconds(self) -> float:
        """Processor time of all processes."""
        return sum(self._seconds.values())


def run(words: Sequence[str], environment: dict[str, str]) -> tuple[float, Watch]:
    """Runs a command to its end; returns the seconds and what was seen."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "reslink", *words, "--quiet"], env=environment, stdout=sys.stderr)
    watch = Watch(psutil.Process(process.pid))
    while process.poll() is None:
        watch.look()
        time.sleep(0.5)
    if process.returncode not in (0, 3):  # 3: a check of the audit failed
        raise SystemExit(f"reslink ended with the exit code {process.returncode}")
    return time.perf_counter() - began, watch


def predicted(out: Path) -> Counter[str]:
    """Returns how often each file is in a table of predictions."""
    with (out / "predictions.csv").open(newline="") as stream:
        return Counter(row["path"] for row in csv.DictReader(stream) if not row["error"])


def audited(out: Path) -> int:
    """Returns the number of images that an audit read."""
    result: dict[str, Any] = json.loads((out / "audit.json").read_text())
    return int(result["images"]) - len(result["files"]["corrupt"])


def measure(command: str, rows: Sequence[dict[str, str]], refuse: float, out: Path) -> dict[str, object]:
    """Returns the costs of one command for all rows."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with storage_of(rows, refuse) as (url, bucket, pipe):
        environment = {**os.environ, **CREDENTIALS, "AWS_ENDPOINT_URL": url, "OMP_NUM_THREADS": "1"}
        if command == "predict":
            words = ["predict", "ct", f"s3://{bucket}/", "--csv", str(out / "predictions.csv")]
        else:
            with (out / "table.csv").open("w", newline="") as stream:
                table = csv.DictWriter(stream, ("path", "label", "patient_id"), extrasaction="ignore")
                table.writeheader()
                table.writerows(row | {"path": f"s3://{bucket}/{row['path']}"} for row in rows)
            words = ["audit", str(out / "table.csv"), "--out", str(out / "audit")]
        seconds, watch = run([*words, "--on", "ray"], environment)
        pipe.send("count")
        requests = pipe.recv()
    if command == "predict":
        counts = predicted(out)
        lost, repeated = len({f"s3://{bucket}/{row['path']}" for row in rows} - set(counts)), counts.total() - len(counts)
    else:
        lost, repeated = len(rows) - audited(out / "audit"), 0
    return {
        "command": command,
        "images": len(rows),
        "refused": refuse,
        "requests": requests,
        "lost": lost,
        "repeated": repeated,
        "seconds": f"{seconds:.0f}",
        "processor ms/image": f"{1000 * watch.seconds / len(rows):.1f}",
        "MiB of the command": f"{watch.memory / MIB:.0f}",
    }


def main() -> None:
    """Measures each number of images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("predict", "audit"), help="What is run with --on ray.")
    parser.add_argument("count", type=int, nargs="+", help="Numbers of images.")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="Folders of reslink phantom.")
    parser.add_argument("--refuse", type=float, default=0.0, help="Share of requests that get 503.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the results.")
    options = parser.parse_args()
    table = None
    for count in options.count:
        row = measure(options.command, read_rows(options.images, count), options.refuse, options.out / f"{count}")
        if table is None:
            table = csv.DictWriter(sys.stdout, row)
            table.writeheader()
        table.writerow(row)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
