"""The charts of a study: intervals beside each other, and curves with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reslink.reports.svg import SERIES, Chart, colour, draw

WIDTH, ROW = 6.0, 0.44


def study_chart(chart: Mapping[str, Any]) -> Chart | None:
    """Draws one chart of ``study.json``.

    Args:
        chart: With ``kind``, ``name``, ``title``. ``intervals`` has ``axis`` (what is measured), ``reference`` (a number
            that a line marks, or null) and ``rows`` of ``label, estimate, ci_low, ci_high, points`` (one a seed).
            ``lines`` has ``axis_x, axis_y, log_x, reference``, ``limits`` (of the vertical axis, where given) and
            ``series`` of ``label, x, y, low, high`` (the last two lists of numbers or null).

    Returns:
        The chart; None where nothing in it has a value.
    """
    draws = {"intervals": _intervals, "lines": _lines}
    return draws[chart["kind"]](chart)


def _intervals(chart: Mapping[str, Any]) -> Chart | None:
    rows = [row for row in chart["rows"] if row["estimate"] is not None]
    if not rows:
        return None
    figure, axes = _axes(1.1 + ROW * len(rows))
    for i, row in enumerate(rows):
        if row["ci_low"] is not None:
            axes.plot([row["ci_low"], row["ci_high"]], [i, i], color=SERIES[0], lw=2.2, solid_capstyle="round")
        axes.plot(row.get("points") or [], [i + 0.24] * len(row.get("points") or []), "|", color=colour("soft"), ms=7, mew=1.4)
        axes.plot([row["estimate"]], [i], "o", color=SERIES[0], ms=7)
    if chart.get("reference") is not None:
        axes.axvline(chart["reference"], color=colour("soft"), lw=1.2, ls=(0, (4, 3)), zorder=1)
    axes.set_yticks(range(len(rows)), [_plain(row["label"]) for row in rows], color=colour("ink"))
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.set_xlabel(_plain(chart["axis"]), color=colour("soft"), size=11)
    axes.grid(axis="y", visible=False)
    figure.subplots_adjust(0.41, 0.62 / (1.1 + ROW * len(rows)), 0.97, 0.98)
    spoken = "; ".join(_spoken(row) for row in rows)
    return draw(figure, chart["name"], chart["title"], f"{chart['title']}: {spoken}.")


def _lines(chart: Mapping[str, Any]) -> Chart | None:
    series = [one for one in chart["series"] if any(y is not None for y in one["y"])]
    if not series:
        return None
    figure, axes = _axes(4.0)
    for one, line in zip(series, SERIES * (1 + len(series) // len(SERIES)), strict=False):
        _line(axes, one, line)
    if all(float(x).is_integer() for one in series for x in one["x"]):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if chart.get("log_x"):
        axes.set_xscale("log")
        ticks = sorted({x for one in series for x in one["x"]})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    if chart.get("reference") is not None:
        axes.axhline(chart["reference"], color=colour("soft"), lw=1.2, ls=(0, (4, 3)), zorder=1)
    if chart.get("limits"):
        axes.set_ylim(*chart["limits"])
    axes.set_xlabel(_plain(chart["axis_x"]), color=colour("soft"), size=11)
    axes.set_ylabel(_plain(chart["axis_y"]), color=colour("soft"), size=11)
    figure.subplots_adjust(0.14, 0.14, 0.985, 0.97)
    if len(series) > 1:
        axes.legend(loc="best", frameon=False, labelcolor=colour("ink"), fontsize=10, handlelength=1.6).set_zorder(5)
    spoken = "; ".join(f"{one['label']}: {_points(one)}" for one in series)
    return draw(figure, chart["name"], chart["title"], f"{chart['title']}: {spoken}.")


def _line(axes: Axes, one: Mapping[str, Any], line: str) -> None:
    points = [(x, y) for x, y in zip(one["x"], one["y"], strict=True) if y is not None]
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=line, lw=2, marker="o", ms=5 if len(x) < 25 else 0, label=_plain(one["label"]))
    low, high = one.get("low"), one.get("high")
    if low and high:
        known = [(a, b, c) for a, b, c in zip(one["x"], low, high, strict=True) if b is not None and c is not None]
        if known:
            x, below, above = zip(*known, strict=True)
            axes.fill_between(x, below, above, color=line, alpha=0.16, lw=0)


def _points(one: Mapping[str, Any]) -> str:
    return ", ".join(f"{y:.3f} at {x:g}" for x, y in zip(one["x"], one["y"], strict=True) if y is not None)


def _spoken(row: Mapping[str, Any]) -> str:
    if row["ci_low"] is None:
        return f"{row['label']} {row['estimate']:.3f}"
    return f"{row['label']} {row['estimate']:.3f} ({row['ci_low']:.3f} to {row['ci_high']:.3f})"


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height))
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.grid(color=colour("grid"), lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=colour("soft"), length=0, labelsize=10)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure, axes


def _plain(text: str) -> str:
    """Text that matplotlib takes literally: no formula."""
    return (text if len(text) <= 48 else text[:47] + "…").replace("$", r"\$")


def charts_of(study: Mapping[str, Any]) -> Sequence[Chart]:
    """Returns the charts of a study that have something to show."""
    return [drawn for chart in study.get("charts", ()) if (drawn := study_chart(chart)) is not None]
