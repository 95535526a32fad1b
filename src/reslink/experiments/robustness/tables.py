"""What the robustness study says: sentences, tables and a curve for each corruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reslink.datasets.corruptions import SEVERITIES
from reslink.datasets.corruptions import known as corruption
from reslink.experiments.report import Row, Study, Table
from reslink.experiments.robustness.metrics import Curves
from reslink.metrics.classification import NAMES
from reslink.metrics.intervals import Estimate

FIGURES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc", "ece")
DROPS = ("accuracy", "auroc")
MIDDLE = 3
NO_FINGERPRINTS = "Near copies of training images cannot be told, as this bundle holds no fingerprints of them."
FLAG = 0.1
"""A drop of more than ten points at the middle severity is named in the answer."""


def report(
    curves: Curves,
    data: str,
    bundle_sha: str | None,
    failed: Mapping[str, str],
    left_out: Sequence[Mapping[str, str]],
    known: bool,
) -> Study:
    """Returns the study.

    Args:
        curves: The figures.
        data: Name of the data set.
        bundle_sha: SHA-256 of the weights.
        failed: Why a case was not judged, by its name.
        left_out: The cases that the network learned from.
        known: Whether the bundle keeps fingerprints of the images it learned from.
    """
    return Study(
        name="robustness",
        title=f"Robustness on {data}",
        question="How far do the figures fall when noise, movement, compression or another setting spoils the image?",
        answer=_answer(curves),
        facts=_facts(curves, data, bundle_sha, len(failed), len(left_out)),
        tables=[_overview(curves), _figures(curves), _left_out(left_out)],
        charts=[_chart(curves, kind) for kind in _kinds(curves)],
        runs=[_flat(curves, *condition) for condition in curves.conditions],
        failed=[{"run": name, "reason": reason} for name, reason in failed.items()],
        not_done=[*_not_done(curves), *([] if known else [NO_FINGERPRINTS])],
    )


def _kinds(curves: Curves) -> list[str]:
    return list(dict.fromkeys(kind for kind, _ in curves.conditions))


def _facts(curves: Curves, data: str, bundle_sha: str | None, failed: int, left_out: int) -> dict[str, Any]:
    positive = curves.labels.positive
    return {
        "Data": data,
        "Classes": ", ".join(curves.labels.names) + (f" (positive: {positive})" if positive else ""),
        "Images": f"{curves.n}" + (f", {failed} failed" if failed else ""),
        "Left out: learned from": left_out,
        "Patients or twin groups": curves.n_groups,
        "Corruptions": f"{len(_kinds(curves))}, each at {len(SEVERITIES)} severities",
        "Acts on": "the original image, before preprocessing",
        "Weights SHA-256": (bundle_sha or "")[:16],
    }


def _answer(curves: Curves) -> list[str]:
    sentences = [
        f"As they are, the images give an accuracy of {_told(curves.plain['accuracy'])}; over all corruptions and "
        f"severities it is {_told(curves.mean_accuracy)}."
    ]
    drops = {kind: curves.conditions[kind, MIDDLE][1]["accuracy"] for kind in _kinds(curves)}
    known_drops = {kind: drop.estimate for kind, drop in drops.items() if drop.estimate is not None}
    for kind in sorted(known_drops, key=lambda name: -known_drops[name]):
        if known_drops[kind] > FLAG + 1e-9:
            sentences.append(f"{corruption(kind).title} at severity {MIDDLE} costs {_points(drops[kind])}.")
    if len(sentences) == 1:
        sentences.append(f"No corruption at severity {MIDDLE} costs more than {100 * FLAG:.0f} points of accuracy.")
    return sentences


def _told(estimate: Estimate) -> str:
    if estimate.estimate is None:
        return f"nothing that can be given ({estimate.method})"
    if estimate.ci_low is None or estimate.ci_high is None:
        return f"{estimate.estimate:.3f} ({estimate.method})"
    return f"{estimate.estimate:.3f} ({estimate.ci_low:.3f} to {estimate.ci_high:.3f})"


def _points(drop: Estimate) -> str:
    if drop.estimate is None:
        return "nothing that can be given"
    spread = "" if drop.ci_low is None or drop.ci_high is None else f" ({100 * drop.ci_low:.1f} to {100 * drop.ci_high:.1f})"
    return f"{100 * drop.estimate:.1f} points of accuracy{spread}"


def _overview(curves: Curves) -> Table:
    columns: dict[str, tuple[str, Any]] = {"title": ("Corruption", "text"), "meaning": ("What the levels are", "text")}
    columns |= {f"severity_{s}": (f"severity {s}", "number") for s in SEVERITIES}
    columns |= {"drop": (f"drop at {MIDDLE}", "test"), "largest_drop": (f"drop at {SEVERITIES[-1]}", "test")}
    rows = []
    for kind in _kinds(curves):
        row: Row = {"kind": kind, "title": corruption(kind).title, "meaning": f"{corruption(kind).meaning}: {_levels(kind)}"}
        row |= {f"severity_{s}": curves.conditions[kind, s][0]["accuracy"].estimate for s in SEVERITIES}
        row["drop"] = curves.conditions[kind, MIDDLE][1]["accuracy"].as_dict()
        row["largest_drop"] = curves.conditions[kind, SEVERITIES[-1]][1]["accuracy"].as_dict()
        rows.append(row)
    note = (
        f"Accuracy as the images are: {_told(curves.plain['accuracy'])}. Drop: accuracy as they are less that of the "
        "corrupted copies, on the same images; 95 % interval over patients or twin groups."
    )
    return Table("overview", "Accuracy by corruption", columns, rows, note)


def _levels(kind: str) -> str:
    return ", ".join(f"{level:g}" for level in corruption(kind).levels)


def _figures(curves: Curves) -> Table:
    columns: dict[str, tuple[str, Any]] = {"title": ("Corruption", "text"), "severity": ("severity", "count")}
    columns |= {name: (NAMES[name], "estimate") for name in FIGURES}
    columns |= {f"drop_{name}": (f"{NAMES[name]}, drop", "test") for name in DROPS}
    columns |= {} if curves.abstained is None else {"abstained": ("abstained", "percent")}
    first: Row = {"kind": None, "title": "As they are", "severity": 0, "level": None}
    first |= {name: curves.plain[name].as_dict() for name in FIGURES} | {f"drop_{name}": None for name in DROPS}
    first["abstained"] = None if curves.abstained is None else curves.abstained["", 0]
    return Table("figures", "All figures", columns, [first, *(_row(curves, *one) for one in curves.conditions)])


def _row(curves: Curves, kind: str, severity: int) -> Row:
    metrics, drop = curves.conditions[kind, severity]
    row: Row = {
        "kind": kind,
        "title": corruption(kind).title,
        "severity": severity,
        "level": corruption(kind).levels[severity - 1],
    }
    row |= {name: metrics[name].as_dict() for name in FIGURES}
    abstained = None if curves.abstained is None else curves.abstained[kind, severity]
    return row | {f"drop_{name}": drop[name].as_dict() for name in DROPS} | {"abstained": abstained}


def _flat(curves: Curves, kind: str, severity: int) -> Row:
    row = _row(curves, kind, severity)
    flat: Row = {key: row[key] for key in ("kind", "severity", "level", "abstained")}
    for name in (*FIGURES, *(f"drop_{drop}" for drop in DROPS)):
        flat |= {name: row[name]["estimate"], f"{name}_low": row[name]["ci_low"], f"{name}_high": row[name]["ci_high"]}
    return flat


def by_reason(left_out: Sequence[Mapping[str, str]]) -> list[Row]:
    """Returns a row for each reason: ``reason``, ``n`` (images) and ``first`` (some of their paths)."""
    found: dict[str, list[str]] = {}
    for one in left_out:
        found.setdefault(one["reason"], []).append(one["path"])
    return [{"reason": reason, "n": len(paths), "first": ", ".join(paths[:3])} for reason, paths in found.items()]


def _left_out(left_out: Sequence[Mapping[str, str]]) -> Table:
    columns: dict[str, tuple[str, Any]] = {"reason": ("Why", "text"), "n": ("images", "count"), "first": ("The first", "text")}
    return Table("excluded", "Left out", columns, by_reason(left_out))


def _chart(curves: Curves, kind: str) -> dict[str, Any]:
    return {
        "kind": "lines",
        "name": kind,
        "title": f"{corruption(kind).title}: {corruption(kind).meaning}",
        "axis_x": f"severity ({_levels(kind)})",
        "axis_y": "accuracy, AUROC",
        "reference": None,
        "limits": _limits(curves),
        "series": [_series(curves, kind, name) for name in DROPS],
    }


def _limits(curves: Curves) -> list[float]:
    """The same vertical axis for all charts."""
    found = [figures[name] for figures, _ in curves.conditions.values() for name in DROPS]
    lowest = [value for one in found for value in (one.estimate, one.ci_low) if value is not None]
    return [max(0.0, min([*lowest, 0.5]) - 0.03), 1.02]


def _series(curves: Curves, kind: str, name: str) -> dict[str, Any]:
    points = [curves.plain[name], *(curves.conditions[kind, severity][0][name] for severity in SEVERITIES)]
    return {
        "label": NAMES[name],
        "x": [0, *SEVERITIES],
        "y": [point.estimate for point in points],
        "low": [point.ci_low for point in points],
        "high": [point.ci_high for point in points],
    }


def _not_done(curves: Curves) -> list[str]:
    """Says which figures of the images as they are have no value or no interval, and why."""
    return [
        f"{NAMES[name]}: {estimate.method}."
        for name, estimate in curves.plain.items()
        if name in FIGURES and (estimate.estimate is None or estimate.ci_low is None)
    ]
