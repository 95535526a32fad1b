"""Letters that stand in the pixels: names, dates, side marks, settings that a scanner or a screen burned in.

Letters are thin, bright or dark strokes of one even value, as tall as each other, side by side on one line. Lines of them are
looked for; what they say is never read, at most counted (:func:`count_words`).
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from reslink.imaging.head_mask import head_mask, measured
from reslink.imaging.image import Image

LARGEST_LETTER: Final = 1 / 10
"""Height of the tallest letters looked for, as a part of the image's longer side."""

SMALLEST_LETTER: Final = 5
"""Height of the smallest letters that are still legible, in pixels."""

MIN_CONTRAST: Final = 0.2
"""Least contrast of a stroke, as a part of the range from black to white."""

WEIGHTS: Final = (4.0, 6.5, -16.0, -9.5, -5.5, 1.5, 9.0)
BIAS: Final = -9.5
"""Of :func:`_score`: a logistic regression, rounded, between lines of letters planted on phantoms and on development images
(sizes 9 to 18 pixels in 256, four typefaces, JPEG quality 70 to 95) and lines found in the same images without letters."""

IN_HEAD: Final = 2.0
DARK_IN_HEAD: Final = 5.0
"""Log odds that are asked for in the head, where sulci stand side by side like letters; dark ones most of all."""

PATIENCE: Final = 20
"""Seconds that Tesseract may take for one region."""

MOST_PAIRS: Final = 1 << 20
"""Pairs of pieces that are compared at a time."""

