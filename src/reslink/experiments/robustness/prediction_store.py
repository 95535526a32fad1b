"""Answers kept case by case as a study goes, so that an interrupted one goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.errors import StorageError, UsageError
from reslink.files import sha256, write_atomic

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """What a classifier gave for one case under several conditions.

    Attributes:
        logits: (conditions, K).
        abstained: (conditions,) whether it would rather not answer; None where its bundle has nothing to abstain by.
    """

    logits: Floats
    abstained: NDArray[np.bool_] | None


_FILE = "answers.jsonl"


class KeptAnswers:
    """``answers.jsonl`` in the folder of a study: a line of settings, then a line for each case.

    A line that was cut off by a kill is left out and computed again.

    Args:
        folder: The folder of the study.
        settings: What the answers depend on; other settings in the file are refused.
        overwrite: Whether answers made with other settings may be replaced.

    Raises:
        UsageError: If the folder holds answers made with other settings and may not be overwritten.
        StorageError: If the file cannot be written, also later.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self._path = folder / _FILE
        self._first = json.dumps({"settings": sha256(json.dumps(settings, sort_keys=True))})
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []
        if lines and lines[0] != self._first:
            if not overwrite:
                raise UsageError(
                    f"{folder} holds a study made with another bundle or other settings",
                    "A study goes on in its folder with the same bundle and settings",
                    "Choose another --out, or add --overwrite",
                )
            lines = []
        self._known = dict(found for found in map(_entry, lines[1:]) if found)
        kept = [_line(key, answer) for key, answer in self._known.items()]
        write_atomic(self._path, "\n".join([self._first, *kept]) + "\n")
        self._stream: TextIO | None = None

    def __enter__(self) -> KeptAnswers:
        with _Guard(self._path):
            self._stream = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._stream is not None:
            self._stream.close()

    def get(self, key: str) -> Answer | None:
        """Returns the answers to a case, or None where they are not there yet."""
        return self._known.get(key)

    def put(self, key: str, answer: Answer) -> None:
        """Keeps the answers to a case."""
        if self._stream is None:
            raise StorageError("The answers are closed", "They are written inside a with block", "Open them first")
        with _Guard(self._path):
            self._stream.write(_line(key, answer) + "\n")
            self._stream.flush()


def _line(key: str, answer: Answer) -> str:
    abstained = None if answer.abstained is None else answer.abstained.tolist()
    return json.dumps({"key": key, "logits": answer.logits.tolist(), "abstained": abstained}, allow_nan=False)


def _entry(line: str) -> tuple[str, Answer] | None:
    try:
        entry = json.loads(line)
        logits, abstained = np.array(entry["logits"], np.float64), entry["abstained"]
        answer = Answer(logits, None if abstained is None else np.array(abstained, np.bool_))
        return (entry["key"], answer) if logits.ndim == 2 and np.isfinite(logits).all() else None
    except (ValueError, KeyError, TypeError):
        return None


class _Guard:
    """Makes an error of the file system one that says what to do."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, OSError):
            raise StorageError(
                f"{self._path} could not be written: {error.strerror or error}",
                "A study needs a folder that it may write to, with free space",
                "Free some space, then run the same command again; it goes on from here",
            ) from error
