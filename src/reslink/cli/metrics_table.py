"""Printed metrics: a table with intervals, leakage warnings, and the summary of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import typer

from reslink.bundles.scope import refused_texts
from reslink.cli.console import Console
from reslink.errors import counted

_METRIC_HEADER: Final = ("metric", ">estimate", "95 % interval", ">n", "method")
HEADLINE_METRICS = ("accuracy", "sensitivity", "specificity", "ppv", "auroc")


def print_run_summary(console: Console, summary: dict[str, Any], json: bool) -> None:
    """Prints the summary of a run: one JSON object, or for people the metrics, the findings and the paths.

    Raises:
        typer.Exit: With code 1 if files could not be read.
    """
    for name, reason in summary["left_out"].items():
        console.warn(f"Warning: {name} is skipped: {reason}")
    warn_of_leakage(console, summary["leakage"])
    warn_of_refused(console, summary)
    if json:
        console.json(summary, indent=2)
    else:
        _print_for_people(console, summary)
    if summary["left_out"]:
        raise typer.Exit(1)


def _print_for_people(console: Console, summary: dict[str, Any]) -> None:
    from reslink.training.monitoring.diagnostics import FILES_LEFT_OUT

    print_metrics(console, summary["metrics"], HEADLINE_METRICS, f"{summary['n_test']} test images")
    print_labels(console, summary.get("by_label"))
    findings = [finding for finding in summary["findings"] if finding["code"] != FILES_LEFT_OUT]  # listed above
    if console.quiet:  # they were not printed during the training
        for finding in findings:
            console.warn(f"Warning: {finding['message']}. {finding['advice']}. ({finding['code']}, epoch {finding['epoch']})")
    elif findings:
        codes = ", ".join(f"{finding['code']} (epoch {finding['epoch']})" for finding in findings)
        console.warn(f"Warning: {counted(len(findings), 'finding')} of the diagnostics, explained in the report: {codes}.")
    for name in ("bundle", "report", "new_heads"):
        if summary.get(name):
            console.note(f"{name.replace('_', ' ')}: {summary[name]}")
    console.research_use_only()


def warn_of_leakage(console: Console, leakage: dict[str, Any] | None) -> None:
    """Prints a warning if evaluated images overlap with the training data."""
    if leakage and leakage["status"] != "none found":
        console.warn(f"Warning: {leakage['message']}.")


def warn_of_refused(console: Console, evaluation: Mapping[str, Any]) -> None:
    """Prints how many images are outside the scope of the model, by reason; with ``--verbose`` also which."""
    for text in refused_texts(evaluation):
        console.warn(f"Warning: {text}.")
    for name, reason in evaluation["refused"].items():
        console.detail(f"{name}: {reason}")


def print_metrics(console: Console, metrics: dict[str, Any], names: tuple[str, ...], title: str) -> None:
    """Prints a table of metrics with their 95 % intervals; an undefined metric shows the reason."""
    from reslink.metrics.classification import METRIC_NAMES

    rows = [metric_row(METRIC_NAMES[name], metrics[name]) for name in names if metrics.get(name) is not None]
    if rows:
        console.table(_METRIC_HEADER, rows, title=title)


def print_labels(console: Console, by_label: Mapping[str, Any] | None) -> None:
    """Prints the AUROC and average precision of each of several labels at once; nothing with one class per image.

    Args:
        console: The output.
        by_label: ``n_present``, ``n`` and the metrics ``auroc`` and ``auprc`` of each label.
    """
    if not by_label:
        return
    rows = []
    for name, label in by_label.items():
        auroc, auprc = (metric_row("", label[key]) for key in ("auroc", "auprc"))
        rows.append((name, f"{label['n_present']} of {label['n']}", auroc[1], auroc[2], auprc[1], auprc[2]))
    header = ("label", ">present", ">AUROC", "95 % interval", ">AUPRC", "95 % interval")
    console.table(header, rows, title="by label")


def print_subgroups(console: Console, subgroups: Mapping[str, Any]) -> None:
    """Prints one table for each subgroup column, with the numbers of :func:`print_answers` if the model can abstain.

    Args:
        console: The output.
        subgroups: As in ``evaluation.json``.
    """
    from reslink.evaluation.selective import named_answers

    for column, values in subgroups.items():
        rows = []
        for name, subgroup in values.items():
            estimates = [subgroup["metrics"]["accuracy"], subgroup["metrics"]["auroc"]]
            estimates += named_answers(subgroup["selective"]).values()
            rows.append((name, str(subgroup["n"]), *(metric_row("", estimate)[1] for estimate in estimates)))
        answers = [f">{name}" for name in named_answers(next(iter(values.values()))["selective"])]
        console.table((column, ">n", ">accuracy", ">AUROC", *answers), rows, title=f"by {column} (intervals in the report)")


def print_answers(console: Console, evaluation: Mapping[str, Any]) -> None:
    """Prints coverage, accuracy of the answered cases and silent errors over all cases; nothing if the model cannot abstain.

    Args:
        console: The output.
        evaluation: As in ``evaluation.json``; of several labels at once, the numbers of each label follow in a second table.
    """
    from reslink.evaluation.selective import ANSWER_NAMES, can_abstain, named_answers

    if can_abstain(evaluation):
        rows = [metric_row(name, estimate) for name, estimate in named_answers(evaluation["selective"]).items()]
        answered = counted(evaluation["selective"]["n_covered"], "image")
        console.table(_METRIC_HEADER, rows, title=f"abstention: {answered} answered")
    rows_of_labels = [
        (name, *(metric_row("", estimate)[1] for estimate in named_answers(entry["selective"]).values()))
        for name, entry in evaluation.get("by_label", {}).items()
        if can_abstain(entry)
    ]
    if rows_of_labels:
        console.table(("label", *(f">{name}" for name in ANSWER_NAMES.values())), rows_of_labels, title="abstention by label")


def labels_of(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the numbers of :func:`print_labels` from an evaluation; empty with one class per image."""
    metrics = evaluation.get("per_class", {})
    return {name: {**entry, **metrics[name]} for name, entry in evaluation.get("by_label", {}).items()}


def metric_row(title: str, metric: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Returns a table row: title, estimate, 95 % interval, n and method."""
    interval = "–" if metric["ci_low"] is None else f"{metric['ci_low']:.3f} to {metric['ci_high']:.3f}"
    value = "–" if metric["estimate"] is None else f"{metric['estimate']:.3f}"
    method = f"{metric['method']}; overlaps with the training data" if metric.get("leakage") else str(metric["method"])
    return (title, value, interval, str(metric["n"]), method)
