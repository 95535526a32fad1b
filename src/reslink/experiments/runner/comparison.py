"""Comparison of conditions: train all trials, compare each condition with the reference, and describe the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.grouping import GROUP_NAMES
from reslink.errors import counted
from reslink.experiments.report import Row, Table
from reslink.experiments.runner.experiment import Experiment
from reslink.experiments.runner.results import TrialPredictions, TrialResult, read_results
from reslink.experiments.runner.seed_statistics import Floats, SeedBootstrap, SeedEstimate, TrialSample, holm_corrected
from reslink.experiments.runner.trial import Trial
from reslink.metrics.classification import METRIC_NAMES
from reslink.metrics.intervals import Estimate
from reslink.reports.formatting import format_difference, start_sentence
from reslink.reports.run.sections import flatten_settings
from reslink.training.monitoring.diagnostics import CLASS_NEVER_PREDICTED, NO_BETTER_THAN_CHANCE
from reslink.training.recipe.recipe import Recipe

_FINDINGS = {
    NO_BETTER_THAN_CHANCE: "is not shown to be better than chance on its validation split",
    CLASS_NEVER_PREDICTED: "never predicts a class of its validation split",
}
METRICS = ("accuracy", "auroc", "sensitivity", "specificity")
COMPARED_METRICS = ("accuracy", "auroc")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Conditions that were trained with the same seeds.

    Attributes:
        experiment: The setup.
        results: The results of all trials.
        titles: Condition to its title in tables; the first condition is the reference.
    """

    experiment: Experiment
    results: Sequence[TrialResult]
    titles: Mapping[str, str]

    @classmethod
    def run(cls, experiment: Experiment, trials: Sequence[Trial], titles: Mapping[str, str]) -> Comparison:
        """Runs the trials that are not complete, and reads all results."""
        failures = experiment.run_trials(trials)
        return cls(experiment, read_results(trials, experiment.data, experiment.runs, failures), titles)

    @property
    def successful(self) -> list[TrialResult]:
        """The trials with a result."""
        return [result for result in self.results if result.failure is None]

    def successful_of(self, condition: str) -> list[TrialResult]:
        """Returns the trials of a condition that have a result."""
        return [result for result in self.successful if result.trial.condition == condition]

    @property
    def failures(self) -> list[dict[str, str]]:
        """Name and reason of each trial of the comparison without a result."""
        return [{"run": result.trial.name, "reason": result.failure} for result in self.results if result.failure]

    @cached_property
    def bootstrap(self) -> SeedBootstrap:
        """The bootstrap over all trials."""
        return SeedBootstrap({(r.trial.condition, r.trial.seed): trial_sample(r.predictions) for r in self.successful})

    @property
    def reference(self) -> str:
        """The condition that the others are compared with."""
        return next(iter(self.titles))

    @cached_property
    def differences(self) -> dict[str, dict[str, SeedEstimate]]:
        """For accuracy and AUROC, each other condition minus the reference, Holm-corrected over the conditions."""
        others = [condition for condition in self.titles if condition != self.reference]
        differences = {}
        for metric in COMPARED_METRICS:
            tests = holm_corrected([self.bootstrap.difference(name, self.reference, metric) for name in others])
            differences[metric] = dict(zip(others, tests, strict=True))
        return differences

    def metrics_table(self, title: str, note: str = "") -> Table:
        """Returns the table of metrics, each with the difference to the reference."""
        columns: dict[str, tuple[str, Any]] = {"title": ("", "text"), "runs": ("runs", "count")}
        columns |= {metric: (METRIC_NAMES[metric], "estimate") for metric in METRICS}
        columns |= {f"{metric}_difference": (f"{METRIC_NAMES[metric]}, difference", "test") for metric in COMPARED_METRICS}
        explanation = (
            f"Difference: to «{self.titles[self.reference]}» on the same seeds and test cases. The 95 % intervals hold for "
            "other seeds and other patients; p is corrected by Holm's method over the rows."
        )
        notes = [*self.warnings, explanation, note]
        return Table("metrics", title, columns, [self._row(condition) for condition in self.titles], " ".join(notes).strip())

    def _row(self, condition: str) -> Row:
        runs = len(self.successful_of(condition))
        row: Row = {"condition": condition, "title": self.titles[condition], "runs": runs}
        row |= {metric: self.bootstrap.mean(condition, metric).estimate.as_dict() for metric in METRICS}
        for metric in COMPARED_METRICS:
            test = self.differences[metric].get(condition)
            row[f"{metric}_difference"] = None if test is None else test.as_dict()
        return row

    def run_rows(self) -> list[Row]:
        """Returns one row per trial: condition, seed, folder, metrics on its test split."""
        rows = []
        for result in self.results:
            trial = result.trial
            row: Row = {"condition": trial.condition, "seed": trial.seed, "run": result.folder.name, "failure": result.failure}
            points = self.bootstrap.points.get((trial.condition, trial.seed), {})
            row |= {metric: none_if_nan(points.get(metric)) for metric in METRICS}
            if result.failure is None:
                row |= {
                    "epochs": len(result.epochs),
                    "best_epoch": result.best_epoch,
                    "test_cases": len(result.predictions.names),
                }
            rows.append(row)
        return rows

    def difference_chart(self, metric: str = "accuracy") -> dict[str, Any]:
        """Returns the chart of the differences in a metric."""
        rows = [
            {"label": self.titles[condition], **_interval(test), "points": self._differences_by_seed(condition, metric)}
            for condition, test in self.differences[metric].items()
        ]
        return {
            "kind": "intervals",
            "name": f"{metric}-differences",
            "title": f"{start_sentence(METRIC_NAMES[metric])}: difference to «{self.titles[self.reference]}»",
            "axis": "difference",
            "reference": 0.0,
            "rows": rows,
        }

    def _differences_by_seed(self, condition: str, metric: str) -> list[float]:
        points, seeds = self.bootstrap.points, self.bootstrap.seeds(condition, self.reference)
        values = [points[condition, seed][metric] - points[self.reference, seed][metric] for seed in seeds]
        return [value for value in values if none_if_nan(value) is not None]

    def sentence(self, condition: str, metric: str = "accuracy") -> str:
        """Returns the difference of a condition to the reference, in words."""
        test = self.differences[metric][condition]
        return difference_sentence(self.titles[condition], self.titles[self.reference], metric, test)

    @cached_property
    def warnings(self) -> list[str]:
        """Warnings about leaked test images, if leakage was allowed and occurred, and about networks of no use."""
        leaked = [int(seen_in_training(result, self.experiment.data.joined_groups).sum()) for result in self.successful]
        if not any(leaked):
            return self._findings
        return [
            f"In a run, up to {max(leaked)} test images share a patient or a near duplicate with its training or validation "
            "images (leakage was allowed): all metrics may be too optimistic.",
            *self._findings,
        ]

    @property
    def _findings(self) -> list[str]:
        """How many networks have each finding on the trained network, in sentences."""
        counts = Counter(code for result in self.successful for code in set(result.findings))
        return [
            f"In {counts[code]} of {counted(len(self.successful), 'run')}, the network {what} ({code}). Train for more epochs "
            "or on more patients."
            for code, what in _FINDINGS.items()
            if counts[code]
        ]

    def summary(self, metric: str) -> list[str]:
        """Returns the conditions with and without a significant difference in a metric, in sentences."""
        name, reference, tests = start_sentence(METRIC_NAMES[metric]), self.titles[self.reference], self.differences[metric]
        significant = [condition for condition, test in tests.items() if is_significant(test)]
        others = [self.titles[condition] for condition in tests if condition not in significant]
        sentences = []
        if significant:
            values = "; ".join(f"{self.titles[name]}, {_with_interval(tests[name].estimate)}" for name in significant)
            sentences.append(f"{name}: significant difference to «{reference}» for {values}.")
        if others:
            sentences.append(f"{name}: no significant difference to «{reference}» for {'; '.join(others)}.")
        return sentences

    def facts(self) -> dict[str, Any]:
        """Returns the facts at the head of the page: data, classes, seeds, network."""
        experiment, manifest = self.experiment, self.experiment.cache.manifest
        seeds = ", ".join(map(str, experiment.seeds))
        sizes = sorted({len(result.predictions.names) for result in self.successful})
        return {
            "Data": experiment.manifest.name,
            "Classes": ", ".join(manifest.labels.names),
            "Images": len(manifest),
            **({"Images that a model refuses, not evaluated": len(experiment.refused)} if experiment.refused else {}),
            start_sentence(GROUP_NAMES[experiment.recipe.data.group_by]): len(set(experiment.data.groups)),
            "Test images per run": " to ".join(map(str, dict.fromkeys([sizes[0], sizes[-1]]))) if sizes else "none",
            "Runs": f"{len(self.successful)} of {len(self.results)}",
            "Seeds": f"{seeds} ({self._split_description()})",
            "Network": experiment.recipe.model.variant,
            "Epochs": experiment.recipe.trainer.epochs,
            "Settings other than the defaults": self._changed_settings(),
            "Data SHA-256": experiment.data.digest[:16],
        }

    def _changed_settings(self) -> str:
        """Returns the shared settings that differ from the defaults, except those with a fact of their own."""
        defaults, settings = dict(flatten_settings(Recipe().dump())), dict(flatten_settings(self.experiment.recipe.dump()))
        keys = settings.keys() - {"seed", "model.variant", "trainer.epochs", "init.parent"}  # a parent can be a private path
        return ", ".join(f"{key} {settings[key]}" for key in sorted(keys) if settings[key] != defaults.get(key)) or "none"

    def _split_description(self) -> str:
        if any(case.split for case in self.experiment.manifest.cases):
            return "all with the split in the data"
        return "each with its own split" if self.experiment.recipe.data.split_seed is None else "all with the same split"


