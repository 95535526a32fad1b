"""Checkpoints: whole generations of a run's state, each checked by its hashes before it is used; no pickle.

A generation is a folder ``000003-step-120`` with safetensors files, ``state.json`` and ``SHA256SUMS``. It is written
under another name, synced and renamed, so that a process killed at any moment leaves the former generation or the new
one, never a half. The last two are kept: when a disk has damaged the newest, the run goes on from the one before.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from reslink.errors import StorageError, TrainingError
from reslink.files import sha256, sync_folder, write_atomic, write_json
from reslink.training.monitoring.progress import Progress

KEPT = 2
_SUMS = "SHA256SUMS"
_STATE = "state.json"
_PART = ".part-"

Tensors = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on as if it had never stopped.

    Attributes:
        step: Optimizer steps done.
        state: Plain values: where the run stands, its records so far.
        tensors: Groups of tensors by name: network, optimizer, best, average.
    """

    step: int
    state: dict[str, Any]
    tensors: Tensors


class Checkpoints:
    """The generations in a folder.

    Args:
        folder: Where they lie; made when the first one is written.
        progress: Hears about a damaged generation.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder = folder
        self.progress = progress

    def save(self, checkpoint: Checkpoint) -> Path:
        """Writes a generation and removes all but the last two.

        Raises:
            StorageError: If it cannot be written; the generations before it still stand.
        """
        final = self.folder / f"{self._next_number():06d}-step-{checkpoint.step}"
        part = self.folder / f"{_PART}{final.name}"
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            _write(part, checkpoint)
            part.replace(final)
            sync_folder(self.folder)
        except OSError as error:
            raise _cannot_save(final, error.strerror or str(error)) from error
        except StorageError as error:
            raise _cannot_save(final, str(getattr(error.__cause__, "strerror", None) or error.given)) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self._tidy()
        return final

    def load(self) -> Checkpoint | None:
        """Returns the newest generation that is whole, None where there is none.

        Raises:
            TrainingError: If there are generations but each is damaged.
        """
        self._remove_parts()
        found = self._generations()
        for folder in reversed(found):
            try:
                return _read(folder)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                self.progress.message(f"The checkpoint {folder.name} is damaged ({error}); trying the one before.")
        if found:
            raise TrainingError(
                f"Every checkpoint in {self.folder} is damaged",
                "A run goes on from a checkpoint whose hashes fit",
                "Start the run anew with --overwrite",
            )
        return None

    def _generations(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*-step-*") if path.is_dir() and path.name[0] != ".")

    def _next_number(self) -> int:
        found = self._generations()
        return int(found[-1].name.split("-")[0]) + 1 if found else 1

    def _tidy(self) -> None:
        for old in self._generations()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def _remove_parts(self) -> None:
        for part in self.folder.glob(f"{_PART}*"):
            shutil.rmtree(part, ignore_errors=True)


def _write(part: Path, checkpoint: Checkpoint) -> None:
    for group, tensors in checkpoint.tensors.items():
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_atomic(part / f"{group}.safetensors", save_tensors(plain))
    write_json(part / _STATE, {"step": checkpoint.step, **checkpoint.state})
    sums = [f"{sha256(path)}  {path.name}\n" for path in sorted(part.iterdir())]
    write_atomic(part / _SUMS, "".join(sums))


def _read(folder: Path) -> Checkpoint:
    lines = [line.split("  ", 1) for line in (folder / _SUMS).read_text().splitlines()]
    sums = {name: expected for expected, name in lines}
    if _STATE not in sums:
        raise ValueError(f"{_SUMS} does not name {_STATE}")
    content = {name: (folder / name).read_bytes() for name in sums}
    for name, expected in sums.items():
        if sha256(content[name]) != expected:
            raise ValueError(f"{name} does not have the hash in {_SUMS}")
    state = json.loads(content.pop(_STATE))
    tensors = {name.removesuffix(".safetensors"): load_tensors(data) for name, data in content.items()}
    return Checkpoint(state.pop("step"), state, tensors)


def _cannot_save(path: Path, reason: str) -> StorageError:
    return StorageError(
        f"The checkpoint {path} could not be written: {reason}",
        "A run needs free space for three checkpoints; the last one that was written is intact",
        "Free some space and run the same command with --resume",
    )
