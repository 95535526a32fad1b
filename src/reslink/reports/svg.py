"""Charts that live inside the page: matplotlib's SVG, cleaned, with the colours of the page."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS: Final[dict[str, tuple[str, str]]] = {
    "ink": ("#0a0b01", "#1b1f24"),
    "soft": ("#0a0b02", "#59636e"),
    "grid": ("#0a0b03", "#d8dee4"),
    "s1": ("#0a0b04", "#0b65c2"),
    "s2": ("#0a0b05", "#c2410c"),
    "s3": ("#0a0b06", "#0f766e"),
    "s4": ("#0a0b07", "#7c3aed"),
    "s5": ("#0a0b08", "#a16207"),
    "s6": ("#0a0b09", "#be185d"),
}
"""Name of a colour of the page: the placeholder that charts are drawn with, and its value where an SVG stands alone."""

SERIES: Final = tuple(COLOURS[f"s{i}"][0] for i in range(1, 7))
_SVG: Final = "{http://www.w3.org/2000/svg}"


def colour(name: str) -> str:
    """Returns the placeholder to draw with."""
    return COLOURS[name][0]


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        name: Short name, used for files and element ids.
        title: What stands above it.
        alt: What it shows, in words and numbers, for those who cannot see it.
        drawn: The SVG of matplotlib with placeholder colours.
    """

    name: str
    title: str
    alt: str
    drawn: str

    def standalone(self) -> str:
        """Returns a whole SVG file in the light colours."""
        text = self.drawn
        for placeholder, light in COLOURS.values():
            text = text.replace(placeholder, light)
        return text

    def inline(self) -> str:
        """Returns the ``<svg>`` element for a page: no address in it, ids of its own, the colours of the page."""
        root = ElementTree.fromstring(self.drawn)  # noqa: S314  (written by matplotlib a moment ago)
        for metadata in root.findall(f"{_SVG}metadata"):
            root.remove(metadata)
        for element in root.iter():
            _clean(element, self.name)
        for name in ("width", "height", "version"):
            root.attrib.pop(name, None)
        root.attrib |= {"class": "chart", "role": "img", "aria-label": self.alt}
        text = ElementTree.tostring(root, encoding="unicode")
        for name, (placeholder, _) in COLOURS.items():
            text = text.replace(placeholder, f"var(--{name})")
        return text


def draw(figure: Figure, name: str, title: str, alt: str) -> Chart:
    """Turns a figure into a chart; the same figure gives the same bytes.

    Args:
        figure: A figure drawn with placeholder colours.
        name: As in ``Chart``.
        title: As in ``Chart``.
        alt: As in ``Chart``.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return Chart(name, title, alt, buffer.getvalue())


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