def seen_in_training(result: TrialResult, groups: Sequence[str]) -> NDArray[np.bool_]:
    """Returns whether a case of the same group is in the training or validation split, for each test case of a trial.

    Args:
        result: The trial.
        groups: The group of each readable case: cases of one patient and near duplicates.
    """
    splits: dict[str, set[str]] = {}
    for group, split in zip(groups, result.trial.splits, strict=True):
        splits.setdefault(group, set()).add(split)
    rows = [i for i, split in enumerate(result.trial.splits) if split == "test"]
    return np.array([bool(splits[groups[row]] & {"train", "validation"}) for row in rows], np.bool_)


def trial_sample(predictions: TrialPredictions) -> TrialSample:
    """Returns predictions as input of the bootstrap."""

    def statistic(weights: Floats) -> dict[str, Floats]:
        metrics = predictions.metrics(weights)
        return {metric: metrics[metric] for metric in METRICS}

    return TrialSample(predictions.groups, statistic, predictions.effective_groups())


def difference_sentence(name: str, reference: str, metric: str, test: SeedEstimate) -> str:
    """Returns a difference in words: its value, its interval, and whether it is significant."""
    estimate = test.estimate
    subject = start_sentence(f"{name} compared with {reference}, {METRIC_NAMES.get(metric, metric)}")
    if estimate.estimate is None:
        return f"{subject}: no difference available ({estimate.method})."
    if estimate.ci_low is None or estimate.ci_high is None:
        return f"{subject}: {format_difference(estimate.estimate)} ({estimate.method}); not tested."
    p_value = test.p_holm if test.p_holm is not None else test.p_value
    verdict = "significant" if is_significant(test) else "not significant"
    p_text = "" if p_value is None else f", p {'< 0.001' if p_value < 0.001 else f'{p_value:.3f}'}"
    interval = f"{format_difference(estimate.ci_low)} to {format_difference(estimate.ci_high)}"
    return f"{subject}: {format_difference(estimate.estimate)} ({interval}{p_text}), {verdict}."


def is_significant(test: SeedEstimate) -> bool:
    """Returns whether a difference has an interval and p, corrected if available, below 0.05."""
    p_value = test.p_holm if test.p_holm is not None else test.p_value
    return test.estimate.ci_low is not None and p_value is not None and p_value < 0.05


def _with_interval(estimate: Estimate) -> str:
    values = (format_difference(value) for value in (estimate.estimate, estimate.ci_low, estimate.ci_high) if value is not None)
    return "{} ({} to {})".format(*values)


def none_if_nan(value: float | None) -> float | None:
    """Returns None for NaN, which JSON does not have."""
    return None if value is None or value != value else value


def _interval(test: SeedEstimate) -> dict[str, float | None]:
    return {"estimate": test.estimate.estimate, "ci_low": test.estimate.ci_low, "ci_high": test.estimate.ci_high}
