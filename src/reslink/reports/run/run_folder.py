"""Reads the files of a run folder for the report: a missing file is None, an invalid file raises an error with its name."""

from __future__ import annotations

import base64
import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from reslink.bundles.storage import bundle_of_run
from reslink.errors import InputError
from reslink.labels import UNKNOWN
from reslink.settings_text import parse_json, parse_yaml

Row = dict[str, str]
T = TypeVar("T")

_MAX_PICTURE_BYTES = 4_000_000
"""The page embeds every picture, so larger ones are skipped."""


@dataclass(frozen=True)
class Predictions:
    """The columns of ``predictions.csv`` as arrays.

    Attributes:
        names: Class names in their order.
        y_true: (n,) int64; of several labels at once, (n, K) 1 present, 0 absent, -1 unknown.
        y_prob: (n, K) float64.
        y_pred: (n,) int64; of several labels at once, (n, K).
    """

    names: tuple[str, ...]
    y_true: NDArray[np.int64]
    y_prob: NDArray[np.float64]
    y_pred: NDArray[np.int64]


@dataclass(frozen=True)
class RunFolder:
    """The contents of a run or evaluation folder; missing files are None or empty.

    Attributes:
        name: Name of the folder, without its path.
        config: ``config.yaml``.
        environment: ``environment.json``.
        splits: Rows of ``splits.csv``.
        epochs: One row per epoch from ``metrics.jsonl``, or ``results.csv``.
        findings: Findings of the training diagnostics: ``code``, ``message``, ``advice``, ``epoch``.
        evaluation: ``evaluation.json``.
        predictions: ``predictions.csv``.
        prediction_rows: The same as rows.
        bundle: ``bundle.json`` of the bundle that the run stands for (:func:`~reslink.bundles.storage.bundle_of_run`).
        randomization_checks: ``figures/sanity.json``.
        pictures: PNG bytes of ``figures/gallery*.png`` by file name.
        gallery: ``figures/gallery.json``: the case of each picture.
    """

    name: str
    config: dict[str, Any] | None = None
    environment: dict[str, Any] | None = None
    splits: list[Row] | None = None
    epochs: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] | None = None
    evaluation: dict[str, Any] | None = None
    predictions: Predictions | None = None
    prediction_rows: list[Row] = field(default_factory=list)
    bundle: dict[str, Any] | None = None
    randomization_checks: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    gallery: list[dict[str, Any]] = field(default_factory=list)


def read_run(folder: Path) -> RunFolder:
    """Reads a run folder.

    Args:
        folder: The folder.

    Raises:
        InputError: If there is no such folder, or a file in it is invalid; the message names the file.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", "A report is written from a run folder", "Check the path")
    evaluation = read_file(folder / "evaluation.json", parse_json)
    trained = folder / "bundle" / "bundle.json"
    bundle = read_file(bundle_of_run(folder) / trained.name if trained.is_file() else trained, parse_json)
    lines = read_lines(folder)
    names = _class_names(bundle, evaluation)
    rows, predictions = read_file(folder / "predictions.csv", lambda text: _rows_and_predictions(text, names)) or ([], None)
    return RunFolder(
        name=folder.resolve().name,
        config=read_file(folder / "config.yaml", parse_yaml),
        environment=read_file(folder / "environment.json", parse_json),
        splits=read_file(folder / "splits.csv", _rows),
        epochs=read_epochs(folder, lines),
        findings=_findings(lines),
        evaluation=evaluation,
        predictions=predictions,
        prediction_rows=rows,
        bundle=bundle,
        randomization_checks=read_file(folder / "figures" / "sanity.json", parse_json) or [],
        pictures=_pictures(folder / "figures"),
        gallery=read_file(folder / "figures" / "gallery.json", parse_json) or [],
    )


def case_noun(config: Mapping[str, Any] | None) -> str:
    """Returns what a case of a run is, by its ``config.yaml``: ``series`` or ``image``."""
    return "series" if ((config or {}).get("trainer") or {}).get("case") == "series" else "image"


def read_csv_rows(path: Path) -> list[Row]:
    """Reads the rows of a CSV file that reslink wrote; none if it is missing.

    Raises:
        InputError: If it cannot be read.
    """
    return read_file(path, _rows) or []


def data_uri(png: bytes) -> str:
    """Returns PNG bytes as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """Reads the lines of ``metrics.jsonl``; a last line that is not yet complete is left out.

    Raises:
        InputError: If it cannot be read.
    """
    return read_file(folder / "metrics.jsonl", _json_lines) or []


