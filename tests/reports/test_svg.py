"""Charts inside a page: safe, in its colors, equal for equal figures."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from reslink.reports.svg import SERIES, Chart, add_legend, literal, new_axes, render_chart


def make_chart(name: str = "loss") -> Chart:
    figure, axes = new_axes(4, 3, "$epoch", "loss")
    axes.plot([1, 2], [0.5, 0.25], color=SERIES[0], label=literal("_hidden"))
    add_legend(figure)
    return render_chart(figure, name, "Loss", "Loss: from 0.5 to 0.25.")


def test_the_global_settings_of_matplotlib_are_unchanged():
    before = dict(mpl.rcParams)
    make_chart().inline()
    assert dict(mpl.rcParams) == before


def test_colors_come_from_the_page_or_are_fixed_in_a_file():
    chart = make_chart()
    assert "var(--s1)" in chart.inline()
    assert "#0b65c2" in chart.standalone()
    for text in (chart.inline(), chart.standalone()):
        assert "#0a0b" not in text
    assert "xmlns" not in chart.inline()
    assert chart.inline() == make_chart().inline()


@pytest.mark.parametrize("names", [["a"], ["a", "b"], [f"class {i} with a long name" for i in range(8)]])
def test_a_legend_is_below_the_plot_and_its_axis(names):
    figure, axes = new_axes(4, 3, "epoch", "loss")
    figure.subplots_adjust(0.14, 0.16, 0.98, 0.97)
    for name in names:
        axes.plot([0, 1], [0, 1], label=name)
    before = axes.get_window_extent().height
    add_legend(figure)
    figure.draw_without_rendering()
    legend = figure.legends[-1].get_window_extent()
    assert legend.y1 <= axes.xaxis.label.get_window_extent().y0
    assert (legend.x1, legend.y0) <= (figure.bbox.x1, figure.bbox.y0 + 1)
    assert axes.get_window_extent().height == pytest.approx(before), "the plot keeps its size"
    assert len(figure.legends) == 1


def test_the_element_is_accessible_and_refers_only_to_itself():
    text = make_chart().inline()
    root = ElementTree.fromstring(text)
    assert (root.tag, root.get("role"), root.get("aria-label")) == ("svg", "img", "Loss: from 0.5 to 0.25.")
    assert "http" not in text
    ids = {element.get("id") for element in root.iter()} - {None}
    assert all(name.startswith("loss-") for name in ids)
    assert {name for pair in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text) for name in pair if name} <= ids
    other = {element.get("id") for element in ElementTree.fromstring(make_chart("auroc").inline()).iter()} - {None}
    assert not ids & other, "two charts on a page"


def test_labels_are_printed_literally():
    labels = ["".join(element.itertext()) for element in ElementTree.fromstring(make_chart().inline()).iter("text")]
    assert {"$epoch", " _hidden"} <= set(labels)
    assert literal("abcdef", 4) == "abc…"
