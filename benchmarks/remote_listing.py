"""Measures what the list of a folder in S3 costs ``predict --on``: time and memory of the driver, by the number of files.

Run: OMP_NUM_THREADS=1 python benchmarks/remote_listing.py 100000 300000

The server is a process of its own that makes up its answers: pages of 1,000 keys, and the header of a DICOM slice. The command
lists the folder and cuts it into shards, without a cluster. Each number of files, of each kind of folder, is measured in a
process of its own: ``folders`` has 30 PNG files in each folder, ``flat`` has all in one folder, ``masks`` a mask beside every
image there, ``series`` DICOM files of series of 30 slices, and ``slices`` of one slice each. The results are CSV on stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import http.server
import io
import json
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom
from pydicom.dataset import FileMetaDataset

from reslink.api.predictions.shards import PredictionJob, cut_shards, stored_shards
from reslink.imaging.search import list_files

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
PAGE = 1000
SLICES = 30
KINDS: dict[str, Callable[[int], str]] = {
    "folders": lambda i: f"patient-{i // SLICES:07d}/series-1/{i:09d}.png",
    "flat": lambda i: f"{i:09d}.png",
    "masks": lambda i: f"{i // 2:09d}{'_mask' * (i % 2)}.png",
    "series": lambda i: f"{i:09d}.dcm",
    "slices": lambda i: f"{i:09d}.dcm",
}


@functools.cache
def template() -> bytes:
    """Returns a DICOM header with the series 1.2.3.100000000 and the position 000000.0."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    dataset.SeriesInstanceUID = "1.2.3.100000000"
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = ["0", "0", "000000.0"], [1, 0, 0, 0, 1, 0]
    dataset.Rows = dataset.Columns = 1
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def header(kind: str, i: int) -> bytes:
    """Returns the DICOM header of a file by its number."""
    series = i // SLICES if kind == "series" else i
    series_uid, position = f"1.2.3.1{series:08d}", f"{i % SLICES:06d}.0"
    return template().replace(b"1.2.3.100000000", series_uid.encode()).replace(b"000000.0", position.encode())


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers requests for ``/bucket/KIND/COUNT/…``."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        """No object has the name of a folder."""
        self._answer(404, b"")

    def do_GET(self) -> None:
        """Answers with a page of a list, or a header."""
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if "list-type" in query:
            self._answer(200, self._page(query))
            return
        kind, number = re.search(r"/(\w+)/\d+/(\d+)\.dcm$", url.path).groups()  # type: ignore[union-attr]
        self._answer(200, header(kind, int(number)))

    def _page(self, query: dict[str, str]) -> bytes:
        kind, count = query["prefix"].split("/")[:2]
        start = int(query.get("continuation-token", 0))
        end = min(int(count), start + int(query.get("max-keys", PAGE)))
        entries = "".join(
            f"<Contents><Key>{query['prefix']}{KINDS[kind](i)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f'<ETag>"{i:032x}"</ETag><Size>20000</Size><StorageClass>STANDARD</StorageClass></Contents>'
            for i in range(start, end)
        )
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{end}</NextContinuationToken>"
        rest = more if end < int(count) else "<IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult><KeyCount>{end - start}</KeyCount>{rest}{entries}</ListBucketResult>".encode()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def serve(pipe: Connection) -> None:
    """Runs in a process of its own."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    pipe.send(f"http://127.0.0.1:{server.server_port}")
    server.serve_forever()


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """Yields the endpoint of the server."""
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe()
    process = context.Process(target=serve, args=(other,), daemon=True)
    process.start()
    try:
        yield own.recv()
    finally:
        process.terminate()
        process.join()


def memory() -> float:
    """Returns the largest memory of this process until now, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def cut(kind: str, n_files: int) -> int:
    """Lists a folder and cuts it into shards; returns the number of files in them."""
    job = PredictionJob("ct", "0" * 64, "onnxruntime", series="auto")
    with stored_shards(job, cut_shards(job, list_files(f"s3://bucket/{kind}/{n_files}/"), 2000), None) as shards:  # type: ignore[arg-type]
        return sum(shard.n_files for shard in shards)


def measure(kind: str, n_files: int) -> dict[str, object]:
    """Returns the costs of one list."""
    cut(kind, 5000)
    before, began, used = memory(), time.perf_counter(), time.process_time()
    n_images = cut(kind, n_files)
    return {
        "folder": kind,
        "files": n_files,
        "images": n_images,
        "seconds": f"{time.perf_counter() - began:.1f}",
        "processor µs/file": f"{1e6 * (time.process_time() - used) / n_files:.0f}",
        "MiB before": f"{before:.0f}",
        "MiB at most": f"{memory():.0f}",
    }


def main() -> None:
    """Measures every kind and number of files in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=int, nargs="+", help="Numbers of files.")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="Kinds of folders.")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.kinds[0], options.files[0])))
        return
    table = None
    with running_server() as url:
        environment = {**os.environ, **CREDENTIALS, "AWS_ENDPOINT_URL": url}
        for kind in options.kinds:
            for n_files in options.files:
                words = [sys.executable, __file__, str(n_files), "--kinds", kind, "--one"]
                done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                row = json.loads(done.stdout.splitlines()[-1])
                if table is None:
                    table = csv.DictWriter(sys.stdout, row)
                    table.writeheader()
                table.writerow(row)
                sys.stdout.flush()


if __name__ == "__main__":
    main()
