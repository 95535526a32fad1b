"""The files of a run folder: locking, writing, and truncating the metrics to a checkpoint."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reslink.bundles import zoo
from reslink.datasets.manifest import Manifest
from reslink.errors import UsageError, write_failed
from reslink.files import csv_text, lock_folder, storage_errors, write_atomic, write_json
from reslink.labels import UNKNOWN
from reslink.settings_text import read_json

if TYPE_CHECKING:
    import torch

Row = dict[str, Any]

CONFIG, ENVIRONMENT, SPLITS, INIT = "config.yaml", "environment.json", "splits.csv", "init.json"
METRICS, RESULTS, CHECKPOINTS, BUNDLE, TRACKING = "metrics.jsonl", "results.csv", "checkpoints", "bundle", "tracking"
FINISHED = f"{CHECKPOINTS}/finished.json"
CONDITIONS = "conditions.json"
"""The conditions of an experiment that a run belongs to, such as ``fold 2``; only in the runs of experiments."""
TRIAL_LOCKS = "locks"
"""Folder beside the runs of an experiment, with a lock for each of them."""
LOSS_NOT_FINITE = "loss-not-finite"
"""The finding of a run that stopped because its loss or a gradient was not a number."""

_EVALUATION_FILES = ("predictions.csv", "predictions.parquet", "evaluation.json", "figures", "report.html")
STATE_COLUMN = "true_"
"""Start of the columns of ``splits.csv`` with the state of each of several labels at once."""
_RUN_FILES = (CONFIG, ENVIRONMENT, SPLITS, INIT, METRICS, RESULTS, CHECKPOINTS, BUNDLE, TRACKING, *_EVALUATION_FILES)
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
        path: The folder; created when it is locked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self, *, resume: bool, overwrite: bool) -> Iterator[None]:
        """Locks the folder for this process.

        Raises:
            UsageError: If it is in use, belongs to a shipped bundle, or holds a run without ``resume`` or ``overwrite``.
        """
        zoo.check_not_shipped(self.path)
        if resume and overwrite:
            raise UsageError(
                "--resume and --overwrite were both given",
                "--resume continues the run in the folder, --overwrite removes it",
                "Choose one of them",
            )
        with self._locked():
            self._restore_bundle()
            if overwrite:
                self._clear()
            elif not resume and self._holds_a_run():
                kind = "a finished run" if self.finished() else "an unfinished run"
                raise UsageError(
                    f"{self.path} holds {kind}",
                    "A new run needs a folder without one",
                    "Choose another folder, or add --resume to continue it or --overwrite to replace it",
                )
            self._remove_partial_files()
            yield

    def _restore_bundle(self) -> None:
        """Moves the bundle back that a process was replacing when it was killed; see :func:`replace_folder`."""
        for old in self.path.glob(f".{BUNDLE}.*.old"):
            if not (self.path / BUNDLE).exists():
                old.rename(self.path / BUNDLE)

    def _remove_partial_files(self) -> None:
        """Removes partial files and bundles of a killed process."""
        for path in [*self.path.glob(".*.part"), *self.path.glob(".bundle.*.old")]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            lock = lock_folder(self.path)
            lock.__enter__()
        except OSError as error:
            raise write_failed(self.path, error) from error
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def _holds_a_run(self) -> bool:
        return any((self.path / name).exists() for name in _RUN_FILES)

    def _clear(self) -> None:
        """Removes the files of a run, and nothing else."""
        for name in _RUN_FILES:
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def finished(self) -> Row | None:
        """Returns the summary of a finished run, None for an unfinished one."""
        path = self.path / FINISHED
        if not path.exists():
            return None
        summary: Row = read_json(path)
        return summary

    def finish(self, summary: Row) -> None:
        """Writes the summary that marks the run as finished."""
        write_json(self.path / FINISHED, summary)

    def reopen(self) -> None:
        """Removes the mark of a finished run."""
        (self.path / FINISHED).unlink(missing_ok=True)

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a line to ``metrics.jsonl``.

        Raises:
            StorageError: If the line cannot be written.
        """
        line = json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n"
        with (
            storage_errors(self.path / METRICS, "Free some space and run the same command with --resume"),
            (self.path / METRICS).open("a", encoding="utf-8") as stream,
        ):
            stream.write(line)

    def metrics_size(self) -> int:
        """Flushes ``metrics.jsonl`` to disk and returns its size in bytes."""
        path = self.path / METRICS
        if not path.exists():
            return 0
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        return path.stat().st_size

    def truncate_metrics(self, size: int) -> bool:
        """Truncates ``metrics.jsonl`` to its size at a checkpoint; returns whether it was at least that long."""
        path = self.path / METRICS
        if not path.exists():
            path.touch()
        with path.open("r+b") as stream:
            current = stream.seek(0, os.SEEK_END)
            stream.truncate(min(size, current))
        return current >= size

    def read_results(self) -> list[Row]:
        """Returns the rows of ``results.csv``, one per epoch, with their values as numbers."""
        with (self.path / RESULTS).open(newline="", encoding="utf-8") as stream:
            rows = [{key: float(text) for key, text in row.items() if text} for row in csv.DictReader(stream)]
        return [row | {"epoch": int(row["epoch"])} for row in rows]

    def write_results(self, rows: Sequence[Row]) -> None:
        """Writes ``results.csv``, one line per epoch."""
        write_atomic(self.path / RESULTS, _csv(rows))

    def write_splits(self, manifest: Manifest, splits: Sequence[str], groups: Sequence[str], hashes: Mapping[str, str]) -> None:
        """Writes ``splits.csv``: split, group and file hash of each image, its source and the states of its labels."""
        with_source = any(case.source for case in manifest.cases)
        rows = [
            {
                "sample_id": case.name,
                "patient_id": case.patient_id or "",
                **({"source": case.source or ""} if with_source else {}),
                "label": case.label,
                "split": split,
                "group": group,
                "sha256": hashes[case.name],
                **{
                    f"{STATE_COLUMN}{name}": "" if state == UNKNOWN else str(state)
                    for name, state in zip(manifest.labels.names if case.states else (), case.states, strict=True)
                },
            }
            for case, split, group in zip(manifest.cases, splits, groups, strict=True)
        ]
        write_atomic(self.path / SPLITS, _csv(rows))


def _csv(rows: Sequence[Row]) -> str:
    return csv_text(list(rows[0]), rows) if rows else ""


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that affect the result."""
    return {"python": platform.python_version(), **_package_versions()}


@cache  # reading the metadata of an installed package takes milliseconds
def _package_versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def environment(device: torch.device, precision: str, processes: int) -> Row:
    """Returns software, device, precision and processes of a run; no name of host, user or folder."""
    import torch  # here, so that the files of a run are read without it

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
