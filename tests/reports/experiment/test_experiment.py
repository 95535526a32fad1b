"""The report of an experiment: complete, escaped, self-contained, with a reason for each missing number."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from reslink.errors import InputError
from reslink.reports.experiment import search_charts
from reslink.reports.experiment.charts import draw_chart
from reslink.reports.experiment.page import experiment_report, p_value_note
from reslink.reports.formatting import format_difference
from reslink.reports.svg import Chart

ESTIMATE = {"estimate": 0.9, "ci_low": 0.8, "ci_high": 0.95, "method": "exact", "n": 20}
TESTED = ESTIMATE | {"estimate": -0.05, "ci_low": -0.1, "ci_high": 0.0, "p_value": 0.01, "p_holm": 0.02}
MISSING = {"estimate": None, "ci_low": None, "ci_high": None, "method": "undefined: one class", "n": 3}


def experiment() -> dict[str, Any]:
    columns = [
        {"key": "title", "title": "", "kind": "text"},
        {"key": "accuracy", "title": "accuracy", "kind": "estimate"},
        {"key": "difference", "title": "difference", "kind": "test"},
        {"key": "share", "title": "share", "kind": "percent"},
    ]
    rows = [
        {"title": "<b>full</b>", "accuracy": ESTIMATE, "difference": None, "share": 0.25},
        {"title": "none", "accuracy": MISSING, "difference": TESTED, "share": None},
    ]
    interval = {"label": "none", "estimate": -0.05, "ci_low": -0.1, "ci_high": 0.0, "points": [-0.04, -0.06]}
    chart = {"kind": "intervals", "name": "d", "title": "Difference", "axis": "difference", "reference": 0, "rows": [interval]}
    return {
        "experiment": "ablation",
        "title": "Ablation",
        "question": "What is it worth?",
        "answer": ["Little <script>alert(1)</script>."],
        "facts": {"Data": "toy"},
        "tables": [{"name": "metrics", "title": "Metrics", "columns": columns, "rows": rows, "note": "A note."}],
        "charts": [chart],
        "runs": [],
        "failed": [{"run": "none, seed 1", "reason": "memory ran out"}],
        "not_done": ["No masks."],
        "research_use_only": True,
    }


def page(folder: Path, value: dict[str, Any]) -> str:
    (folder / "experiment.json").write_text(json.dumps(value))
    return experiment_report(folder).read_text()


def test_the_page_is_complete(tmp_path: Path) -> None:
    text = page(tmp_path, experiment())
    for words in (
        "Research use only",
        "0.800 to 0.950",
        "−0.050",
        "−0.100 to +0.000",
        "p = 0.020",
        "25.0&nbsp;%",
        "memory ran out",
        "No masks.",
    ):
        assert words in text
    assert 'title="undefined: one class"' in text
    assert (tmp_path / "figures" / "d.svg").exists()


def test_the_page_has_no_script_and_no_request(tmp_path: Path) -> None:
    text = page(tmp_path, experiment())
    assert "<script" not in text
    assert "<b>full</b>" not in text
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text)


def test_a_missing_answer_is_stated(tmp_path: Path) -> None:
    text = page(tmp_path, experiment() | {"answer": [], "charts": [], "tables": []})
    assert "There is no answer" in text


def test_a_folder_without_an_experiment_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"experiment\.json"):
        experiment_report(tmp_path)


def test_lines_skip_missing_values() -> None:
    series = [{"label": "accuracy", "x": [5, 10], "y": [0.5, None], "low": [0.4, None], "high": [0.6, None]}]
    chart = {"kind": "lines", "name": "c", "title": "Curve", "axis_x": "x", "axis_y": "y", "log_x": True, "series": series}
    drawn = draw_chart(chart)
    assert drawn is not None
    assert drawn.alt == "Curve: accuracy: 0.500 at 5."
    assert draw_chart(chart | {"series": [series[0] | {"y": [None, None]}]}) is None


def test_signs_and_p_values() -> None:
    assert (format_difference(-0.05), format_difference(0.0), format_difference(None)) == ("−0.050", "+0.000", "–")
    assert p_value_note({"p_value": 0.2, "p_holm": 0.0004}) == "p < 0.001"
    assert p_value_note({"p_value": 0.2, "p_holm": None}) == "p = 0.200"
    assert p_value_note({"p_value": None}) == ""


class TestSearchCharts:
    """The charts of a search: points, bars and parallel coordinates."""

    def test_points_and_steps(self) -> None:
        chart = {"kind": "points", "name": "history", "title": "History", "axis_x": "trial", "axis_y": "AUROC", "whole_x": True}
        series = [{"label": "complete", "points": [[0, 0.7], [2, 0.9]]}, {"label": "stopped early", "points": [[1, 0.5]]}]
        steps = {"label": "highest so far", "points": [[0, 0.7], [2, 0.9]]}
        drawn = draw_chart(chart | {"series": series, "steps": steps})
        assert drawn is not None
        assert drawn.alt == "History: complete: 0.700 at 0, 0.900 at 2; stopped early: 0.500 at 1."
        assert "highest so far" in drawn.svg
        assert draw_chart(chart | {"series": [], "steps": steps}) is None

    def test_bars(self) -> None:
        chart = {"kind": "bars", "name": "importance", "title": "Importance", "axis": "share"}
        drawn = draw_chart(chart | {"rows": [{"label": "optimizer.lr", "value": 0.8}, {"label": "a.b", "value": 0.2}]})
        assert drawn is not None
        assert drawn.alt == "Importance: optimizer.lr 0.80; a.b 0.20."
        assert draw_chart(chart | {"rows": []}) is None

    def test_values_on_axes_are_readable_above_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        figures: list[Figure] = []
        render = search_charts.render_chart

        def keep(figure: Figure, *words: str) -> Chart:
            figures.append(figure)
            return render(figure, *words)

        monkeypatch.setattr(search_charts, "render_chart", keep)
        axes = [{"label": f"section.key_{i}", "choices": [0.0, 0.05, 0.1]} for i in range(11)]
        chart = {
            "kind": "parallel",
            "name": "p",
            "title": "P",
            "axes": axes,
            "lines": [{"values": [0.05] * 11, "group": "best"}],
        }
        drawn = draw_chart(chart)
        assert drawn is not None
        assert drawn.wide
        [figure] = figures
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
        assert len(boxes) == 33
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert all(text.get_zorder() > line.get_zorder() for text in figure.axes[0].texts for line in figure.axes[0].lines)
        assert max(box.x1 for box in boxes) <= figure.bbox.x1

    def test_parallel_coordinates(self) -> None:
        axes = [
            {"label": "optimizer.lr", "low": 0.001, "high": 0.1, "log": True},
            {"label": "optimizer.name", "choices": ["adamw", None, "$sgd"]},
            {"label": "AUROC", "low": 0.5, "high": 0.5},
        ]
        lines = [{"values": [0.01, "$sgd", 0.5], "group": "best"}, {"values": [None, None, 0.5], "group": "other"}]
        chart = {"kind": "parallel", "name": "parallel", "title": "Settings", "axes": axes, "lines": lines}
        drawn = draw_chart(chart)
        assert drawn is not None
        assert drawn.alt == "Settings: 2 trials; the best has optimizer.lr 0.01, optimizer.name $sgd, AUROC 0.5."
        assert search_charts._position(axes[0], 0.01) == pytest.approx(0.5)
        assert search_charts._position(axes[1], "$sgd") == 1.0
        assert search_charts._position(axes[2], 0.5) == 0.5
        assert draw_chart(chart | {"lines": []}) is None


def test_a_key_in_a_heading_may_break_and_is_escaped(tmp_path: Path) -> None:
    value = experiment()
    value["tables"][0]["columns"][3] |= {"title": "a<b.c_d"}
    assert "a&lt;b.<wbr>c_<wbr>d</th>" in page(tmp_path, value)


def test_an_explanation_shared_by_many_cells_is_written_once(tmp_path: Path) -> None:
    few = {"estimate": 0.7, "ci_low": None, "ci_high": None, "n": 9}
    value = experiment()
    value["tables"][0]["rows"] = [
        {"title": f"fold {n}", "accuracy": few | {"method": f"no interval: only {n} groups; too narrow"}} for n in (3, 4)
    ]
    text = re.sub(r'title="[^"]*"', "", page(tmp_path, value))
    assert text.count("no interval: only 3 groups<") == text.count("no interval: only 4 groups<") == 1
    assert text.count("Too narrow.") == text.lower().count("too narrow") == 1
