"""The input of the report for reviewers: a run, with its audit, experiments and further evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reslink.errors import InputError, UsageError
from reslink.reports.checklist.origin import Origin, origin_of
from reslink.reports.run.run_folder import RunFolder, read_csv_rows, read_run
from reslink.settings_text import read_json

_FILES = ("audit.json", "experiment.json", "evaluation.json")


@dataclass(frozen=True)
class OtherEvaluation:
    """Another evaluation of the model of a run.

    Attributes:
        evaluation: Its ``evaluation.json``.
        origin: Whether its images are the run's own or external.
    """

    evaluation: dict[str, Any]
    origin: Origin


@dataclass(frozen=True)
class Evidence:
    """A run, and the audit, experiments and further evaluations that belong to it.

    Attributes:
        run: The contents of the run or evaluation folder.
        audit: ``audit.json`` of its data.
        experiments: ``experiment.json`` by the name of the experiment; the last one of each name.
        evaluations: Other evaluations of its model, by the name of their folder.
        external_origins: Whether the images of each data set of the external evaluation are the run's own or external.
    """

    run: RunFolder
    audit: dict[str, Any] | None = None
    experiments: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    evaluations: Mapping[str, OtherEvaluation] = field(default_factory=dict)
    external_origins: Mapping[str, Origin] = field(default_factory=dict)

    @property
    def evaluation(self) -> dict[str, Any]:
        """``evaluation.json`` of the run; empty if it has none."""
        return self.run.evaluation or {}

    @property
    def bundle(self) -> dict[str, Any]:
        """``bundle.json`` of the run; empty if it has none."""
        return self.run.bundle or {}

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the run: ``config.yaml``, or the recipe in the bundle."""
        return self.run.config or (self.bundle.get("provenance") or {}).get("recipe") or {}


def read_evidence(run: Path, others: Sequence[Path] = ()) -> Evidence:
    """Reads a run and further folders.

    Args:
        run: An output folder of ``reslink train`` or ``reslink evaluate``.
        others: Folders with an ``audit.json``, an ``experiment.json`` or an ``evaluation.json``; a folder of experiments adds
            each of them.

    Raises:
        UsageError: If a folder holds none of these, belongs to another model or is the run itself, or the run has no
            ``evaluation.json``.
        InputError: If a file of the run is invalid, or there is no such folder.
    """
    files = read_run(run)
    if files.evaluation is None:
        raise UsageError(
            f"{run} holds no evaluation.json",
            "The report needs a finished run or evaluation",
            "Give an output folder of reslink train or reslink evaluate",
        )
    _check_complete(run, files.evaluation)
    audit, experiments, evaluations = None, {}, {}
    external_origins: dict[str, Origin] = {}
    for folder in others:
        contents = list(_contents(folder))
        if not contents:
            raise UsageError(
                f"{folder} holds no audit.json, experiment.json or evaluation.json",
                "--with needs an output folder of reslink audit, reslink experiment or reslink evaluate",
                "Check the path",
            )
        for path, content in contents:
            _check_same_model(run, files, path, content)
            if path.name == "audit.json":
                audit = content
            elif path.name == "experiment.json":
                name = str(content.get("experiment", path.parent.name))
                experiments[name] = content
                if name == "external":
                    external_origins = _external_origins(files, path.parent, content)
            else:
                origin = origin_of(files, content, read_csv_rows(path.with_name("predictions.csv")))
                evaluations[path.parent.resolve().name] = OtherEvaluation(content, origin)
    return Evidence(files, audit, experiments, evaluations, external_origins)


def _external_origins(run: RunFolder, folder: Path, experiment: Mapping[str, Any]) -> dict[str, Origin]:
    """Returns the origin of each data set of an external evaluation, by the evaluations in its folder."""
    tables = [table for table in experiment.get("tables") or () if table["name"] == "drop"]
    names = dict.fromkeys(str(row["data"]) for table in tables for row in table["rows"])
    return {
        name: origin_of(
            run, _read_object(folder / name / "evaluation.json") or {}, read_csv_rows(folder / name / "predictions.csv")
        )
        for name in names
    }


def _contents(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Returns the known JSON files of a folder and its subfolders; evaluations in subfolders are ignored."""
    contents = []
    for subfolder in [path for path in [folder, *sorted(folder.glob("*/"))] if path.is_dir()]:
        for name in _FILES if subfolder == folder else _FILES[:2]:
            content = _read_object(subfolder / name)
            if content is not None:
                contents.append((subfolder / name, content))
    return contents


def _check_complete(folder: Path, evaluation: Mapping[str, Any]) -> None:
    missing = [key for key in ("n", "metrics", "confusion_matrix", "labels") if key not in evaluation]
    if missing or not isinstance(evaluation["metrics"], dict):
        raise InputError(
            f"{folder}/evaluation.json cannot be used: {', '.join(missing) or 'metrics'} is missing or has the wrong type",
            "The report needs an evaluation.json as reslink train and reslink evaluate write it",
            "Evaluate again",
        )


def _check_same_model(run: Path, files: RunFolder, path: Path, content: Mapping[str, Any]) -> None:
    """Refuses results of other weights, because the page would show them as results of this model."""
    folder = path.parent
    weights = (files.bundle or {}).get("weights") or {}
    run_sha = str((files.evaluation or {}).get("bundle_sha256") or weights.get("sha256") or "")
    other_sha = ""
    if path.name == "evaluation.json":
        _check_complete(folder, content)
        other_sha = str(content.get("bundle_sha256") or "")
        if folder.resolve() == run.resolve():
            raise UsageError(
                f"{folder} is the run itself",
                "--with takes other evaluations of the same model",
                "Omit it, or give another output folder of reslink evaluate",
            )
    elif path.name == "experiment.json":
        other_sha = str((content.get("facts") or {}).get("Weights SHA-256") or "")
    if run_sha and other_sha and not run_sha.startswith(other_sha):
        raise UsageError(
            f"{folder} belongs to another model (weights {other_sha[:16]}, the run has {run_sha[:16]})",
            "The report describes one model",
            "Give evaluations and experiments with the bundle of this run",
        )


def _read_object(path: Path) -> dict[str, Any] | None:
    """Returns a JSON object; None if the file is missing or holds something else."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