LIKE_HEIGHT: Final = 0.55
"""Letters of one line are at least this part of each other's height."""

Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]
Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Box:
    """A region that looks like text.

    Attributes:
        top: First row.
        left: First column.
        height: Rows.
        width: Columns.
        in_head: Whether its middle lies in the head.
        letters: How many pieces it is made of.
    """

    top: int
    left: int
    height: int
    width: int
    in_head: bool
    letters: int

    def of(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Returns the part of an (H, W) plane that the box covers, as a view."""
        return plane[self.top : self.top + self.height, self.left : self.left + self.width]

    def grown(self, margin: int) -> Box:
        """Returns the box with a margin of pixels all around, cut at the upper and left border of the image."""
        top, left = max(0, self.top - margin), max(0, self.left - margin)
        bottom, right = self.top + self.height + margin, self.left + self.width + margin
        return Box(top, left, bottom - top, right - left, self.in_head, self.letters)


@dataclass(frozen=True)
class _Pieces:
    """Pieces of thin strokes that may be letters, one entry each.

    Attributes:
        top, bottom, left, right: Extents in pixels, the end excluded.
        value: Grey value of the strokes, 0 to 1.
        contrast: How much they stand out from what is beside them, 0 to 1.
        evenness: How much the value varies within the strokes, as a part of the contrast.
        fill: Part of the extents that is stroke.
    """

    top: NDArray[np.float64]
    bottom: NDArray[np.float64]
    left: NDArray[np.float64]
    right: NDArray[np.float64]
    value: NDArray[np.float64]
    contrast: NDArray[np.float64]
    evenness: NDArray[np.float64]
    fill: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.top)

    def at(self, chosen: NDArray[Any]) -> _Pieces:
        """Returns some of the pieces."""
        return _Pieces(*(values[chosen] for values in vars(self).values()))

    def turned(self) -> _Pieces:
        """Returns the pieces of the transposed picture."""
        return replace(self, top=self.left, bottom=self.right, left=self.top, right=self.bottom)


def find_text(image: Image) -> list[Box]:
    """Finds regions of one slice that look like lines of text, inside and outside the head.

    Bright and dark strokes are found by top-hat filters (Serra 1982), cut into connected pieces, and kept where they have the
    size, thinness and even grey value of letters; at least three such pieces of like height and value on one line, along the
    rows or the columns, are text where a score of the line (``WEIGHTS``) says so. Single letters, such as a lone side mark,
    are not reported.

    Args:
        image: One slice, (H, W), any unit; not changed.

    Returns:
        The lines, from the top; empty where there are none.
    """
    unit = _unit(image)
    if unit is None:
        return []
    return sorted(_lines(unit, head_mask(image)), key=lambda box: (box.top, box.left))


def count_words(image: Image, boxes: Sequence[Box]) -> int | None:
    """Counts the words that Tesseract reads in regions; what they say is neither kept nor shown.

    Args:
        image: The slice in which the regions were found.
        boxes: The regions.

    Returns:
        The number of words, or None where the package ``pytesseract`` or the program ``tesseract`` is not installed or fails.
    """
    unit = _unit(image)
    if unit is None or not boxes or importlib.util.find_spec("pytesseract") is None or shutil.which("tesseract") is None:
        return None if boxes else 0
    reader: Any = importlib.import_module("pytesseract")
    total = 0
    for box in boxes:
        grey = Pillow.fromarray(np.rint(255 * box.grown(box.height).of(unit)).astype(np.uint8))
        large = grey.resize((4 * grey.width, 4 * grey.height), Pillow.Resampling.BICUBIC)
        try:
            total += len(reader.image_to_string(large, config="--psm 7", timeout=PATIENCE).split())
        except (RuntimeError, OSError):  # pytesseract raises them for a program that fails or takes too long
            return None
    return total


def _unit(image: Image) -> Plane | None:
    """Grey values from 0 to 1 in which tissue keeps its contrast however bright the letters are; None for a flat image."""
    valid = measured(image)
    if not valid.any() or min(image.pixels.shape) < 2 * SMALLEST_LETTER:
        return None
    values = image.pixels[valid]
    low, high = (-200.0, 1000.0) if image.unit == "HU" else (float(values.min()), float(values.max()))
    if image.unit == "MR":  # room above the tissue, which a picture in a fixed window has too
        high = low + 1.6 * (float(np.percentile(values, 99)) - low)
    if not high > low:
        return None
    return np.clip((np.where(valid, image.pixels, low) - low) / (high - low), 0, 1).astype(np.float32)


def _lines(unit: Plane, head: Mask) -> list[Box]:
    """Lines of text along the rows and along the columns."""
    found: list[Box] = []
    for values, dark in ((unit, False), (1 - unit, True)):
        pieces = _pieces(values)
        for turned, letters in ((False, pieces), (True, pieces.turned())):
            for line in _grouped(letters):
                box = _box(line.turned() if turned else line, head)
                if _score(line) > (DARK_IN_HEAD if dark else IN_HEAD) * box.in_head:
                    whole = _continued(line, letters)
                    found.append(_box(whole.turned() if turned else whole, head))
    return found


def _score(line: _Pieces) -> float:
    """Log odds that a line is text: letters are many, contrasty, even, as tall as each other, on one line, and compact."""
    height = line.bottom - line.top
    middle = float(np.median(height))
    values = (
        float(np.log(len(line))),
        float(np.median(line.contrast)),
        float(np.median(line.evenness)),
        float(height.std() / height.mean()),
        min(float(np.ptp(line.bottom)), float(np.ptp(line.top))) / middle,
        float(np.median(line.value)),
        float(np.median(line.fill)),
    )
    return float(np.dot(WEIGHTS, values)) + BIAS


def _continued(line: _Pieces, pieces: _Pieces) -> _Pieces:
    """A line of text with the pieces at both of its ends that go on with it, such as the letter before a wide space."""
    height = float(np.median(line.bottom - line.top))
    alike = (np.abs(pieces.value - np.median(line.value)) <= 0.2) & (pieces.bottom - pieces.top <= 1.5 * height)
    alike &= (pieces.top >= line.top.min() - 0.4 * height) & (pieces.bottom <= line.bottom.max() + 0.4 * height)
    count = 0
    while len(line) > count:
        count = len(line)
        near = (pieces.left <= line.right.max() + 1.5 * height) & (pieces.right >= line.left.min() - 1.5 * height)
        line = pieces.at(alike & near)
    return line


def _pieces(values: Plane) -> _Pieces:
    """Connected pieces of bright strokes that have the size of letters."""
    side = max(values.shape)
    width = max(5, round(side / 36)) | 1
    strokes = values - ndimage.grey_opening(values, size=(width, width), mode="nearest")
    peak = ndimage.maximum_filter(strokes, size=width, mode="nearest")
    numbers, _ = ndimage.label((strokes > 0.5 * peak) & (peak > MIN_CONTRAST), np.ones((3, 3)))
    spans = enumerate(ndimage.find_objects(numbers), start=1)
    rows = [row for i, span in spans if (row := _piece(numbers, i, span, values, strokes)) is not None]
    return _Pieces(*np.array(rows, np.float64).reshape(-1, 8).T)


def _piece(numbers: NDArray[Any], number: int, span: tuple[slice, ...], values: Plane, strokes: Plane) -> Any:
    """One row of ``_Pieces``, or None for what is too small, too large or too solid for a letter."""
    rows, columns = span
    height, width = rows.stop - rows.start, columns.stop - columns.start
    largest = LARGEST_LETTER * max(values.shape)
    if max(height, width) < SMALLEST_LETTER or min(height, width) > largest or max(height, width) > 3 * largest:
        return None
    mask = numbers[span] == number
    fill = mask.sum() / (height * width)
    core, top = np.percentile(values[span][mask], (50, 90))
    contrast = float(np.percentile(strokes[span][mask], 90))
    return rows.start, rows.stop, columns.start, columns.stop, top, contrast, (top - core) / contrast, fill


def _grouped(pieces: _Pieces) -> list[_Pieces]:
    """Pieces side by side on one line, of like height and value."""
    height, width = pieces.bottom - pieces.top, pieces.right - pieces.left
    letters = (height >= SMALLEST_LETTER) & (width <= 3 * height) & (pieces.fill >= 0.12) & (pieces.fill <= 0.95)
    pieces = pieces.at(letters & (pieces.evenness <= 0.3))
    if len(pieces) < 3:
        return []
    one, other = _beside(pieces)
    links = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(len(pieces), len(pieces)))
    _, groups = connected_components(links, directed=False)
    return [pieces.at(groups == g) for g in np.flatnonzero(np.bincount(groups) >= 3)]


def _beside(pieces: _Pieces) -> tuple[Rows, Rows]:
    """Pairs of pieces that are neighbours on a line: near, on one base or head line, of like height and value.

    Neighbours are sought in the strip of columns that can hold them, so that memory grows with the pieces and not with their
    square.
    """
    order = np.argsort(pieces.left, kind="stable")
    tallest = (pieces.bottom - pieces.top) / LIKE_HEIGHT
    starts = np.searchsorted(pieces.left[order], pieces.right - 0.25 * tallest - 1)
    counts = np.searchsorted(pieces.left[order], pieces.right + 1.2 * tallest + 1, side="right") - starts
    parts = np.searchsorted(np.cumsum(counts), np.arange(MOST_PAIRS, counts.sum(), MOST_PAIRS))
    found = []
    for rows in np.split(np.arange(len(pieces)), parts):
        one = np.repeat(rows, counts[rows])
        place = np.arange(len(one)) - np.repeat(np.cumsum(counts[rows]) - counts[rows], counts[rows])
        other = order[starts[one] + place]
        near = _neighbours(pieces, one, other)
        found.append((one[near], other[near]))
    return np.concatenate([one for one, _ in found]), np.concatenate([other for _, other in found])


def _neighbours(pieces: _Pieces, one: Rows, other: Rows) -> Mask:
    """Which of some pairs are neighbours, the second to the right of the first."""
    height = pieces.bottom - pieces.top
    taller, smaller = np.maximum(height[one], height[other]), np.minimum(height[one], height[other])

    def apart(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.abs(values[one] - values[other]))

    gap = pieces.left[other] - pieces.right[one]
    near = (gap >= -0.25 * taller) & (gap <= 1.2 * taller)
    slack = np.maximum(1, 0.15 * taller)
    level = (apart(pieces.bottom) <= slack) | (apart(pieces.top) <= slack)
    return np.asarray(near & level & (smaller >= LIKE_HEIGHT * taller) & (apart(pieces.value) <= 0.1))


def _box(line: _Pieces, head: Mask) -> Box:
    top, bottom = int(line.top.min()), int(line.bottom.max())
    left, right = int(line.left.min()), int(line.right.max())
    middle = bool(head[(top + bottom) // 2, (left + right) // 2])
    return Box(top, left, bottom - top, right - left, middle, len(line))
