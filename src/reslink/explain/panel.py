"""Panel of one image: the image and its maps side by side, with heading, caption and color scale."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import FT2Font
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image as Picture

from reslink.explain.overlay import COLORMAP, overlay
from reslink.explain.picture_files import SOFTWARE
from reslink.imaging.orientation import Edges

RESEARCH_USE_ONLY = "Research use only – not for diagnosis"
_KEY = (
    "Color is drawn only where the network sees the image.",
    "Each map has its own scale: compare places within a map, not the brightness of two maps.",
    "Attention: how strongly an area is weighted.",
    "Grad-CAM, integrated gradients: where the evidence comes from.",
    "Occlusion: how much the result depends on a place.",
)
"""How to read the maps; fills the first empty place of a panel."""
NO_OUTLINE = "The maps show what the network used; they do not outline a lesion"
_MAX_PIXELS = 640
_TILE_WIDTH, _IMAGE_WIDTH, _ROW_GAP, _FOOTER, _HEADING_LINE = 3.4, 3.13, 0.62, 0.78, 0.24
"""Inches: width of a tile, width of the image in it, gap between rows, height of the footer, height of a heading line."""
_HEADING_SIZE, _CAPTION_SIZE, _NOTE_SIZE = 14, 8.5, 8
"""Font sizes in points: heading, caption below it, note above a tile."""
_EDGE_PLACES, _EDGE_SIZE = ((0.0, 0.5), (1.0, 0.5), (0.5, 1.0), (0.5, 0.0)), 9
"""Letters of the sides of the patient: places in a tile (left, right, top, bottom) and font size in points."""
_TEXT, _MUTED, _BACKGROUND = "#e8eaed", "#9aa3ad", "#111418"


@dataclass(frozen=True)
class ShownSlice:
    """The slice that every tile of a panel shows.

    Attributes:
        gray: (H, W) uint8, the displayed image.
        mask: (H, W) lesion mask, drawn as a contour, or None.
        aspect: Height of a pixel over its width.
        edges: Sides of the patient at the left, right, top and bottom, drawn as letters; None if they are unknown.
    """

    gray: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None = None
    aspect: float = 1.0
    edges: Edges | None = None


@dataclass(frozen=True)
class Tile:
    """One image of a panel.

    Attributes:
        title: Name of the method.
        note: Short description of the map; may be empty.
        heat: (H, W) map on the original image, or None for the image alone.
        min_span: As in ``overlay``.
    """

    title: str
    note: str
    heat: NDArray[np.float32] | None
    min_span: float = 0.0


def draw_panel(shown: ShownSlice, tiles: Sequence[Tile], heading: str, caption: str) -> bytes:
    """Draws up to four tiles in one row, or more in rows of three, below a heading. The footer holds the color scale.

    Args:
        shown: The slice.
        tiles: At least one.
        heading: Label and probability, drawn literally, also ``$``; long headings are wrapped.
        caption: File name and further lines in small type; long lines are wrapped.

    Returns:
        A PNG.
    """
    columns = max(2, len(tiles)) if len(tiles) <= 4 else 3  # the footer needs the width of two tiles
    rows = -(-len(tiles) // columns)
    image_height = _IMAGE_WIDTH * min(1.6, max(0.25, shown.aspect * shown.gray.shape[0] / shown.gray.shape[1]))
    text_width = 0.94 * 72 * _TILE_WIDTH * columns
    heading_lines = _wrap(heading, text_width, _HEADING_SIZE, "bold")
    caption_lines = [part for line in caption.split("\n") for part in _wrap(line, text_width, _CAPTION_SIZE)]
    top = 1.12 + _HEADING_LINE * max(0, len(heading_lines) - 1) + 0.18 * max(0, len(caption_lines) - 1)
    height = rows * image_height + (rows - 1) * _ROW_GAP + top + _FOOTER
    figure = Figure(figsize=(_TILE_WIDTH * columns, height), dpi=130, facecolor=_BACKGROUND)
    _draw_heading(figure, heading_lines, caption_lines, height)
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(0.02, _FOOTER / height, 0.98, 1 - top / height, wspace=0.05, hspace=_ROW_GAP / image_height)
    for i, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if i < len(tiles):
            _draw_tile(axes, shown, tiles[i])
        elif i == len(tiles) > 4:
            _draw_key(axes)
    _draw_footer(figure, height, has_mask=shown.mask is not None, has_maps=len(tiles) > 1)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=_BACKGROUND, metadata={"Software": SOFTWARE})
    return buffer.getvalue()


def _draw_heading(figure: Figure, heading_lines: Sequence[str], caption_lines: Sequence[str], height: float) -> None:
    below = 0.50 + _HEADING_LINE * max(0, len(heading_lines) - 1)
    literal: dict[str, Any] = {"va": "top", "parse_math": False}
    heading, caption = "\n".join(heading_lines), "\n".join(caption_lines)
    figure.text(0.02, 1 - 0.20 / height, heading, color=_TEXT, size=_HEADING_SIZE, weight="bold", **literal)
    figure.text(0.02, 1 - below / height, caption, color=_MUTED, size=_CAPTION_SIZE, **literal)


def _draw_tile(axes: Axes, shown: ShownSlice, tile: Tile) -> None:
    heat = np.zeros(shown.gray.shape, np.float32) if tile.heat is None else tile.heat
    picture = _reduced(overlay(shown.gray, heat, shown.mask, min_span=tile.min_span))
    extent = (0, shown.gray.shape[1], shown.gray.shape[0], 0)  # rounding of the reduced size does not change the aspect
    axes.imshow(picture, interpolation="bilinear", extent=extent, aspect=shown.aspect)
    axes.set_anchor("NW")
    for letter, (x, y) in zip(shown.edges or "", _EDGE_PLACES, strict=False):
        horizontal, vertical = {0.0: "left", 1.0: "right"}.get(x, "center"), {0.0: "bottom", 1.0: "top"}.get(y, "center")
        inwards = (3 - 6 * x, 3 - 6 * y)
        where: dict[str, Any] = {"xycoords": "axes fraction", "xytext": inwards, "textcoords": "offset points"}
        style: dict[str, Any] = {"size": _EDGE_SIZE, "weight": "bold", "ha": horizontal, "va": vertical}
        axes.annotate(letter, (x, y), color=_TEXT, path_effects=[withStroke(linewidth=2, foreground="black")], **where, **style)
    above: dict[str, Any] = {"xy": (0, 1), "xycoords": "axes fraction", "textcoords": "offset points", "parse_math": False}
    axes.annotate(tile.title, xytext=(0, 19), color=_TEXT, size=10.5, weight="bold", **above)
    first, *further = _wrap(tile.note, 72 * _IMAGE_WIDTH, _NOTE_SIZE) or ("",)
    axes.annotate(f"{first}…" if further else first, xytext=(0, 5), color=_MUTED, size=_NOTE_SIZE, **above)


def _draw_key(axes: Axes) -> None:
    lines = "\n\n".join("\n".join(_wrap(text, 0.8 * 72 * _TILE_WIDTH, _CAPTION_SIZE)) for text in _KEY)
    above: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate("Reading the maps", (0, 1), xytext=(0, 19), color=_TEXT, size=10.5, weight="bold", **above)
    axes.annotate(lines, (0, 1), xytext=(0, 5), va="top", color=_MUTED, size=_CAPTION_SIZE, linespacing=1.3, **above)


@lru_cache(maxsize=256)
def _wrap(text: str, width: float, size: float, weight: str = "normal") -> tuple[str, ...]:
    """Wraps a text to a width in points. Characters that the font lacks, such as Japanese ones, become ``?``.

    matplotlib's own wrapping does not break long words, and knows the number of lines only after drawing.
    """
    font = get_font(findfont(FontProperties(weight=weight)))
    glyphs = font.get_charmap()
    text = "".join(letter if letter.isspace() or ord(letter) in glyphs else "?" for letter in text)
    letters = len(text)
    while letters > 1 and any(_text_width(font, line, size) > width for line in textwrap.wrap(text, letters)):
        letters -= max(1, letters // 50)
    return tuple(textwrap.wrap(text, max(1, letters)))


def _text_width(font: FT2Font, line: str, size: float) -> float:
    """Returns the width of a line in points."""
    font.set_size(size, 72)
    font.set_text(line)
    return float(font.get_width_height()[0]) / 64


def _reduced(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    picture = Picture.fromarray(rgb)
    picture.thumbnail((_MAX_PIXELS, _MAX_PIXELS), Picture.Resampling.LANCZOS)
    return np.asarray(picture)


def _draw_footer(figure: Figure, height: float, *, has_mask: bool, has_maps: bool) -> None:
    axes = figure.add_axes((0.02, 0.40 / height, 0.24, 0.09 / height))
    bar = Colorbar(axes, ScalarMappable(cmap=colormaps[COLORMAP]), orientation="horizontal")
    bar.set_ticks([])
    bar.outline.set_visible(False)
    figure.text(0.02, 0.22 / height, "low", color=_MUTED, size=8, va="center")
    figure.text(0.26, 0.22 / height, "high, of each map", color=_MUTED, size=8, va="center", ha="right")
    if has_mask:
        figure.text(0.30, 0.44 / height, "cyan: lesion mask", color="#00e5ff", size=8, va="center")
    figure.text(0.98, 0.44 / height, RESEARCH_USE_ONLY, color=_TEXT, size=9, weight="bold", va="center", ha="right")
    if has_maps:
        figure.text(0.98, 0.22 / height, NO_OUTLINE, color=_MUTED, size=8, va="center", ha="right")
