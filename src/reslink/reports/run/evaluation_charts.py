"""Charts of an evaluation besides ROC and calibration: decision curve, risk–coverage curve, forest plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reslink.metrics.selective import area_under_risk_coverage, risk_coverage_curve
from reslink.reports.svg import DASHED, SERIES, Chart, add_legend, color, literal, new_axes, render_chart

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Curve = Mapping[str, Any]

_MAX_ROW_LABEL = 30
_LABEL_CHARACTER = 0.0165  # width of a character of a row label, as a share of the figure


def decision_curve(curves: Mapping[str, Curve]) -> Chart | None:
    """Draws the net benefit over the threshold, with the lines of treating all and none.

    Args:
        curves: ``decision_curve`` of ``evaluation.json``: ``prevalence`` and ``points`` by class name.

    Returns:
        The chart, or None without a curve. The line of treating all is only drawn for a single class.
    """
    if not curves:
        return None
    figure, axes = _new_axes("threshold probability", "net benefit")
    axes.axhline(0, color=color("soft"), lw=1.2, ls=DASHED, label="treat none")
    descriptions = []
    for (name, curve), line_color in zip(curves.items(), cycle(SERIES), strict=False):
        points = curve["points"]
        x = [point["threshold"] for point in points]
        axes.plot(x, [point["net_benefit"] for point in points], color=line_color, lw=2, label=literal(name))
        low, high = ([_or_nan(point[end]) for point in points] for end in ("ci_low", "ci_high"))
        axes.fill_between(x, low, high, color=line_color, alpha=0.15, lw=0)
        middle = points[len(points) // 2]
        descriptions.append(f"{name} {middle['net_benefit']:.3f} at {middle['threshold']:.2f}")
        if len(curves) == 1:
            axes.plot(x, [point["treat_all"] for point in points], color=color("ink"), lw=1.2, label="treat all")
    top = max(float(curve["prevalence"]) for curve in curves.values())
    axes.set_ylim(-0.15 * top - 0.01, 1.12 * top + 0.01)
    axes.set_xlim(0, 1)
    add_legend(figure)
    return render_chart(figure, "decision_curve", "Decision curve", f"Net benefit: {'; '.join(descriptions)}.")


def risk_coverage(y_true: Ints, y_prob: Floats, y_pred: Ints) -> Chart | None:
    """Draws the error rate of the most confident cases over the coverage (their share of all cases).

    Args:
        y_true: (n,) class indices.
        y_prob: (n, K) probabilities.
        y_pred: (n,) predicted class indices.
    """
    if not len(y_true):
        return None
    wrong, confidence = y_pred != y_true, y_prob[np.arange(len(y_pred)), y_pred]
    curve, area = risk_coverage_curve(wrong, confidence), area_under_risk_coverage(wrong, confidence)
    figure, axes = _new_axes("coverage (most confident cases first)", "error rate of the covered cases")
    axes.plot(curve.coverage, curve.risk, color=SERIES[0], lw=2, drawstyle="steps-post", label=f"AURC {area:.4f}")
    axes.axhline(float(wrong.mean()), color=color("soft"), lw=1.2, ls=DASHED, label="all cases")
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, max(0.02, 1.15 * float(curve.risk.max())))
    add_legend(figure)
    description = "; ".join(f"{curve.at(share):.3f} at {share:.0%}" for share in (0.5, 0.8, 0.9, 1.0))
    alt = f"Error rate by coverage: {description}; AURC {area:.4f}."
    return render_chart(figure, "risk_coverage", "Risk–coverage curve", alt)


def forest_plot(
    rows: Sequence[tuple[str, Mapping[str, Any]]], name: str, title: str, x_label: str, reference: float | None = None
) -> Chart | None:
    """Draws estimates with their intervals, one per row.

    Args:
        rows: The label of each row and its estimate, as in ``evaluation.json``.
        name: Short name of the chart.
        title: The caption.
        x_label: Label of the horizontal axis.
        reference: Position of a reference line, such as 0 for differences.

    Returns:
        The chart, or None if no row has an estimate.
    """
    defined = [(label, estimate) for label, estimate in rows if estimate.get("estimate") is not None]
    if not defined:
        return None
    height = 0.9 + 0.34 * len(defined)
    figure, axes = new_axes(5.2, height, x_label)
    labels = [literal(label, _MAX_ROW_LABEL) for label, _ in defined]
    left = max(0.36, 0.03 + _LABEL_CHARACTER * max(map(len, labels)))
    figure.subplots_adjust(left, 0.6 / height, 0.97, 1 - 0.1 / height)
    for i, (_, estimate) in enumerate(defined):
        if estimate["ci_low"] is not None:
            ends = [estimate["ci_low"], estimate["ci_high"]]
            axes.plot(ends, [i, i], color=SERIES[0], lw=2.4, alpha=0.6, solid_capstyle="butt")
        axes.plot([estimate["estimate"]], [i], "o", ms=6, color=SERIES[0])
    if reference is not None:
        axes.axvline(reference, color=color("soft"), lw=1.2, ls=DASHED)
    axes.set_yticks(range(len(defined)), labels)
    axes.tick_params(axis="y", colors=color("ink"))
    axes.set_ylim(len(defined) - 0.5, -0.5)
    description = "; ".join(f"{label} {estimate['estimate']:.3f}" for label, estimate in defined)
    return render_chart(figure, name, title, f"{title}: {description}.")


def _new_axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure, axes = new_axes(5.2, 4.4, x_label, y_label)
    figure.subplots_adjust(0.17, 0.13, 0.97, 0.97)  # left: space for ticks with three decimals
    return figure, axes


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)
