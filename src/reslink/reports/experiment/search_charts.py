"""The charts of a search: trials as points, bars of importance, and parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy

from reslink.reports.svg import SERIES, Chart, add_legend, color, literal, new_axes, render_chart

WIDTH = 6.0
PAGE_WIDTH = 11.0
"""Width in inches of a chart that is as wide as the page."""
_MARKERS: Final = ("o", "x", "D")
_LINES: Final = {"other": ("soft", 0.45, 1.0), "tied": ("s1", 0.8, 1.6), "best": ("s2", 1.0, 3.0)}
"""Color, opacity and width of the line of a trial, in the order of drawing."""


def draw_points(chart: Mapping[str, Any]) -> Chart | None:
    """Draws points in groups, and optionally a step line.

    Args:
        chart: With ``name, title, axis_x, axis_y``, ``series`` of ``label`` and ``points`` (pairs), and optionally ``steps``
            (``label`` and ``points``) and ``whole_x``.

    Returns:
        The chart, or None without a point.
    """
    if not any(series["points"] for series in chart["series"]):
        return None
    figure, axes = new_axes(WIDTH, 4.0, chart["axis_x"], chart["axis_y"])
    steps = chart.get("steps")
    if steps and steps["points"]:
        x, y = zip(*steps["points"], strict=True)
        axes.plot(x, y, color=color("soft"), lw=1.4, drawstyle="steps-post", label=literal(steps["label"]))
    for series, line_color, marker in zip(chart["series"], SERIES, _MARKERS, strict=False):
        x, y = zip(*series["points"], strict=True)
        axes.plot(x, y, marker, color=line_color, ms=7, mew=1.6, label=literal(series["label"]))
    if chart.get("whole_x"):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    figure.subplots_adjust(0.14, 0.14, 0.985, 0.97)
    add_legend(figure)
    described = "; ".join(
        f"{series['label']}: {', '.join(f'{y:.3f} at {x:g}' for x, y in series['points'])}" for series in chart["series"]
    )
    return render_chart(figure, chart["name"], chart["title"], f"{chart['title']}: {described}.")


def draw_bars(chart: Mapping[str, Any]) -> Chart | None:
    """Draws horizontal bars.

    Args:
        chart: With ``name, title, axis`` and ``rows`` of ``label, value``.

    Returns:
        The chart, or None without a row.
    """
    rows = chart["rows"]
    if not rows:
        return None
    height = 1.0 + 0.34 * len(rows)
    figure, axes = new_axes(WIDTH, height, chart["axis"])
    axes.barh(range(len(rows)), [row["value"] for row in rows], 0.62, color=SERIES[0])
    axes.set_yticks(range(len(rows)), [literal(row["label"]) for row in rows], color=color("ink"))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    figure.subplots_adjust(0.36, 0.62 / height, 0.97, 0.98)
    described = "; ".join(f"{row['label']} {row['value']:.2f}" for row in rows)
    return render_chart(figure, chart["name"], chart["title"], f"{chart['title']}: {described}.")


def draw_parallel(chart: Mapping[str, Any]) -> Chart | None:
    """Draws parallel coordinates: a vertical axis per setting, and a line per trial.

    Args:
        chart: With ``name, title``, ``axes`` of ``label`` and either ``choices`` or ``low, high, log``, and ``lines`` of
            ``values`` (one per axis) and ``group`` (``other``, ``tied`` or ``best``).

    Returns:
        The chart, or None without a line.
    """
    columns, lines = chart["axes"], chart["lines"]
    if not lines:
        return None
    figure, axes = new_axes(max(PAGE_WIDTH, 1.25 * len(columns)), 4.4)
    axes.grid(visible=False)
    for group, (name, alpha, width) in _LINES.items():
        label: str | None = {"tied": "tied with the highest"}.get(group, group)
        for line in lines:
            if line["group"] == group:
                y = [_position(column, value) for column, value in zip(columns, line["values"], strict=True)]
                axes.plot(range(len(columns)), y, color=color(name), alpha=alpha, lw=width, label=label)
                label = None
    behind = {"facecolor": color("paper"), "edgecolor": "none", "alpha": 0.85, "pad": 1.2}  # lines of trials cross the values
    for i, column in enumerate(columns):
        axes.axvline(i, color=color("grid"), lw=1.2, zorder=0)
        for position, text in _ticks(column):
            offset = offset_copy(axes.transData, figure, x=5, units="points")
            short = literal(text, 14)
            axes.text(i, position, short, color=color("ink"), size=9.5, va="center", transform=offset, bbox=behind, zorder=4)
    names = [literal(column["label"].replace(".", ".\n")) for column in columns]
    axes.set_xticks(range(len(columns)), names, color=color("ink"), size=10)
    axes.set_yticks([])
    axes.set_xlim(-0.45, len(columns) - 0.4)
    axes.set_ylim(-0.06, 1.2)
    figure.subplots_adjust(0.01, 0.15, 0.99, 0.98)
    legend = axes.legend(loc="upper left", ncols=3, frameon=False, labelcolor=color("ink"), fontsize=10, handlelength=1.6)
    legend.set_zorder(5)
    best = next((line for line in lines if line["group"] == "best"), lines[0])
    described = ", ".join(f"{column['label']} {_text(value)}" for column, value in zip(columns, best["values"], strict=True))
    alt = f"{chart['title']}: {len(lines)} trials; the best has {described}."
    return replace(render_chart(figure, chart["name"], chart["title"], alt), wide=True)


def _position(column: Mapping[str, Any], value: Any) -> float:
    """Returns the height of a value on its axis, 0 to 1; NaN, which leaves a gap, for no value."""
    if "choices" in column:
        last = len(column["choices"]) - 1
        return column["choices"].index(value) / last if last else 0.5
    if value is None:
        return math.nan
    low, high = float(column["low"]), float(column["high"])
    if column.get("log"):
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low) if high > low else 0.5


def _ticks(column: Mapping[str, Any]) -> Sequence[tuple[float, str]]:
    values = column["choices"] if "choices" in column else dict.fromkeys([column["low"], column["high"]])
    return [(_position(column, value), _text(value)) for value in values]


def _text(value: Any) -> str:
    return "none" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
