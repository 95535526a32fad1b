"""A file of predictions per case, so an interrupted experiment can resume."""

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
from reslink.settings_text import parse_json

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class CasePrediction:
    """The outputs of a classifier for one case in several versions.

    Attributes:
        logits: (versions, K).
        abstained: (versions,) whether the model abstains; None if its bundle has no abstention.
    """

    logits: Floats
    abstained: NDArray[np.bool_] | None


_FILE = "predictions.jsonl"


class PredictionStore:
    """``predictions.jsonl`` in the folder of an experiment: a line of settings, then one line per case.

    An incomplete last line, left by a killed process, is ignored; its case is computed again.

    Args:
        folder: The folder of the experiment.
        settings: The settings that determine the predictions; a file with other settings is an error.
        overwrite: Whether predictions with other settings may be replaced.

    Raises:
        UsageError: If the folder has predictions with other settings and ``overwrite`` is False.
        StorageError: If the file cannot be written, now or later.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self._path = folder / _FILE
        self._header = json.dumps({"settings": sha256(json.dumps(settings, sort_keys=True))})
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []
        if lines and lines[0] != self._header:
            if not overwrite:
                raise UsageError(
                    f"{folder} has results of another bundle or other settings",
                    "An experiment can only resume with the same bundle and settings",
                    "Choose another --out, or add --overwrite",
                )
            lines = []
        self._stored = dict(entry for entry in map(_parse_line, lines[1:]) if entry)
        kept = [_line(key, prediction) for key, prediction in self._stored.items()]
        write_atomic(self._path, "\n".join([self._header, *kept]) + "\n")
        self._stream: TextIO | None = None

    def __enter__(self) -> PredictionStore:
        with _StorageErrors(self._path):
            self._stream = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._stream is not None:
            self._stream.close()

    def get(self, key: str) -> CasePrediction | None:
        """Returns the predictions for a case, or None if they are not stored."""
        return self._stored.get(key)

    def put(self, key: str, prediction: CasePrediction) -> None:
        """Stores the predictions for a case."""
        if self._stream is None:
            raise StorageError("The prediction store is closed", "It is writable inside a with block", "Use a with block")
        with _StorageErrors(self._path):
            self._stream.write(_line(key, prediction) + "\n")
            self._stream.flush()


def _line(key: str, prediction: CasePrediction) -> str:
    abstained = None if prediction.abstained is None else prediction.abstained.tolist()
    return json.dumps({"key": key, "logits": prediction.logits.tolist(), "abstained": abstained}, allow_nan=False)


def _parse_line(line: str) -> tuple[str, CasePrediction] | None:
    try:
        entry = parse_json(line)
        logits, abstained = np.array(entry["logits"], np.float64), entry["abstained"]
        prediction = CasePrediction(logits, None if abstained is None else np.array(abstained, np.bool_))
        return (entry["key"], prediction) if logits.ndim == 2 and np.isfinite(logits).all() else None
    except (ValueError, KeyError, TypeError):
        return None


class _StorageErrors:
    """Converts file system errors to :class:`StorageError`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, OSError):
            raise StorageError(
                f"{self._path} could not be written: {error.strerror or error}",
                "An experiment needs a writable folder with free space",
                "Free some space, then run the same command again to resume",
            ) from error
