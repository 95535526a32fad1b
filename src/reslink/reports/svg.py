"""Charts inside a page: matplotlib's SVG, cleaned, in the colors of the page."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS: Final[dict[str, tuple[str, str]]] = {
    "ink": ("#0a0b01", "#1b1f24"),
    "soft": ("#0a0b02", "#59636e"),
    "grid": ("#0a0b03", "#d8dee4"),
    "s1": ("#0a0b04", "#0b65c2"),
    "s2": ("#0a0b05", "#c2410c"),
    "s3": ("#0a0b06", "#0f766e"),
    "s4": ("#0a0b07", "#7c3aed"),
    "s5": ("#0a0b08", "#a16207"),
    "s6": ("#0a0b09", "#be185d"),
    "paper": ("#0a0b0a", "#ffffff"),
}
"""The colors of the page by name: the placeholder that charts are drawn with, and the value in a standalone SVG."""

_LEGEND_STYLE: Final[dict[str, Any]] = {
    "labelcolor": COLORS["ink"][0],
    "fontsize": 10,
    "handlelength": 1.6,
    "frameon": False,
    "borderaxespad": 0,
    "borderpad": 0.3,
}
SERIES: Final = tuple(COLORS[f"s{i}"][0] for i in range(1, 7))
DASHED: Final = (0, (4, 3))
_SVG: Final = "{http://www.w3.org/2000/svg}"
_MAX_LABEL: Final = 48
_LEGEND_COLUMNS: Final = 3


def color(name: str) -> str:
    """Returns the placeholder of a color to draw with."""
    return COLORS[name][0]


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        name: Short name, used for files and element ids.
        title: The caption.
        alt: A description in words and numbers for readers who cannot see the chart.
        svg: The SVG of matplotlib with placeholder colors.
        wide: Whether the chart needs the whole width of the page.
    """

    name: str
    title: str
    alt: str
    svg: str
    wide: bool = False

    def standalone(self) -> str:
        """Returns the content of an SVG file, in the light colors."""
        text = self.svg
        for placeholder, light in COLORS.values():
            text = text.replace(placeholder, light)
        return text

    def inline(self) -> str:
        """Returns the ``<svg>`` element for a page: no URLs, unique ids, the colors of the page."""
        root = ElementTree.fromstring(self.svg)  # noqa: S314  (written by matplotlib a moment ago)
        for metadata in root.findall(f"{_SVG}metadata"):
            root.remove(metadata)
        for element in root.iter():
            _clean(element, self.name)
        for name in ("width", "height", "version"):
            root.attrib.pop(name, None)
        root.attrib |= {"class": "chart", "role": "img", "aria-label": self.alt}
        text = ElementTree.tostring(root, encoding="unicode")
        for name, (placeholder, _) in COLORS.items():
            text = text.replace(placeholder, f"var(--{name})")
        return text


def render_chart(figure: Figure, name: str, title: str, alt: str) -> Chart:
    """Turns a matplotlib figure into a chart; the same figure gives the same bytes.

    Args:
        figure: A figure drawn with placeholder colors.
        name: As in ``Chart``.
        title: As in ``Chart``.
        alt: As in ``Chart``.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return Chart(name, title, alt, buffer.getvalue())


def new_axes(width: float, height: float, x_label: str = "", y_label: str = "") -> tuple[Figure, Axes]:
    """Returns a transparent figure with axes in the style of the page.

    Args:
        width: In inches.
        height: In inches.
        x_label: Label of the horizontal axis.
        y_label: Label of the vertical axis.
    """
    figure = Figure(figsize=(width, height))
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.grid(color=color("grid"), lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=color("soft"), length=0, labelsize=10)
    axes.set_xlabel(literal(x_label), color=color("soft"), size=11)
    axes.set_ylabel(literal(y_label), color=color("soft"), size=11)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes


def add_legend(figure: Figure) -> None:
    """Adds a legend below the plot, where it covers no data; the figure grows by its height.

    Args:
        figure: A figure with one axes, whose margins are set.
    """
    margins, (width, height) = figure.subplotpars, figure.get_size_inches()
    for columns in range(_LEGEND_COLUMNS, 0, -1):
        legend = figure.legend(loc="lower left", bbox_to_anchor=(margins.left, 0), ncols=columns, **_LEGEND_STYLE)
        figure.draw_without_rendering()
        box = legend.get_window_extent()
        if columns == 1 or box.width <= (1 - margins.left) * width * figure.dpi:
            break
        legend.remove()
    added = box.height / figure.dpi
    figure.set_size_inches(width, height + added)
    figure.subplots_adjust(
        bottom=(margins.bottom * height + added) / (height + added), top=(margins.top * height + added) / (height + added)
    )


def literal(text: str, max_length: int = _MAX_LABEL) -> str:
    """Returns text that matplotlib prints literally: shortened, no formula, no leading underscore (it hides a legend entry)."""
    short = text if len(text) <= max_length else text[: max_length - 1] + "…"
    return (" " + short if short.startswith("_") else short).replace("$", r"\$")


def _clean(element: ElementTree.Element, prefix: str) -> None:
    element.tag = element.tag.rpartition("}")[2]
    for key in list(element.attrib):
        value = element.attrib.pop(key)
        plain = key.rpartition("}")[2]
        if plain == "id":
            value = f"{prefix}-{value}"
        elif value.startswith("#") and plain == "href":
            value = f"#{prefix}-{value[1:]}"
        element.attrib[plain] = value.replace("url(#", f"url(#{prefix}-")
