"""Learning curves of several runs."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from reslink.reports.runs import curves as module
from reslink.reports.runs.curves import MAX_CURVES, curve_chart, style_curves

ROWS = [{"epoch": e, "train_loss": 1 / e, "val_loss": None, "val_auroc": float("nan")} for e in (1, 2)]


def test_every_run_has_a_style_of_its_own() -> None:
    curves = style_curves([(str(i), ROWS, None) for i in range(MAX_CURVES)])
    assert len({(curve.color, curve.dash) for curve in curves}) == MAX_CURVES


def test_colors_do_not_shift_where_a_run_has_no_value() -> None:
    curves = style_curves([("a", ROWS, 1), ("b", [{"epoch": 1, "val_loss": 0.5}], 1)])
    chart = curve_chart(curves, "val_loss")
    assert chart is not None
    assert "var(--s2)" in chart.inline()
    assert "var(--s1)" not in chart.inline()
    assert curve_chart(curves, "val_auroc") is None


def test_the_axis_label_has_space_beside_values_with_five_decimals(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(module, "render_chart", lambda figure, *_: figures.append(figure))
    rows = [{"epoch": e, "val_loss": 0.6922 + e / 5000} for e in (1, 2)]
    curve_chart(style_curves([("a", rows, 1)]), "val_loss")
    [figure] = figures
    figure.draw_without_rendering()
    [axes] = figure.axes
    assert max(len(tick.get_text()) for tick in axes.get_yticklabels()) >= len("0.69225")
    assert axes.yaxis.label.get_window_extent().x0 >= 0
