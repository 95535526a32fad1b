"""The tables, charts and sentences of a cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.case import MAX_SOURCES
from reslink.errors import counted
from reslink.experiments.cross_validation.folds import OutOfFold
from reslink.experiments.report import Row, Table
from reslink.experiments.runner.comparison import difference_sentence
from reslink.experiments.runner.results import TrialPredictions, TrialResult
from reslink.experiments.runner.seed_statistics import SeedBootstrap, TrialSample
from reslink.labels import Labels
from reslink.metrics.classification import METRIC_NAMES, classification_metrics, never_predicted
from reslink.metrics.intervals import Estimate
from reslink.reports.formatting import start_sentence

METRICS = ("accuracy", "auroc", "sensitivity", "specificity", "brier", "ece")
HEADLINE = ("accuracy", "auroc", "ece")
SINGLE, ENSEMBLE, DISTILLED = "single", "ensemble", "distilled"
TITLES = {
    SINGLE: "a single network (mean over the folds)",
    ENSEMBLE: "the calibrated ensemble",
    DISTILLED: "the distilled network",
}

Answers: TypeAlias = Mapping[str, Sequence[TrialPredictions]]
"""Predictions for the hold-out by model: one of each single network, one of each other model."""


def _columns(metrics: Sequence[str] = METRICS) -> dict[str, tuple[str, Any]]:
    return {metric: (METRIC_NAMES[metric], "estimate") for metric in metrics}


def out_of_fold_table(pooled: OutOfFold, seeds: Sequence[int], labels: Labels, threshold: float | str) -> Table:
    """Returns the table of the pooled out-of-fold metrics: the answers averaged over seeds, and those of each seed."""
    averaged = {f"mean of {counted(len(seeds), 'seed')}": pooled} if len(seeds) > 1 else {}
    parts = averaged | {f"seed {seed}": pooled.of_seed(i) for i, seed in enumerate(seeds)}
    rows = [{"title": title} | _estimates(part, labels, threshold) for title, part in parts.items()]
    note = (
        f"{counted(len(pooled.rows), 'image')} in {counted(len(set(pooled.groups)), 'group')} (patients, with near duplicates "
        "joined), each answered by the network of its fold, which was not trained on it. 95 % intervals over groups. The "
        "network of a fold is trained on fewer images than the data has, so the metrics are rather too low than too high."
    )
    return Table("out-of-fold", "Out-of-fold metrics", {"title": ("", "text"), **_columns()}, rows, note)


def sources_table(pooled: OutOfFold, sources: Sequence[str], labels: Labels, threshold: float | str) -> Table | None:
    """Returns the table of the pooled out-of-fold metrics of each source; None with fewer than two sources, or very many.

    Args:
        pooled: The predictions of n cases.
        sources: The source of each of them; '' if it is not stated.
        labels: The classes.
        threshold: The setting ``decision.threshold``.
    """
    names = sorted(set(sources) - {""})
    if not 1 < len(names) <= MAX_SOURCES:
        return None
    rows: list[Row] = []
    for name in names:
        part = pooled.subset(np.flatnonzero(np.array(sources) == name))
        counts: Row = {"title": name, "images": len(part.rows), "groups": len(set(part.groups))}
        rows.append(counts | _estimates(part, labels, threshold))
    columns: dict[str, tuple[str, Any]] = {"title": ("", "text"), "images": ("images", "count"), "groups": ("groups", "count")}
    note = "The networks were also trained on images of the same source."
    return Table("sources", "Out-of-fold metrics of each source", columns | _columns(), rows, note)


def _estimates(pooled: OutOfFold, labels: Labels, threshold: float | str) -> Row:
    predicted = pooled.predicted(threshold)
    metrics, _ = classification_metrics(pooled.y_true, pooled.mean, predicted, pooled.groups, labels.names)
    return {metric: metrics[metric].as_dict() for metric in METRICS}


def folds_table(results: Sequence[TrialResult]) -> Table:
    """Returns the table of the metrics of each run, with the range over folds and seeds in its note."""
    rows = []
    for result in results:
        if result.failure is not None:
            continue
        own, names = result.predictions, result.labels.names
        metrics, _ = classification_metrics(own.y_true, own.y_prob, own.y_pred, own.groups, names)
        row: Row = {"title": result.trial.name, "images": len(own.names), "groups": len(set(own.groups))}
        rows.append(row | {"epoch": result.best_epoch} | {metric: metrics[metric].as_dict() for metric in METRICS})
    columns: dict[str, tuple[str, Any]] = {"title": ("", "text"), "images": ("images", "count"), "groups": ("groups", "count")}
    columns |= {"epoch": ("best epoch", "count"), **_columns()}
    return Table("folds", "Metrics of each fold", columns, rows, " ".join(spread(rows)))


def spread(rows: Sequence[Row]) -> list[str]:
    """Returns the range and the standard deviation of accuracy and AUROC over the runs, in sentences."""
    sentences = []
    for metric in ("accuracy", "auroc"):
        values = [row[metric]["estimate"] for row in rows if row[metric]["estimate"] is not None]
        if len(values) > 1:
            sentences.append(
                f"{start_sentence(METRIC_NAMES[metric])} of the runs: {min(values):.3f} to {max(values):.3f}, "
                f"standard deviation {np.std(values, ddof=1):.3f}."
            )
    return sentences


def fold_chart(table: Table, pooled: Row) -> dict[str, Any]:
    """Returns the chart of the AUROC of each fold beside that of all folds."""
    rows = [{"label": "all folds", **_interval(pooled["auroc"])}]
    rows += [{"label": row["title"], **_interval(row["auroc"])} for row in table.rows]
    return {
        "kind": "intervals",
        "name": "folds",
        "title": "AUROC of each fold, with 95 % interval",
        "axis": "AUROC",
        "reference": pooled["auroc"]["estimate"],
        "rows": rows,
    }


def _interval(estimate: Mapping[str, Any]) -> dict[str, Any]:
    return {key: estimate[key] for key in ("estimate", "ci_low", "ci_high")}


def hold_out_bootstrap(answers: Answers) -> SeedBootstrap:
    """Returns the bootstrap of the hold-out; a model with one prediction is compared with each single network."""
    count = len(answers[SINGLE])
    samples = {model: [hold_out_sample(own) for own in predictions] for model, predictions in answers.items()}
    return SeedBootstrap({(model, i): own[i % len(own)] for model, own in samples.items() for i in range(count)})


def hold_out_sample(predictions: TrialPredictions) -> TrialSample:
    """Returns predictions as input of the bootstrap, with Brier score and ECE."""

    def statistic(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        metrics = predictions.metrics(weights)
        return {metric: metrics[metric] for metric in METRICS}

    return TrialSample(predictions.groups, statistic, predictions.effective_groups())


def hold_out_table(answers: Answers, networks: Mapping[str, int]) -> tuple[Table, list[str]]:
    """Returns the table of the models on the hold-out, and in sentences their metrics and differences to a single network.

    Args:
        answers: The predictions.
        networks: Number of networks that each model runs.
    """
    bootstrap, rows = hold_out_bootstrap(answers), []
    first = answers[SINGLE][0]
    size = f"{counted(len(first.names), 'image')} in {counted(len(set(first.groups)), 'group')}"
    columns: dict[str, tuple[str, Any]] = {"title": ("", "text"), "networks": ("networks", "count"), **_columns()}
    columns |= {f"{metric}_difference": (f"{METRIC_NAMES[metric]}, difference", "test") for metric in HEADLINE}
    sentences = []
    for model in answers:
        row: Row = {"title": TITLES[model], "networks": networks[model]}
        row |= {metric: bootstrap.mean(model, metric).estimate.as_dict() for metric in METRICS}
        for metric in HEADLINE:
            test = None if model == SINGLE else bootstrap.difference(model, SINGLE, metric)
            row[f"{metric}_difference"] = None if test is None else test.as_dict()
            if test is not None:
                sentences.append(difference_sentence(f"On the hold-out, {TITLES[model]}", "a single network", metric, test))
        rows.append(row)
    sentences[:0] = [f"On the hold-out, {size}, {row['title']}: {_values(row, HEADLINE[:2])}." for row in rows]
    note = (
        f"{size} (patients, with near duplicates joined) that are in no fold. Difference: to a single network, the mean over "
        "the networks of the folds. The 95 % intervals hold for other patients and for other networks of the folds."
    )
    return Table("hold-out", "Models on the hold-out", columns, rows, note), sentences


def headline(row: Row, n: int, groups: int) -> str:
    """Returns accuracy and AUROC of the pooled predictions, in a sentence."""
    return f"Out of fold, {counted(n, 'image')} in {counted(groups, 'group')}: {_values(row, HEADLINE)}."


def never_predicted_sentences(answers: Answers, labels: Labels) -> list[str]:
    """Returns the classes of the hold-out that the ensemble, or the distilled network, never predicts, in sentences."""
    sentences = []
    for model in (ENSEMBLE, DISTILLED):
        for own in answers.get(model, ()):
            counts = never_predicted(own.y_true, own.y_pred, labels.names)
            missing = ", ".join(f"{name} ({n} of {counted(len(own.y_true), 'image')})" for name, n in counts.items())
            if missing:
                hint = "" if not labels.binary else ", or let the folds choose its threshold (--set decision.threshold=youden)"
                sentences.append(
                    f"On the hold-out, {TITLES[model]} never predicts {missing}: its sensitivity for it is 0. Train for more "
                    f"epochs (--epochs){hint}."
                )
    return sentences


def _values(row: Row, metrics: Sequence[str]) -> str:
    return ", ".join(f"{METRIC_NAMES[metric]} {_text(row[metric])}" for metric in metrics)


def _text(values: Mapping[str, Any]) -> str:
    estimate = Estimate(**{key: values[key] for key in ("estimate", "ci_low", "ci_high", "method", "n")})
    if estimate.estimate is None:
        return f"undefined ({estimate.method})"
    if estimate.ci_low is None or estimate.ci_high is None:
        return f"{estimate.estimate:.3f} ({estimate.method})"
    return f"{estimate.estimate:.3f} ({estimate.ci_low:.3f} to {estimate.ci_high:.3f})"