def read_epochs(folder: Path, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns one row per epoch from the lines of ``metrics.jsonl``, or from ``results.csv`` if they hold none.

    Raises:
        InputError: If ``results.csv`` cannot be read.
    """
    return _epochs(lines) or [_numbers(row) for row in read_file(folder / "results.csv", _rows) or []]


def read_file(path: Path, parse: Callable[[str], T]) -> T | None:
    """Reads a file of a run; None if it is missing.

    Args:
        path: The file.
        parse: Makes the content from the text.

    Raises:
        InputError: If it cannot be read.
    """
    if not path.is_file():
        return None
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be used for the report ({type(error).__name__}: {error})",
            "A report needs the files of a run as reslink wrote them",
            "Restore the file, or train or evaluate again",
        ) from error


def _json_lines(text: str) -> list[dict[str, Any]]:
    complete = text[: text.rfind("\n") + 1] or text
    return [parse_json(line) for line in complete.splitlines() if line.strip()]


def _rows(text: str) -> list[Row]:
    return list(csv.DictReader(text.splitlines(keepends=True)))


def _numbers(row: Row) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, text in row.items():
        try:
            result[key] = float(text)
        except (TypeError, ValueError):
            continue
    return result


def _epochs(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns one line per epoch; a resumed run can hold several, of which the last counts."""
    rows = [line for line in lines if line.get("kind") == "epoch"]
    return list({row["epoch"]: row for row in rows}.values())


def _findings(lines: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Returns the first finding of each code; None if the folder is not a training run."""
    by_code = {line["code"]: line for line in reversed(lines) if line.get("kind") == "finding"}
    return list(reversed(by_code.values())) if lines else None


def _class_names(bundle: dict[str, Any] | None, evaluation: dict[str, Any] | None) -> tuple[str, ...] | None:
    if bundle is not None:
        return tuple(bundle["labels"])
    if evaluation is not None and evaluation.get("labels"):
        return tuple(evaluation["labels"])
    return None


def _rows_and_predictions(text: str, names: tuple[str, ...] | None) -> tuple[list[Row], Predictions | None]:
    rows = _rows(text)
    return rows, _predictions([row for row in rows if row["prediction"] != ""], names)  # not the refused cases


def _predictions(rows: list[Row], names: tuple[str, ...] | None) -> Predictions | None:
    if not rows:
        return None
    columns = [key for key in rows[0] if key.startswith("p_")]
    names = names or tuple(key.removeprefix("p_") for key in columns)
    if f"true_{names[0]}" in rows[0]:
        return _predictions_of_labels(rows, names)
    index = {name: i for i, name in enumerate(names)}
    return Predictions(
        names,
        np.array([index[row["label"]] for row in rows], dtype=np.int64),
        np.array([[float(row[f"p_{name}"]) for name in names] for row in rows], dtype=np.float64),
        np.array([index[row["prediction"]] for row in rows], dtype=np.int64),
    )


def _predictions_of_labels(rows: list[Row], names: tuple[str, ...]) -> Predictions:
    def numbers(column: str, kind: type) -> NDArray[Any]:
        return np.array([[kind(row[f"{column}_{name}"] or UNKNOWN) for name in names] for row in rows])

    return Predictions(names, numbers("true", int), numbers("p", float), numbers("predicted", int))


def _pictures(folder: Path) -> dict[str, bytes]:
    files = sorted(folder.glob("gallery*.png")) if folder.is_dir() else []
    return {file.name: file.read_bytes() for file in files if file.stat().st_size <= _MAX_PICTURE_BYTES}
