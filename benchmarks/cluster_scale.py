"""Measures what a cluster job costs beside the work: the driver's time and memory by the number of files.

Run: OMP_NUM_THREADS=1 python benchmarks/cluster_scale.py 1000000 10000000 --out /fast/disk/scale

The files are only names, and the tasks do nothing, so what is left is the cost of ``predict --on ray``: cutting the list into
shards, giving tasks to Ray, finding finished parts after an interruption, and joining the parts. Every number of files is
measured in a process of its own. The results are CSV on stdout.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reslink.api.predictions.shards import PredictionJob, cut_shards, join_parts, stored_shards
from reslink.cluster.connection import connect, parse_address
from reslink.cluster.shards import Shard, run_shards
from reslink.cluster.stored import Stored
from reslink.imaging.search import ListedFiles
from reslink.inference.prediction_counts import PredictionCounts
from reslink.training.monitoring.progress import SilentProgress

JOB = PredictionJob("ct", "0" * 64, "onnxruntime", series="each")
FOLDER = "/archive"
PART = json.dumps({"counts": asdict(PredictionCounts()), "warnings": [], "bytes": [0, 0, 0]}).encode() + b"\n"


def listed(n_files: int) -> Iterator[ListedFiles]:
    """Yields the names of files that do not exist, a thousand in a folder."""
    for i in range(n_files):
        yield ListedFiles((Path(f"{FOLDER}/patient-{i // 1000:06d}/series-1/{i:09d}.dcm"),), FOLDER, FOLDER)


def no_work(_content: Any) -> tuple[bytes, int]:
    """Returns a part without predictions."""
    return PART, 0


def memory() -> float:
    """Returns the largest memory of this process until now, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def run_empty(shards: Stored[Shard], folder: Path) -> float:
    """Runs shards that do nothing; returns the seconds."""
    began = time.perf_counter()
    run_shards(shards, no_work, folder, SilentProgress(), "Nothing")
    return time.perf_counter() - began


def measure(n_files: int, shard_size: int, folder: Path) -> dict[str, object]:
    """Returns the costs of a job of ``n_files`` files on the cores of this machine."""
    folder.mkdir(parents=True)
    began = time.perf_counter()
    with connect(parse_address("ray")):
        start = time.perf_counter() - began
        run_empty(stored_shards(JOB, cut_shards(JOB, listed(2 * shard_size), shard_size), folder), folder)  # starts the workers
        before, began = memory(), time.perf_counter()
        with stored_shards(JOB, cut_shards(JOB, listed(n_files), shard_size, folder), folder) as shards:
            cut = time.perf_counter() - began
            run = run_empty(shards, folder)
            resume = run_empty(shards, folder)
            began = time.perf_counter()
            join_parts(shards, folder, lambda _: None)
            join = time.perf_counter() - began
            n_shards = len(shards)
    return {
        "files": n_files,
        "shards": n_shards,
        "start s": f"{start:.1f}",
        "list µs/file": f"{1e6 * cut / n_files:.1f}",
        "task ms/shard": f"{1e3 * run / n_shards:.1f}",
        "resume s": f"{resume:.1f}",
        "join ms/shard": f"{1e3 * join / n_shards:.2f}",
        "MiB before": f"{before:.0f}",
        "MiB at most": f"{memory():.0f}",
    }


def main() -> None:
    """Measures every number of files in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=int, nargs="+", help="Numbers of files.")
    parser.add_argument("--shard-size", type=int, default=2000, help="Number of files of a shard.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the parts; removed at the end.")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        try:
            print(json.dumps(measure(options.files[0], options.shard_size, options.out / "parts")))
        finally:
            shutil.rmtree(options.out)
        return
    table = None
    for n_files in options.files:
        words = [sys.executable, __file__, str(n_files), "--one", "--out", str(options.out / str(n_files))]
        done = subprocess.run([*words, "--shard-size", str(options.shard_size)], stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        if table is None:
            table = csv.DictWriter(sys.stdout, row)
            table.writeheader()
        table.writerow(row)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
