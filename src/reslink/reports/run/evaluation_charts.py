"""Charts of an evaluation beyond ROC: decision curve, risk–coverage curve, and figures of parts side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reslink.metrics.selective import area_under_risk_coverage, risk_coverage
from reslink.reports.svg import SERIES, Chart, colour, draw

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Curve = Mapping[str, Any]


def decision_curve(found: Mapping[str, Curve]) -> Chart | None:
    """Draws net benefit over the threshold, with the lines of treating all and none.

    Args:
        found: ``decision_curve`` of ``evaluation.json``: ``prevalence`` and ``points`` by class name.

    Returns:
        The chart; with more than one class the lines of treating all are left out. None where there is no curve.
    """
    if not found:
        return None
    figure, axes = _axes("threshold probability", "net benefit")
    axes.axhline(0, color=colour("soft"), lw=1.2, ls=(0, (4, 3)), label="treat none")
    spoken = []
    for (name, curve), line in zip(found.items(), SERIES, strict=False):
        points = curve["points"]
        x = [point["threshold"] for point in points]
        axes.plot(x, [point["net_benefit"] for point in points], color=line, lw=2, label=_plain(name))
        low, high = ([_number(point[end]) for point in points] for end in ("ci_low", "ci_high"))
        axes.fill_between(x, low, high, color=line, alpha=0.15, lw=0)
        spoken.append(f"{name} {points[len(points) // 2]['net_benefit']:.3f} at {x[len(points) // 2]:.2f}")
        if len(found) == 1:
            axes.plot(x, [point["treat_all"] for point in points], color=colour("ink"), lw=1.2, label="treat all")
    top = max(float(curve["prevalence"]) for curve in found.values())
    axes.set_ylim(-0.15 * top - 0.01, 1.12 * top + 0.01)
    axes.set_xlim(0, 1)
    _legend(axes)
    return draw(figure, "decision_curve", "Decision curve", f"Net benefit: {'; '.join(spoken)}.")


def selective_risk(y_true: Ints, y_prob: Floats, y_pred: Ints) -> Chart | None:
    """Draws the share of errors among the surest cases over the share of cases answered.

    Args:
        y_true: (n,) class indices.
        y_prob: (n, K) probabilities.
        y_pred: (n,) predicted class indices.
    """
    if not len(y_true):
        return None
    wrong, sureness = y_pred != y_true, y_prob[np.arange(len(y_pred)), y_pred]
    curve, area = risk_coverage(wrong, sureness), area_under_risk_coverage(wrong, sureness)
    figure, axes = _axes("share of cases answered, the surest first", "share of errors among them")
    axes.plot(curve.coverage, curve.risk, color=SERIES[0], lw=2, drawstyle="steps-post", label=f"AURC {area:.4f}")
    axes.axhline(float(wrong.mean()), color=colour("soft"), lw=1.2, ls=(0, (4, 3)), label="all cases")
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, max(0.02, 1.15 * float(curve.risk.max())))
    _legend(axes)
    spoken = "; ".join(f"{curve.at(share):.3f} at {share:.0%}" for share in (0.5, 0.8, 0.9, 1.0))
    return draw(figure, "risk_coverage", "Risk–coverage", f"Errors among the cases answered: {spoken}; AURC {area:.4f}.")


def forest(
    rows: Sequence[tuple[str, Mapping[str, Any]]], name: str, title: str, axis: str, at: float | None = None
) -> Chart | None:
    """Draws estimates with their intervals below each other.

    Args:
        rows: What a row is called, and its estimate as in ``evaluation.json``.
        name: Short name of the chart.
        title: What stands above it.
        axis: What stands at the horizontal axis.
        at: Where a line of reference stands, such as 0 for differences.

    Returns:
        The chart, or None where no row has an estimate.
    """
    known = [(label, found) for label, found in rows if found.get("estimate") is not None]
    if not known:
        return None
    figure = Figure(figsize=(5.2, 0.9 + 0.34 * len(known)))
    axes = _style(figure, axis, "", left=0.36)
    inches = 0.9 + 0.34 * len(known)
    figure.subplots_adjust(0.36, 0.6 / inches, 0.97, 1 - 0.1 / inches)
    for i, (_, found) in enumerate(known):
        if found["ci_low"] is not None:
            axes.plot([found["ci_low"], found["ci_high"]], [i, i], color=SERIES[0], lw=2.4, alpha=0.6, solid_capstyle="butt")
        axes.plot([found["estimate"]], [i], "o", ms=6, color=SERIES[0])
    if at is not None:
        axes.axvline(at, color=colour("soft"), lw=1.2, ls=(0, (4, 3)))
    axes.set_yticks(range(len(known)), [_plain(label, 26) for label, _ in known])
    axes.tick_params(axis="y", colors=colour("ink"))
    axes.set_ylim(len(known) - 0.5, -0.5)
    spoken = "; ".join(f"{label} {found['estimate']:.3f}" for label, found in known)
    return draw(figure, name, title, f"{title}: {spoken}.")


def _axes(axis_x: str, axis_y: str) -> Any:
    figure = Figure(figsize=(5.2, 4.4))
    return figure, _style(figure, axis_x, axis_y, left=0.17)  # room for ticks of three decimals


def _style(figure: Figure, axis_x: str, axis_y: str, left: float = 0.135) -> Any:
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    figure.subplots_adjust(left, 0.13, 0.97, 0.97)
    axes.patch.set_alpha(0)
    axes.grid(color=colour("grid"), lw=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(axis_x, color=colour("soft"), size=11)
    axes.set_ylabel(axis_y, color=colour("soft"), size=11)
    axes.tick_params(colors=colour("soft"), length=0, labelsize=10)
    for side in axes.spines.values():
        side.set_visible(False)
    return axes


def _legend(axes: Any) -> None:
    axes.legend(loc="best", frameon=False, labelcolor=colour("ink"), fontsize=10, handlelength=1.6)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _plain(text: str, most: int = 48) -> str:
    """Text that matplotlib takes literally."""
    short = text if len(text) <= most else text[: most - 1] + "…"
    return (" " + short if short.startswith("_") else short).replace("$", r"\$")
