"""The results of a trial, read from its folder: predictions, metrics by epoch, gradients, attention weights."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reslink.experiments.runner.trial import ATTENTION, DIVERGED, RECIPE_VIEW, SharedData, Trial, predictions_file
from reslink.labels import Labels
from reslink.metrics.classification import weighted_metrics
from reslink.settings_text import parse_json, read_json
from reslink.training.run_folder import FINISHED, METRICS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TrialPredictions:
    """The predictions of a trial for its test cases.

    Attributes:
        names: (n,) names of the cases.
        groups: (n,) patient or duplicate group.
        y_true: (n,) class indices.
        y_prob: (n, K) probabilities.
        y_pred: (n,) predicted class indices.
    """

    names: list[str]
    groups: list[str]
    y_true: Ints
    y_prob: Floats
    y_pred: Ints

    @classmethod
    def read(cls, path: Path, labels: Labels) -> TrialPredictions:
        """Reads ``predictions.csv``."""
        rows = _read_csv(path)
        return cls(
            names=[row["sample_id"] for row in rows],
            groups=[row["group"] for row in rows],
            y_true=np.array([labels.index(row["label"]) for row in rows], np.int64),
            y_prob=np.array([[float(row[f"p_{name}"]) for name in labels.names] for row in rows], np.float64),
            y_pred=np.array([labels.index(row["prediction"]) for row in rows], np.int64),
        )

    def subset(self, selected: NDArray[np.bool_]) -> TrialPredictions:
        """Returns the selected cases, (n,) booleans."""
        rows = np.flatnonzero(selected)
        return TrialPredictions(
            [self.names[i] for i in rows],
            [self.groups[i] for i in rows],
            self.y_true[rows],
            self.y_prob[rows],
            self.y_pred[rows],
        )

    def metrics(self, weights: Floats) -> dict[str, Floats]:
        """Returns every metric of weighted samples (m, n), each (m,), for a bootstrap."""
        metrics = weighted_metrics(weights, self.y_true, self.y_prob, self.y_pred)
        return {name.removeprefix("all "): values for name, values in metrics.items() if name.startswith("all ")}

    def effective_groups(self) -> dict[str, int]:
        """Returns the number of groups that determine a metric: those with a case of the rarest class that it needs."""
        groups = np.asarray(self.groups, dtype=str)
        num_classes = self.y_prob.shape[1]
        in_class = [len(np.unique(groups[self.y_true == k])) for k in range(num_classes)]
        out_of_class = [len(np.unique(groups[self.y_true != k])) for k in range(num_classes)]
        counted = slice(1, 2) if num_classes == 2 else slice(None)
        sensitivity, specificity = min(in_class[counted]), min(out_of_class[counted])
        return {"sensitivity": sensitivity, "specificity": specificity, "auroc": min(sensitivity, specificity)}

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(n,) whether the prediction is correct."""
        return np.asarray(self.y_true == self.y_pred, np.bool_)


@dataclass(frozen=True, eq=False)
class TrialResult:
    """The result of a trial.

    Attributes:
        trial: The trial.
        folder: Its folder.
        labels: The classes.
        failure: The reason for a missing result; None if there is a result.
        diverged: Whether training stopped because the loss or a gradient was not finite.
    """

    trial: Trial
    folder: Path
    labels: Labels
    failure: str | None = None
    diverged: bool = False

    @classmethod
    def read(cls, trial: Trial, data: SharedData, runs: Path, failures: Mapping[str, str]) -> TrialResult:
        """Reads the result of a trial."""
        folder, labels = trial.folder(data, runs), data.manifest.labels
        diverged = folder / DIVERGED
        if diverged.exists():
            return cls(trial, folder, labels, read_json(diverged)["reason"], diverged=True)
        reason = failures.get(trial.key(data))
        if reason is None and not trial.is_complete(folder):
            reason = "The run left no result"
        return cls(trial, folder, labels, reason)

    @cached_property
    def predictions(self) -> TrialPredictions:
        """The predictions for the test cases."""
        return self.predictions_on(RECIPE_VIEW)

    def predictions_on(self, view: str) -> TrialPredictions:
        """Returns the predictions for the test cases in a view."""
        return TrialPredictions.read(self.folder / predictions_file(view), self.labels)

    @cached_property
    def epochs(self) -> list[dict[str, Any]]:
        """One row per epoch."""
        return [row for row in self._metrics if row["kind"] == "epoch"]

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        """Rows of recorded steps: loss, gradient norm, share of the gradient in each attention layer."""
        return [row for row in self._metrics if row["kind"] == "step"]

    @cached_property
    def findings(self) -> list[str]:
        """Codes of the findings of the training diagnostics."""
        return [row["code"] for row in self._metrics if row["kind"] == "finding"]

    @cached_property
    def best_epoch(self) -> int:
        """The epoch whose weights were evaluated."""
        return int(read_json(self.folder / FINISHED)["best_epoch"])

    @cached_property
    def attention(self) -> dict[str, Floats]:
        """Columns of ``attention.csv``, NaN where a region is empty; no column if attention was not measured."""
        path = self.folder / ATTENTION
        if not path.exists():
            return {}
        rows = _read_csv(path)
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in (rows[0] if rows else ())}

    @cached_property
    def _metrics(self) -> list[dict[str, Any]]:
        path = self.folder / METRICS
        return [parse_json(line) for line in path.read_text().splitlines()] if path.exists() else []


def read_results(trials: Sequence[Trial], data: SharedData, runs: Path, failures: Mapping[str, str]) -> list[TrialResult]:
    """Reads the results of all trials."""
    return [TrialResult.read(trial, data, runs, failures) for trial in trials]


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
