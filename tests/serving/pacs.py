"""Phantom series, a local Orthanc, and the DICOM node as a process that tests can kill."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pynetdicom import AE

from reslink.datasets.phantom import writers
from reslink.datasets.phantom.cohort import render_patient
from reslink.serving.dicom.identifiers import derive_uid

ROOT = Path(__file__).resolve().parents[2]
ORTHANC = shutil.which("Orthanc")
DCIODVFY = shutil.which("dciodvfy")
PLUGINS = {name: next(Path("/usr").glob(f"*/orthanc/plugins/libOrthanc{name}.so"), None) for name in ("DicomWeb", "Python")}
ROUTE = {"PythonScript": str(ROOT / "deploy" / "orthanc" / "route.py"), "Reslink": {"RetrySeconds": 1}}
CLASSES = {
    "1.2.840.10008.5.1.4.1.1.88.34": "report",
    "1.2.840.10008.5.1.4.1.1.7": "picture",
    "1.2.840.10008.5.1.4.1.1.30": "map",
}


@cache
def heads(sequence: str, tumor: bool, slices: int, size: int) -> tuple[Dataset, ...]:
    """Slices of one synthetic head, 4 mm apart, as read from files."""
    patient = render_patient(5, 1, tumor=tumor, sequence=sequence, slices=slices, size=size)
    datasets = []
    for number, plane in enumerate(patient.slices):
        info = writers.SliceInfo("P0001", number, 4.0 * number, 232 / size, 4.0, 50, 5)
        content = writers.write_dicom(plane.pixels, sequence == "CT", sequence, info)
        datasets.append(dcmread(io.BytesIO(content)))
    return tuple(datasets)


def series(
    number: int, *, sequence: str = "CT", tumor: bool = True, slices: int = 10, size: int = 128, **changes: Any
) -> list[Dataset]:
    """A series with its own patient and study; ``number`` is part of every UID."""
    made = []
    for i, head in enumerate(heads(sequence, tumor, slices, size)):
        one = Dataset()
        one.update(head)
        one.file_meta = FileMetaDataset(head.file_meta)
        one.PatientID, one.PatientName = f"SECRET{number:04d}", f"SECRET^NUMBER{number}"
        one.StudyInstanceUID, one.SeriesInstanceUID = derive_uid("study", number), derive_uid("series", number)
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = derive_uid("slice", number, i)
        one.FrameOfReferenceUID = derive_uid("frame", number)
        one.BodyPartExamined = "HEAD"
        for name, value in changes.items():
            setattr(one, name, value(one) if callable(value) else value)
        made.append(one)
    return made


def write(folder: Path, datasets: Sequence[Dataset]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, dataset in enumerate(datasets):
        dataset.save_as(folder / f"{i:03d}.dcm", enforce_file_format=True)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def open_port(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 30).close()
    except OSError:
        return False
    return True


def wait_for(ready: Callable[[], Any], seconds: float = 300.0, what: str = "it") -> Any:
    end, pause = time.monotonic() + seconds, 0.01
    while time.monotonic() < end:
        value = ready()
        if value:
            return value
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    raise AssertionError(f"{what} was not ready in {seconds} s")


class Orthanc:
    """An Orthanc with an empty store, stopped and deleted at the end of the block."""

    def __init__(self, folder: Path, node_port: int = 1, **settings: Any) -> None:
        self.folder, self.http, self.dicom = folder, free_port(), free_port()
        self.settings = {
            "Name": "test",
            "StorageDirectory": str(folder / "store"),
            "HttpPort": self.http,
            "DicomPort": self.dicom,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StableAge": 1,
            "DicomModalities": {"reslink": ["RESLINK", "127.0.0.1", node_port]},
            "Plugins": [str(path) for path in PLUGINS.values()],
            **settings,
        }

    def __enter__(self) -> Orthanc:
        self.folder.mkdir(parents=True)
        config = self.folder / "orthanc.json"
        config.write_text(json.dumps(self.settings))
        self.log = (self.folder / "orthanc.log").open("wb")
        self.process = subprocess.Popen([str(ORTHANC), str(config)], stdout=self.log, stderr=self.log)
        wait_for(self._up, what="Orthanc")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(120)
        self.log.close()

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self.http}/dicom-web"

    def _up(self) -> bool:
        assert self.process.poll() is None, (self.folder / "orthanc.log").read_text()
        try:
            return bool(self.ask("/system"))
        except (urllib.error.URLError, ConnectionError):
            return False

    def bytes(self, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", data=body)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return bytes(reply.read())

    def ask(self, path: str, body: bytes | None = None) -> Any:
        return json.loads(self.bytes(path, body))

    def add(self, datasets: Sequence[Dataset]) -> None:
        for dataset in datasets:
            stream = io.BytesIO()
            dataset.save_as(stream, enforce_file_format=True)
            self.ask("/instances", stream.getvalue())

    def count(self) -> int:
        """Number of all results."""
        query = {"Level": "Instance", "Query": {"Manufacturer": "reslink"}}
        return len(self.ask("/tools/find", json.dumps(query).encode()))

    def results(self) -> list[Dataset]:
        """Headers of all results."""
        headers = []
        for one in self.ask("/tools/find", json.dumps({"Level": "Series", "Query": {"Manufacturer": "reslink"}}).encode()):
            for instance in self.ask(f"/series/{one}")["Instances"]:
                headers.append(dcmread(io.BytesIO(self.bytes(f"/instances/{instance}/file")), stop_before_pixels=True))
        return headers

    def counts(self) -> Counter[tuple[str, str]]:
        """Number of results of each kind per study."""
        return Counter((str(one.StudyInstanceUID), CLASSES[one.SOPClassUID]) for one in self.results())


class Listener:
    """``reslink dicom listen`` in its own process."""

    def __init__(self, bundle: Path, queue: Path, send_to: str, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.log = queue.with_suffix(".log")
        self.words = [
            *(sys.executable, "-m", "reslink", "dicom", "listen", str(bundle), "--queue", str(queue), "--send-to", send_to),
            *("--port", str(self.port), "--settle", "0.5", "--quiet-time", "600", "--retry", "0.5", *options),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Listener:
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(self.words, stdout=stream, stderr=stream, env=os.environ | {"OMP_NUM_THREADS": "1"})
        return self

    def wait(self) -> Listener:
        wait_for(lambda: echo(self.port) or self.process is None or self.process.poll() is not None, what="the node")
        assert self.process is not None
        assert self.process.poll() is None, self.log_text()
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(300)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def __enter__(self) -> Listener:
        return self.start().wait()

    def __exit__(self, *_: object) -> None:
        self.kill()


def echo(port: int, calling: str = "TEST", called: str = "RESLINK", **options: Any) -> bool:
    if not open_port(port):  # pynetdicom would leave its socket open
        return False
    entity = AE(calling)
    entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = 30
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate("127.0.0.1", port, ae_title=called, **options)
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return bool(status) and status.Status == 0


def store(port: int, datasets: Sequence[Dataset], calling: str = "TEST", abort: bool = False, **options: Any) -> list[int]:
    """Sends data sets in one association, which is released or aborted; returns the status of each acknowledged one."""
    entity = AE(calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = 120
    for kind in sorted({str(one.SOPClassUID) for one in datasets}):
        entity.add_requested_context(kind, "1.2.840.10008.1.2.1")
    association = entity.associate("127.0.0.1", port, ae_title="RESLINK", **options)
    statuses: list[int] = []
    if not association.is_established:
        return statuses
    for one in datasets:
        try:
            status = association.send_c_store(one)
        except (RuntimeError, ValueError):
            break
        if not status:
            break
        statuses.append(int(status.Status))
    if association.is_established and abort:
        association.abort()
    elif association.is_established:
        association.release()
    return statuses


def errors_of(path: Path) -> list[str]:
    """Errors that dciodvfy reports for a file."""
    done = subprocess.run([str(DCIODVFY), "-new", str(path)], capture_output=True, text=True, errors="replace", check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
