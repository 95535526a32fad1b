"""The picture that ``reslink explain`` writes for one image: what was seen, and what each method says about it."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image as Picture

from reslink.explain.overlay import COLORMAP, overlay
from reslink.explain.picture_names import SOFTWARE

RESEARCH_USE_ONLY = "Research use only – not for diagnosis"
NO_OUTLINE = "The maps show what the network used; they outline no lesion"
_LONGEST = 640
_SIDE, _PICTURE, _GAP, _FOOT, _TITLE = 3.4, 3.13, 0.62, 0.78, 0.24
"""Inches: a tile and what of it is left for the picture, from one row to the next, the foot, a line of the heading."""
_TITLE_SIZE, _NOTE_SIZE, _TILE_NOTE_SIZE = 14, 8.5, 8
"""Points of the letters of the heading, of the lines below it, and above a tile."""
_INK, _SOFT, _PAPER = "#e8eaed", "#9aa3ad", "#111418"


@dataclass(frozen=True)
class Tile:
    """One picture of a panel.

    Attributes:
        title: Name of the method.
        note: What the map says in a few words, or an empty text.
        heat: (H, W) map on the original image, or None for the image alone.
        least: As in ``overlay``.
    """

    title: str
    note: str
    heat: NDArray[np.float32] | None
    least: float = 0.0


def panel(
    grey: NDArray[np.uint8], tiles: Sequence[Tile], heading: str, note: str, mask: NDArray[np.bool_] | None = None
) -> bytes:
    """Draws tiles in rows of three, or up to four in one, under a heading; below, the scale of colours and the limits of use.

    Args:
        grey: (H, W) uint8, the image as it is shown.
        tiles: At least one.
        heading: Label and probability; taken literally, also ``$``; wrapped where it is long.
        note: File name and the like, in small letters; long lines are wrapped.
        mask: (H, W) lesion mask, drawn as a contour, or None.

    Returns:
        A PNG.
    """
    columns = max(2, len(tiles)) if len(tiles) <= 4 else 3  # the foot needs the width of two
    rows = -(-len(tiles) // columns)
    tall = _PICTURE * min(1.6, max(0.25, grey.shape[0] / grey.shape[1]))
    wide = 0.94 * 72 * _SIDE * columns
    titles = _wrapped(heading, wide, _TITLE_SIZE, "bold")
    lines = [part for line in note.split("\n") for part in _wrapped(line, wide, _NOTE_SIZE)]
    top = 1.12 + _TITLE * max(0, len(titles) - 1) + 0.18 * max(0, len(lines) - 1)
    height = rows * tall + (rows - 1) * _GAP + top + _FOOT
    figure = Figure(figsize=(_SIDE * columns, height), dpi=130, facecolor=_PAPER)
    _heading(figure, titles, lines, height)
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(0.02, _FOOT / height, 0.98, 1 - top / height, wspace=0.05, hspace=_GAP / tall)
    for i, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if i < len(tiles):
            _tile(axes, grey, tiles[i], mask)
    _foot(figure, height, mask is not None, len(tiles) > 1)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=_PAPER, metadata={"Software": SOFTWARE})
    return buffer.getvalue()


def _heading(figure: Figure, titles: Sequence[str], lines: Sequence[str], height: float) -> None:
    below = 0.50 + _TITLE * max(0, len(titles) - 1)
    literal: dict[str, Any] = {"va": "top", "parse_math": False}
    figure.text(0.02, 1 - 0.20 / height, "\n".join(titles), color=_INK, size=_TITLE_SIZE, weight="bold", **literal)
    figure.text(0.02, 1 - below / height, "\n".join(lines), color=_SOFT, size=_NOTE_SIZE, **literal)


def _tile(axes: Axes, grey: NDArray[np.uint8], tile: Tile, mask: NDArray[np.bool_] | None) -> None:
    heat = np.zeros(grey.shape, np.float32) if tile.heat is None else tile.heat
    axes.imshow(_small(overlay(grey, heat, mask, least=tile.least)), interpolation="bilinear")
    axes.set_anchor("NW")
    above: dict[str, Any] = {"xy": (0, 1), "xycoords": "axes fraction", "textcoords": "offset points", "parse_math": False}
    axes.annotate(tile.title, xytext=(0, 19), color=_INK, size=10.5, weight="bold", **above)
    first, *more = _wrapped(tile.note, 0.87 * 72 * _SIDE, _TILE_NOTE_SIZE) or [""]
    axes.annotate(f"{first}…" if more else first, xytext=(0, 5), color=_SOFT, size=_TILE_NOTE_SIZE, **above)


def _wrapped(text: str, wide: float, size: float, weight: str = "normal") -> list[str]:
    """Returns the lines of a text, none wider than so many points; what the font has no sign for, a name in Japanese, is ``?``.

    matplotlib's own wrapping leaves a long word whole, and knows the number of lines only once the picture is drawn.
    """
    font = get_font(findfont(FontProperties(weight=weight)))
    known = font.get_charmap()
    text = "".join(letter if letter.isspace() or ord(letter) in known else "?" for letter in text)
    letters = len(text)
    while letters > 1 and any(_width(font, line, size) > wide for line in textwrap.wrap(text, letters)):
        letters -= max(1, letters // 50)
    return textwrap.wrap(text, max(1, letters))


def _width(font: FT2Font, line: str, size: float) -> float:
    """Returns the width of a line in points."""
    font.set_size(size, 72)
    font.set_text(line)
    return float(font.get_width_height()[0]) / 64


def _small(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    picture = Picture.fromarray(rgb)
    picture.thumbnail((_LONGEST, _LONGEST), Picture.Resampling.LANCZOS)
    return np.asarray(picture)


def _foot(figure: Figure, height: float, masked: bool, mapped: bool) -> None:
    axes = figure.add_axes((0.02, 0.40 / height, 0.24, 0.09 / height))
    bar = Colorbar(axes, ScalarMappable(cmap=colormaps[COLORMAP]), orientation="horizontal")
    bar.set_ticks([])
    bar.outline.set_visible(False)
    figure.text(0.02, 0.22 / height, "low", color=_SOFT, size=8, va="center")
    figure.text(0.26, 0.22 / height, "high, of each map", color=_SOFT, size=8, va="center", ha="right")
    if masked:
        figure.text(0.30, 0.44 / height, "cyan: lesion mask", color="#00e5ff", size=8, va="center")
    figure.text(0.98, 0.44 / height, RESEARCH_USE_ONLY, color=_INK, size=9, weight="bold", va="center", ha="right")
    if mapped:
        figure.text(0.98, 0.22 / height, NO_OUTLINE, color=_SOFT, size=8, va="center", ha="right")
