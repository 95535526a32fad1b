"""Charts of an experiment: rows of estimates with intervals, and lines with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from reslink.reports.experiment.search_charts import draw_bars, draw_parallel, draw_points
from reslink.reports.svg import DASHED, SERIES, Chart, add_legend, color, literal, new_axes, render_chart

WIDTH, ROW_HEIGHT = 6.0, 0.44


def draw_charts(experiment: Mapping[str, Any]) -> Sequence[Chart]:
    """Returns the charts of an experiment; charts without values are skipped."""
    return [drawn for chart in experiment.get("charts", ()) if (drawn := draw_chart(chart)) is not None]


def draw_chart(chart: Mapping[str, Any]) -> Chart | None:
    """Draws one chart of ``experiment.json``.

    Args:
        chart: With ``kind``, ``name``, ``title``. ``intervals`` has ``axis`` (the metric), ``reference`` (position of a
            reference line, or null) and ``rows`` of ``label, estimate, ci_low, ci_high, points`` (one per seed).
            ``lines`` has ``axis_x, axis_y, log_x, reference``, ``limits`` (of the vertical axis, optional) and
            ``series`` of ``label, x, y, low, high`` (the last two lists of numbers or null). The kinds ``points``, ``bars``
            and ``parallel`` are those of a search, see :mod:`reslink.reports.experiment.search_charts`.

    Returns:
        The chart, or None if it has no values.
    """
    draw_functions = {
        "intervals": _draw_intervals,
        "lines": _draw_lines,
        "points": draw_points,
        "bars": draw_bars,
        "parallel": draw_parallel,
    }
    return draw_functions[chart["kind"]](chart)


def _draw_intervals(chart: Mapping[str, Any]) -> Chart | None:
    rows = [row for row in chart["rows"] if row["estimate"] is not None]
    if not rows:
        return None
    height = 1.1 + ROW_HEIGHT * len(rows)
    figure, axes = new_axes(WIDTH, height, chart["axis"])
    for i, row in enumerate(rows):
        if row["ci_low"] is not None:
            axes.plot([row["ci_low"], row["ci_high"]], [i, i], color=SERIES[0], lw=2.2, solid_capstyle="round")
        points = row.get("points") or []
        axes.plot(points, [i + 0.24] * len(points), "|", color=color("soft"), ms=7, mew=1.4)
        axes.plot([row["estimate"]], [i], "o", color=SERIES[0], ms=7)
    if chart.get("reference") is not None:
        axes.axvline(chart["reference"], color=color("soft"), lw=1.2, ls=DASHED, zorder=1)
    axes.set_yticks(range(len(rows)), [literal(row["label"]) for row in rows], color=color("ink"))
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.grid(axis="y", visible=False)
    figure.subplots_adjust(0.41, 0.62 / height, 0.97, 0.98)
    description = "; ".join(_describe_row(row) for row in rows)
    return render_chart(figure, chart["name"], chart["title"], f"{chart['title']}: {description}.")


def _draw_lines(chart: Mapping[str, Any]) -> Chart | None:
    all_series = [series for series in chart["series"] if any(y is not None for y in series["y"])]
    if not all_series:
        return None
    figure, axes = new_axes(WIDTH, 4.0, chart["axis_x"], chart["axis_y"])
    for series, line_color in zip(all_series, SERIES * (1 + len(all_series) // len(SERIES)), strict=False):
        _draw_line(axes, series, line_color)
    if all(float(x).is_integer() for series in all_series for x in series["x"]):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    if chart.get("log_x"):
        axes.set_xscale("log")
        ticks = sorted({x for series in all_series for x in series["x"]})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    if chart.get("reference") is not None:
        axes.axhline(chart["reference"], color=color("soft"), lw=1.2, ls=DASHED, zorder=1)
    if chart.get("limits"):
        axes.set_ylim(*chart["limits"])
    figure.subplots_adjust(0.14, 0.14, 0.985, 0.97)
    if len(all_series) > 1:
        add_legend(figure)
    description = "; ".join(f"{series['label']}: {_describe_points(series)}" for series in all_series)
    return render_chart(figure, chart["name"], chart["title"], f"{chart['title']}: {description}.")


def _draw_line(axes: Axes, series: Mapping[str, Any], line_color: str) -> None:
    points = [(x, y) for x, y in zip(series["x"], series["y"], strict=True) if y is not None]
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=line_color, lw=2, marker="o", ms=5 if len(x) < 25 else 0, label=literal(series["label"]))
    low, high = series.get("low"), series.get("high")
    if low and high:
        bounds = [(a, b, c) for a, b, c in zip(series["x"], low, high, strict=True) if b is not None and c is not None]
        if bounds:
            x, below, above = zip(*bounds, strict=True)
            axes.fill_between(x, below, above, color=line_color, alpha=0.16, lw=0)


def _describe_points(series: Mapping[str, Any]) -> str:
    return ", ".join(f"{y:.3f} at {x:g}" for x, y in zip(series["x"], series["y"], strict=True) if y is not None)


def _describe_row(row: Mapping[str, Any]) -> str:
    if row["ci_low"] is None:
        return f"{row['label']} {row['estimate']:.3f}"
    return f"{row['label']} {row['estimate']:.3f} ({row['ci_low']:.3f} to {row['ci_high']:.3f})"
