"""Checkpoints of a run: written atomically, verified by their hashes when read; no pickle.

A checkpoint is a folder ``000003-step-120`` with safetensors files, ``state.json`` and ``SHA256SUMS``. It is written under
another name, synced and renamed, so a process that is killed at any moment leaves no partial checkpoint. The last two are
kept: if the newest is damaged, the run resumes from the one before.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from reslink.errors import StorageError, TrainingError, write_failed
from reslink.files import fsync_folder, sha256, write_atomic, write_json
from reslink.settings_text import parse_json
from reslink.training.monitoring.progress import Progress

KEPT_CHECKPOINTS = 2
_SUMS = "SHA256SUMS"
_STATE = "state.json"
_PART = ".part-"

Tensors = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to resume with the same result.

    Attributes:
        step: Optimizer steps done.
        state: Plain values: progress, records and diagnostics of the run.
        tensors: Tensors by name in the groups network, optimizer, best and average.
    """

    step: int
    state: dict[str, Any]
    tensors: Tensors


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: The folder; created with the first checkpoint.
        progress: Receives a message about each damaged checkpoint.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder = folder
        self.progress = progress

    def save(self, checkpoint: Checkpoint) -> Path:
        """Writes a checkpoint and removes all but the last two.

        Raises:
            StorageError: If it cannot be written; the earlier checkpoints are kept.
        """
        final = self.folder / f"{self._next_number():06d}-step-{checkpoint.step}"
        part = self.folder / f"{_PART}{final.name}"
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            _write(part, checkpoint)
            part.replace(final)
            fsync_folder(self.folder)
        except OSError as error:
            raise _cannot_save(final, error.strerror or str(error)) from error
        except StorageError as error:
            raise _cannot_save(final, str(getattr(error.__cause__, "strerror", None) or error.given)) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self._remove_old()
        return final

    def load(self) -> Checkpoint | None:
        """Returns the newest intact checkpoint, None if there is none.

        Raises:
            TrainingError: If there are checkpoints but all are damaged.
        """
        self._remove_partial()
        folders = self._folders()
        for folder in reversed(folders):
            try:
                return _read(folder)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                self.progress.message(f"The checkpoint {folder.name} is damaged ({error}); trying the one before.")
        if folders:
            raise TrainingError(
                f"Every checkpoint in {self.folder} is damaged",
                "A run is resumed from a checkpoint with matching hashes",
                "Start again with --overwrite",
            )
        return None

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*-step-*") if path.is_dir() and path.name[0] != ".")

    def _next_number(self) -> int:
        folders = self._folders()
        return int(folders[-1].name.split("-")[0]) + 1 if folders else 1

    def _remove_old(self) -> None:
        for old in self._folders()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old, ignore_errors=True)

    def _remove_partial(self) -> None:
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
    state = parse_json(content.pop(_STATE))
    tensors = {name.removesuffix(".safetensors"): load_tensors(data) for name, data in content.items()}
    return Checkpoint(state.pop("step"), state, tensors)


def _cannot_save(path: Path, reason: str) -> StorageError:
    return write_failed(
        f"The checkpoint {path}",
        reason,
        "The previous checkpoint is intact. Free some space and run the same command with --resume",
    )
