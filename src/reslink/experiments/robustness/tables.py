"""The report of the robustness experiment: conclusions, tables and a chart for each corruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reslink.bundles.bundle import Bundle
from reslink.datasets.corruptions import SEVERITIES, get_corruption
from reslink.experiments.report import ExperimentReport, Row, Table
from reslink.experiments.robustness.metrics import ORIGINAL, RobustnessMetrics
from reslink.metrics.classification import METRIC_NAMES
from reslink.metrics.intervals import Estimate

METRICS = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc", "ece")
DROPS = ("accuracy", "auroc")
MIDDLE_SEVERITY = 3
NO_FINGERPRINTS = (
    "Near duplicates of training images: the bundle lacks the fingerprints of its training images or those of an ancestor."
)
LARGE_DROP = 0.1
"""The answer lists each corruption whose drop at the middle severity is larger than ten points."""


def make_report(
    metrics: RobustnessMetrics,
    data: str,
    bundle: Bundle,
    failed: Mapping[str, str],
    excluded: Sequence[Mapping[str, str]],
) -> ExperimentReport:
    """Returns the report.

    Args:
        metrics: The metrics.
        data: Name of the data set.
        bundle: The bundle.
        failed: The reason of each failure by case name.
        excluded: The cases that are in the training data or near duplicates of it.
    """
    return ExperimentReport(
        name="robustness",
        title=f"Robustness on {data}",
        question="How much do the metrics drop under noise, motion, compression or other settings?",
        answer=_answer(metrics),
        facts=_facts(metrics, data, bundle, len(failed), len(excluded)),
        tables=[_overview(metrics), _metrics_table(metrics), _excluded_table(excluded)],
        charts=[_chart(metrics, kind) for kind in _kinds(metrics)],
        runs=[_flat_row(metrics, *level) for level in metrics.corrupted],
        failed=[{"run": name, "reason": reason} for name, reason in failed.items()],
        not_done=[*_undefined_metrics(metrics), *([] if bundle.knows_seen_images else [NO_FINGERPRINTS])],
    )


def _kinds(metrics: RobustnessMetrics) -> list[str]:
    return list(dict.fromkeys(kind for kind, _ in metrics.corrupted))


def _facts(metrics: RobustnessMetrics, data: str, bundle: Bundle, n_failed: int, n_excluded: int) -> dict[str, Any]:
    positive = metrics.labels.positive
    return {
        "Data": data,
        "Classes": ", ".join(metrics.labels.names) + (f" (positive: {positive})" if positive else ""),
        "Images": f"{metrics.n}" + (f", {n_failed} failed" if n_failed else ""),
        "Excluded training images and near duplicates": n_excluded,
        "Patients or duplicate groups": metrics.n_groups,
        "Corruptions": f"{len(_kinds(metrics))}, each at {len(SEVERITIES)} severities",
        "Applied to": "the original image, before preprocessing",
        "Weights SHA-256": (bundle.weights_sha256 or "")[:16],
    }


def _answer(metrics: RobustnessMetrics) -> list[str]:
    sentences = [
        f"The accuracy is {_describe(metrics.original['accuracy'])} on the original images and "
        f"{_describe(metrics.mean_accuracy)} over all corruptions and severities."
    ]
    drops = {kind: metrics.corrupted[kind, MIDDLE_SEVERITY][1]["accuracy"] for kind in _kinds(metrics)}
    defined_drops = {kind: drop.estimate for kind, drop in drops.items() if drop.estimate is not None}
    for kind in sorted(defined_drops, key=lambda name: -defined_drops[name]):
        if defined_drops[kind] > LARGE_DROP + 1e-9:
            title = get_corruption(kind).title
            sentences.append(f"{title} at severity {MIDDLE_SEVERITY} reduces accuracy by {_points(drops[kind])}.")
    if len(sentences) == 1:
        points = f"{100 * LARGE_DROP:.0f} points"
        sentences.append(f"No corruption at severity {MIDDLE_SEVERITY} reduces accuracy by more than {points}.")
    return sentences


def _describe(estimate: Estimate) -> str:
    if estimate.estimate is None:
        return f"not available ({estimate.method})"
    if estimate.ci_low is None or estimate.ci_high is None:
        return f"{estimate.estimate:.3f} ({estimate.method})"
    return f"{estimate.estimate:.3f} ({estimate.ci_low:.3f} to {estimate.ci_high:.3f})"


def _points(drop: Estimate) -> str:
    if drop.estimate is None:
        return "an unknown amount"
    interval = "" if drop.ci_low is None or drop.ci_high is None else f" ({100 * drop.ci_low:.1f} to {100 * drop.ci_high:.1f})"
    return f"{100 * drop.estimate:.1f} points{interval}"


def _overview(metrics: RobustnessMetrics) -> Table:
    columns: dict[str, tuple[str, Any]] = {"title": ("Corruption", "text"), "meaning": ("Levels", "text")}
    columns |= {f"severity_{severity}": (f"severity {severity}", "number") for severity in SEVERITIES}
    columns |= {"drop": (f"drop at {MIDDLE_SEVERITY}", "test"), "largest_drop": (f"drop at {SEVERITIES[-1]}", "test")}
    rows = []
    for kind in _kinds(metrics):
        corruption = get_corruption(kind)
        row: Row = {"kind": kind, "title": corruption.title, "meaning": f"{corruption.meaning}: {_levels(kind)}"}
        row |= {f"severity_{severity}": metrics.corrupted[kind, severity][0]["accuracy"].estimate for severity in SEVERITIES}
        row["drop"] = metrics.corrupted[kind, MIDDLE_SEVERITY][1]["accuracy"].as_dict()
        row["largest_drop"] = metrics.corrupted[kind, SEVERITIES[-1]][1]["accuracy"].as_dict()
        rows.append(row)
    note = (
        f"Accuracy on the original images: {_describe(metrics.original['accuracy'])}. Drop: accuracy on the original images "
        "minus that on the corrupted ones, on the same cases; 95 % interval over patients or duplicate groups."
    )
    return Table("overview", "Accuracy by corruption", columns, rows, note)


def _levels(kind: str) -> str:
    return ", ".join(f"{level:g}" for level in get_corruption(kind).levels)


def _metrics_table(metrics: RobustnessMetrics) -> Table:
    columns: dict[str, tuple[str, Any]] = {"title": ("Corruption", "text"), "severity": ("severity", "count")}
    columns |= {name: (METRIC_NAMES[name], "estimate") for name in METRICS}
    columns |= {f"drop_{name}": (f"{METRIC_NAMES[name]}, drop", "test") for name in DROPS}
    columns |= {} if metrics.abstained is None else {"abstained": ("abstained", "percent")}
    original: Row = {"kind": None, "title": "Original images", "severity": 0, "level": None}
    original |= {name: metrics.original[name].as_dict() for name in METRICS} | {f"drop_{name}": None for name in DROPS}
    original["abstained"] = None if metrics.abstained is None else metrics.abstained[ORIGINAL]
    return Table("metrics", "All metrics", columns, [original, *(_row(metrics, *level) for level in metrics.corrupted)])


def _row(metrics: RobustnessMetrics, kind: str, severity: int) -> Row:
    estimates, drops = metrics.corrupted[kind, severity]
    corruption = get_corruption(kind)
    row: Row = {"kind": kind, "title": corruption.title, "severity": severity, "level": corruption.levels[severity - 1]}
    row |= {name: estimates[name].as_dict() for name in METRICS}
    abstained = None if metrics.abstained is None else metrics.abstained[kind, severity]
    return row | {f"drop_{name}": drops[name].as_dict() for name in DROPS} | {"abstained": abstained}


def _flat_row(metrics: RobustnessMetrics, kind: str, severity: int) -> Row:
    row = _row(metrics, kind, severity)
    flat: Row = {key: row[key] for key in ("kind", "severity", "level", "abstained")}
    for name in (*METRICS, *(f"drop_{metric}" for metric in DROPS)):
        flat |= {name: row[name]["estimate"], f"{name}_ci_low": row[name]["ci_low"], f"{name}_ci_high": row[name]["ci_high"]}
    return flat


def count_by_reason(excluded: Sequence[Mapping[str, str]]) -> list[Row]:
    """Returns a row for each reason: ``reason``, ``n`` (images) and ``examples`` (some of their paths)."""
    paths_by_reason: dict[str, list[str]] = {}
    for case in excluded:
        paths_by_reason.setdefault(case["reason"], []).append(case["path"])
    return [{"reason": reason, "n": len(paths), "examples": ", ".join(paths[:3])} for reason, paths in paths_by_reason.items()]


def _excluded_table(excluded: Sequence[Mapping[str, str]]) -> Table:
    columns: dict[str, tuple[str, Any]] = {
        "reason": ("Reason", "text"),
        "n": ("images", "count"),
        "examples": ("Examples", "text"),
    }
    return Table("excluded", "Excluded images", columns, count_by_reason(excluded))


def _chart(metrics: RobustnessMetrics, kind: str) -> dict[str, Any]:
    corruption = get_corruption(kind)
    return {
        "kind": "lines",
        "name": kind,
        "title": f"{corruption.title}: {corruption.meaning}",
        "axis_x": f"severity ({_levels(kind)})",
        "axis_y": "accuracy, AUROC",
        "reference": None,
        "limits": _axis_limits(metrics),
        "series": [_series(metrics, kind, name) for name in DROPS],
    }


def _axis_limits(metrics: RobustnessMetrics) -> list[float]:
    """Returns the limits of the vertical axis, the same for all charts."""
    charted = [estimates[name] for estimates, _ in metrics.corrupted.values() for name in DROPS]
    values = [value for estimate in charted for value in (estimate.estimate, estimate.ci_low) if value is not None]
    return [max(0.0, min([*values, 0.5]) - 0.03), 1.02]


def _series(metrics: RobustnessMetrics, kind: str, name: str) -> dict[str, Any]:
    points = [metrics.original[name], *(metrics.corrupted[kind, severity][0][name] for severity in SEVERITIES)]
    return {
        "label": METRIC_NAMES[name],
        "x": [0, *SEVERITIES],
        "y": [point.estimate for point in points],
        "low": [point.ci_low for point in points],
        "high": [point.ci_high for point in points],
    }


def _undefined_metrics(metrics: RobustnessMetrics) -> list[str]:
    """Returns which metrics of the original images have no value or no interval, with the reason."""
    return [
        f"{METRIC_NAMES[name]}: {estimate.method}."
        for name, estimate in metrics.original.items()
        if name in METRICS and (estimate.estimate is None or estimate.ci_low is None)
    ]
