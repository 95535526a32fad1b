"""The learning curves of several runs: a chart per quantity, and one color and dash pattern per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from matplotlib.ticker import MaxNLocator

from reslink.reports.svg import COLORS, Chart, new_axes, render_chart

QUANTITIES: Final = {
    "train_loss": ("Training loss", "training loss"),
    "val_loss": ("Validation loss", "validation loss"),
    "val_auroc": ("Validation AUROC", "validation AUROC"),
}
"""Title and axis label of each chart by the column of ``results.csv``."""

_COLORS: Final = ("s1", "s2", "s3", "s4", "s5", "s6")
_DASHES: Final = ((), (3.0, 1.5))
_STYLES: Final = [(color, dash) for dash, color in product(_DASHES, _COLORS)]
_LINE_WIDTH: Final = 2.0
MAX_CURVES: Final = len(_STYLES)
"""More runs cannot be told apart by color and dash pattern."""


@dataclass(frozen=True)
class Curve:
    """The epochs of one run.

    Attributes:
        label: The name of the run.
        rows: One per epoch, with ``epoch`` and numbers.
        best_epoch: The exported epoch, marked by a dot; None if there is none yet.
        color: Name of its color on the page.
        dash: Lengths of dashes and gaps in line widths; empty for a solid line.
    """

    label: str
    rows: Sequence[Mapping[str, Any]]
    best_epoch: int | None
    color: str
    dash: tuple[float, ...]

    def points(self, key: str) -> list[tuple[int, float]]:
        """Returns epoch and value of each epoch with a finite value."""
        pairs = ((row["epoch"], row.get(key)) for row in self.rows)
        return [(int(epoch), float(value)) for epoch, value in pairs if isinstance(value, int | float) and np.isfinite(value)]


def style_curves(runs: Sequence[tuple[str, Sequence[Mapping[str, Any]], int | None]]) -> list[Curve]:
    """Gives each run a color and a dash pattern of its own.

    Args:
        runs: Name, epochs and exported epoch of each run, at most ``MAX_CURVES``.
    """
    return [Curve(*run, color=color, dash=dash) for run, (color, dash) in zip(runs, _STYLES, strict=False)]


def curve_chart(curves: Sequence[Curve], key: str) -> Chart | None:
    """Draws one quantity of all runs over the epochs; None if no run has a value.

    Args:
        curves: The runs.
        key: A key of ``QUANTITIES``.
    """
    lines = [(curve, points) for curve in curves if (points := curve.points(key))]
    if not lines:
        return None
    title, axis = QUANTITIES[key]
    figure, axes = new_axes(5.2, 3.4, "epoch", axis)
    for curve, points in lines:
        line_color, pattern = COLORS[curve.color][0], (0, curve.dash) if curve.dash else "-"
        axes.plot(*zip(*points, strict=True), color=line_color, lw=_LINE_WIDTH, ls=pattern)
        best = [point for point in points if point[0] == curve.best_epoch]
        axes.plot([x for x, _ in best], [y for _, y in best], "o", color=line_color, ms=6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    figure.subplots_adjust(0.185, 0.155, 0.98, 0.97)
    description = "; ".join(
        f"{curve.label} from {points[0][1]:.3f} to {points[-1][1]:.3f} in {len(points)} epochs" for curve, points in lines
    )
    return render_chart(figure, f"runs_{key}", title, f"{title}: {description}.")
