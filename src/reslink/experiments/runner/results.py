"""What the runs of a study left behind, read back: predictions, gates, gradients, epochs."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reslink.experiments.runner.run_spec import ATTENTION, PLAIN, STOPPED, Data, Trial
from reslink.labels import Labels
from reslink.metrics.classification import replicates
from reslink.training.run_folder import FINISHED, METRICS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cases:
    """The judged cases of a run.

    Attributes:
        names: (n,) their names.
        groups: (n,) patient or twin group.
        truth: (n,) class indices.
        scores: (n, K) probabilities.
        calls: (n,) predicted class indices.
    """

    names: list[str]
    groups: list[str]
    truth: Ints
    scores: Floats
    calls: Ints

    @classmethod
    def read(cls, path: Path, labels: Labels) -> Cases:
        """Reads ``predictions.csv``."""
        rows = _rows(path)
        return cls(
            names=[row["sample_id"] for row in rows],
            groups=[row["group"] for row in rows],
            truth=np.array([labels.index(row["label"]) for row in rows], np.int64),
            scores=np.array([[float(row[f"p_{name}"]) for name in labels.names] for row in rows], np.float64),
            calls=np.array([labels.index(row["prediction"]) for row in rows], np.int64),
        )

    def figures(self, weights: Floats) -> dict[str, Floats]:
        """Returns every metric of weighted samples (m, n), each (m,), for a bootstrap."""
        found = replicates(weights, self.truth, self.scores, self.calls)
        return {name.removeprefix("all "): values for name, values in found.items() if name.startswith("all ")}

    def rests_on(self) -> dict[str, int]:
        """Returns by metric the fewest groups that it rests on: those with a case of each class that it needs."""
        groups = np.asarray(self.groups, dtype=str)
        inside = [len(np.unique(groups[self.truth == k])) for k in range(self.scores.shape[1])]
        outside = [len(np.unique(groups[self.truth != k])) for k in range(self.scores.shape[1])]
        positive = slice(1, 2) if len(inside) == 2 else slice(None)
        sensitivity, specificity = min(inside[positive]), min(outside[positive])
        return {"sensitivity": sensitivity, "specificity": specificity, "auroc": min(sensitivity, specificity)}

    @property
    def right(self) -> NDArray[np.bool_]:
        """(n,) whether the call is right."""
        return np.asarray(self.truth == self.calls, np.bool_)


@dataclass(frozen=True, eq=False)
class Record:
    """One run that is over.

    Attributes:
        trial: What it was.
        folder: Where it stands.
        labels: The classes.
        failure: Why it has no result; None where it has.
        diverged: Whether training itself stopped because loss or gradient was not finite.
    """

    trial: Trial
    folder: Path
    labels: Labels
    failure: str | None = None
    diverged: bool = False

    @classmethod
    def read(cls, trial: Trial, data: Data, runs: Path, failed: Mapping[str, str]) -> Record:
        """Reads what came of a trial."""
        folder, labels = trial.folder(data, runs), data.manifest.labels
        stopped = folder / STOPPED
        if stopped.exists():
            return cls(trial, folder, labels, json.loads(stopped.read_text())["reason"], diverged=True)
        reason = failed.get(trial.key(data))
        if reason is None and not trial.done(folder):
            reason = "It left no result"
        return cls(trial, folder, labels, reason)

    @cached_property
    def cases(self) -> Cases:
        """The test cases."""
        return self.judged(PLAIN)

    def judged(self, look: str) -> Cases:
        """Returns the test cases under a look."""
        return Cases.read(self.folder / ("predictions.csv" if look == PLAIN else f"looks/{look}.csv"), self.labels)

    @cached_property
    def epochs(self) -> list[dict[str, Any]]:
        """Rows by epoch."""
        return [row for row in self._metrics if row["kind"] == "epoch"]

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        """Rows of recorded steps: loss, gradient norm, share of the gradient in each attention layer."""
        return [row for row in self._metrics if row["kind"] == "step"]

    @cached_property
    def findings(self) -> list[str]:
        """Codes of what the diagnostics found."""
        return [row["code"] for row in self._metrics if row["kind"] == "finding"]

    @cached_property
    def best_epoch(self) -> int:
        """The epoch whose weights were judged."""
        return int(json.loads((self.folder / FINISHED).read_text())["best_epoch"])

    @cached_property
    def attention(self) -> dict[str, Floats]:
        """Columns of ``attention.csv``, NaN where a region is empty; no column where nothing was measured."""
        path = self.folder / ATTENTION
        if not path.exists():
            return {}
        rows = _rows(path)
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in (rows[0] if rows else ())}

    @cached_property
    def _metrics(self) -> list[dict[str, Any]]:
        path = self.folder / METRICS
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def read_all(trials: Sequence[Trial], data: Data, runs: Path, failed: Mapping[str, str]) -> list[Record]:
    """Reads what came of all trials."""
    return [Record.read(trial, data, runs, failed) for trial in trials]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
