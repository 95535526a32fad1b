"""The files of a run: who may write them, what a later run finds there, how a record is taken back to a checkpoint."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from reslink.bundles import zoo
from reslink.datasets.manifest import Manifest
from reslink.errors import StorageError, UsageError
from reslink.files import lock_folder, write_atomic, write_json

Row = dict[str, Any]

CONFIG, ENVIRONMENT, SPLITS = "config.yaml", "environment.json", "splits.csv"
METRICS, RESULTS, CHECKPOINTS, BUNDLE = "metrics.jsonl", "results.csv", "checkpoints", "bundle"
FINISHED = f"{CHECKPOINTS}/finished.json"
_LATER = ("predictions.csv", "evaluation.json", "figures", "report.html")
_OURS = (CONFIG, ENVIRONMENT, SPLITS, METRICS, RESULTS, CHECKPOINTS, BUNDLE, *_LATER)
_PACKAGES = (
    "reslink",
    "torch",
    "numpy",
    "accelerate",
    "opencv-python-headless",
    "pillow",
    "pydicom",
    "safetensors",
    "scikit-learn",
    "scipy",
)


class RunFolder:
    """The folder of one run.

    Args:
        path: Where it is or will be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def claimed(self, *, resume: bool, overwrite: bool) -> Iterator[None]:
        """Holds the folder for this process.

        Raises:
            UsageError: If it is in use, lies in a shipped bundle, or holds a run and neither ``resume`` nor ``overwrite`` is
                asked for.
        """
        zoo.refuse_shipped(self.path)
        if resume and overwrite:
            raise UsageError(
                "--resume and --overwrite were both given",
                "--resume goes on with the run that stands there, --overwrite removes it",
                "Choose one of them",
            )
        with self._locked():
            if overwrite:
                self._clear()
            elif not resume and self._holds_a_run():
                done = "a finished run" if self.finished() else "a run that has not ended"
                raise UsageError(
                    f"{self.path} holds {done}",
                    "A new run needs a folder without one",
                    "Choose another folder, or add --resume to go on with it or --overwrite to replace it",
                )
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Removes what a killed process left of files and of the bundle it was writing."""
        for left in [*self.path.glob(".*.part"), *self.path.glob(".bundle.*.old")]:
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            lock = lock_folder(self.path)
            lock.__enter__()
        except OSError as error:
            raise StorageError(
                f"The folder {self.path} cannot be made: {error.strerror}",
                "--out names a folder that reslink may write to",
                "Choose another folder",
            ) from error
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def _holds_a_run(self) -> bool:
        return any((self.path / name).exists() for name in _OURS)

    def _clear(self) -> None:
        """Removes what a run writes, and nothing else."""
        for name in _OURS:
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def finished(self) -> Row | None:
        """Returns what was noted at the end of the run, None while it has not ended."""
        path = self.path / FINISHED
        if not path.exists():
            return None
        found: Row = json.loads(path.read_text())
        return found

    def finish(self, summary: Row) -> None:
        """Notes that the run has ended."""
        write_json(self.path / FINISHED, summary)

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a line to ``metrics.jsonl``.

        Raises:
            StorageError: If there is no space.
        """
        line = json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n"
        try:
            with (self.path / METRICS).open("a", encoding="utf-8") as stream:
                stream.write(line)
        except OSError as error:
            raise StorageError(
                f"{self.path / METRICS} cannot be written: {error.strerror}",
                "A run needs free space",
                "Free some space and run the same command with --resume",
            ) from error

    def metrics_size(self) -> int:
        """Returns the size of ``metrics.jsonl`` in bytes, once all of it is on the disk."""
        path = self.path / METRICS
        if not path.exists():
            return 0
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        return path.stat().st_size

    def take_back_metrics(self, size: int) -> bool:
        """Cuts ``metrics.jsonl`` to what it was at a checkpoint; returns whether that much was there."""
        path = self.path / METRICS
        if not path.exists():
            path.touch()
        with path.open("r+b") as stream:
            found = stream.seek(0, os.SEEK_END)
            stream.truncate(min(size, found))
        return found >= size

    def write_results(self, rows: Sequence[Row]) -> None:
        """Writes ``results.csv``, one line an epoch."""
        write_atomic(self.path / RESULTS, _csv(rows))

    def write_splits(self, manifest: Manifest, parts: Sequence[str], groups: Sequence[str], hashes: Mapping[str, str]) -> None:
        """Writes ``splits.csv``: which image is in which part, and why it could not be in another."""
        rows = [
            {
                "sample_id": case.name,
                "patient_id": case.patient_id or "",
                "label": case.label,
                "split": part,
                "group": group,
                "sha256": hashes[case.name],
            }
            for case, part, group in zip(manifest.cases, parts, groups, strict=True)
        ]
        write_atomic(self.path / SPLITS, _csv(rows))


def _csv(rows: Sequence[Row]) -> str:
    stream = io.StringIO()
    if rows:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return stream.getvalue()


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that decide a result."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def environment(device: torch.device, precision: str, processes: int) -> Row:
    """Returns what a run was computed with; no name of host, user or folder."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "versions": versions(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "gpu": gpu,
        "precision": precision,
        "processes": processes,
    }
