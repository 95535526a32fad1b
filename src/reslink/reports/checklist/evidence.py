"""What a reviewer's page is made from: a run and what was found about it elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reslink.errors import InputError, UsageError
from reslink.reports.run.run_folder import RunFolder, read_run


@dataclass(frozen=True)
class Evidence:
    """A run, and the audit, studies and outside evaluations that belong to it.

    Attributes:
        run: The files of the run, or of an evaluation.
        audit: ``audit.json`` of its data.
        studies: ``study.json`` by the name of the study; of two of one name the last.
        outside: ``evaluation.json`` of other data by the name of its folder.
    """

    run: RunFolder
    audit: dict[str, Any] | None = None
    studies: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    outside: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def evaluation(self) -> dict[str, Any]:
        """``evaluation.json`` of the run, empty where it has none."""
        return self.run.evaluation or {}

    @property
    def bundle(self) -> dict[str, Any]:
        """``bundle.json`` of the run, empty where it has none."""
        return self.run.bundle or {}

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the run: its ``config.yaml``, or what the bundle says of them."""
        return self.run.config or (self.bundle.get("provenance") or {}).get("recipe") or {}


def read_evidence(run: Path, others: Sequence[Path] = ()) -> Evidence:
    """Reads a run and further folders.

    Args:
        run: A folder that ``reslink train`` or ``reslink evaluate`` wrote.
        others: Folders with an ``audit.json``, a ``study.json`` or an ``evaluation.json``; in a folder of studies each
            study is taken.

    Raises:
        UsageError: If a folder holds none of these, belongs to another model or is the run itself, or the run holds no
            ``evaluation.json``.
        InputError: If a file of the run is broken, or there is no such folder.
    """
    files = read_run(run)
    if files.evaluation is None:
        raise UsageError(
            f"{run} holds no evaluation.json",
            "The page is about a run or an evaluation that has ended",
            "Give a folder that reslink train or reslink evaluate wrote",
        )
    _check_whole(run, files.evaluation)
    audit, studies, outside = None, {}, {}
    for folder in others:
        found = [place for place in [folder, *sorted(folder.glob("*/"))] if place.is_dir()]
        known = 0
        for place in found:
            for name in ("audit.json", "study.json", "evaluation.json"):
                value = _json(place / name)
                if value is None or (place != folder and name == "evaluation.json"):
                    continue
                known += 1
                _check_same_model(run, files, place, name, value)
                if name == "audit.json":
                    audit = value
                elif name == "study.json":
                    studies[str(value.get("study", place.name))] = value
                else:
                    outside[place.resolve().name] = value
        if not known:
            raise UsageError(
                f"{folder} holds no audit.json, study.json or evaluation.json",
                "--with names a folder that reslink audit, reslink study or reslink evaluate wrote",
                "Check the path",
            )
    return Evidence(files, audit, studies, outside)


def _check_whole(place: Path, evaluation: Mapping[str, Any]) -> None:
    lacking = [key for key in ("n", "metrics", "confusion_matrix", "labels") if key not in evaluation]
    if lacking or not isinstance(evaluation["metrics"], dict):
        raise InputError(
            f"{place}/evaluation.json cannot be used: {', '.join(lacking) or 'metrics'} is missing or of another kind",
            "The page needs an evaluation.json as reslink train and reslink evaluate write it",
            "Evaluate again",
        )


def _check_same_model(run: Path, files: RunFolder, place: Path, name: str, found: Mapping[str, Any]) -> None:
    """Figures of other weights would stand on the page as this model's own."""
    weights = (files.bundle or {}).get("weights") or {}
    mine = str((files.evaluation or {}).get("bundle_sha256") or weights.get("sha256") or "")
    if name == "evaluation.json":
        _check_whole(place, found)
        theirs = str(found.get("bundle_sha256") or "")
        if place.resolve() == run.resolve():
            raise UsageError(
                f"{place} is the run itself",
                "--with names evaluations of the same model on other data",
                "Leave it out, or give the folder of reslink evaluate on outside data",
            )
    else:
        theirs = str((found.get("facts") or {}).get("Weights SHA-256") or "") if name == "study.json" else ""
    if mine and theirs and not mine.startswith(theirs):
        raise UsageError(
            f"{place} is about another model (weights {theirs[:16]}, the run has {mine[:16]})",
            "The page shows figures of one model",
            "Give evaluations and studies of this run's bundle",
        )


def _json(path: Path) -> dict[str, Any] | None:
    """Returns a JSON object; None where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
