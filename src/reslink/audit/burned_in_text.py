"""Detection of burned-in text: names, dates, side markers and settings that a scanner or a screen wrote into the pixels.

Letters are thin, bright or dark strokes of uniform value and equal height, side by side on one line. The detector finds lines
of them. It never reads the text; at most it counts the words (:func:`count_words`).
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from reslink.audit.features.quantiles import quantiles
from reslink.imaging.head_mask import head_mask, sorted_median, valid_pixels
from reslink.imaging.image import Image
from reslink.imaging.morphology import gray_opening, local_maximum

MAX_LETTER_SHARE: Final = 1 / 10
"""Maximum height of a letter, as a share of the longer side of the image."""

MIN_LETTER_SIDE: Final = 5
"""Minimum height of a legible letter, in pixels."""

MIN_CONTRAST: Final = 0.2
"""Minimum contrast of a stroke, as a share of the range from black to white."""

SCORE_WEIGHTS: Final = (4.0, 6.5, -16.0, -9.5, -5.5, 1.5, 9.0)
SCORE_BIAS: Final = -9.5
"""Coefficients of :func:`_score`: a rounded logistic regression between lines of letters drawn on phantoms and on development
images (sizes 9 to 18 pixels in 256, four typefaces, JPEG quality 70 to 95) and lines found in the same images without
letters."""

MIN_SCORE_IN_HEAD: Final = 2.0
MIN_SCORE_DARK_IN_HEAD: Final = 5.0
"""Minimum log odds in the head, where adjacent sulci resemble letters, dark ones most of all."""

TESSERACT_TIMEOUT: Final = 20
"""Maximum time for Tesseract per region, in seconds."""

MAX_PAIRS: Final = 1 << 20
"""Maximum number of pairs of letters that are compared at once."""

MIN_HEIGHT_RATIO: Final = 0.55
"""Minimum ratio of the heights of two letters of one line."""

Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]
Plane = NDArray[np.float32]


@dataclass(frozen=True)
class TextBox:
    """A region that looks like text.

    Attributes:
        top: First row.
        left: First column.
        height: Rows.
        width: Columns.
        in_head: Whether its center is in the head.
        letters: Number of letters.
    """

    top: int
    left: int
    height: int
    width: int
    in_head: bool
    letters: int

    def crop(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Returns the region of an (H, W) plane inside the box, as a view."""
        return plane[self.top : self.top + self.height, self.left : self.left + self.width]

    def expanded(self, margin: int) -> TextBox:
        """Returns the box with a margin of pixels on all sides, clipped at the top and left border of the image."""
        top, left = max(0, self.top - margin), max(0, self.left - margin)
        bottom, right = self.top + self.height + margin, self.left + self.width + margin
        return TextBox(top, left, bottom - top, right - left, self.in_head, self.letters)


@dataclass(frozen=True)
class _Letters:
    """Candidate letters: connected components of thin strokes, one entry each.

    Attributes:
        top, bottom, left, right: Extent in pixels, the end excluded.
        value: Gray value of the strokes, 0 to 1.
        contrast: Contrast with the surroundings, 0 to 1.
        variation: Variation of the value within the strokes, as a share of the contrast.
        fill: Share of the extent that is stroke.
    """

    top: NDArray[np.float64]
    bottom: NDArray[np.float64]
    left: NDArray[np.float64]
    right: NDArray[np.float64]
    value: NDArray[np.float64]
    contrast: NDArray[np.float64]
    variation: NDArray[np.float64]
    fill: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.top)

    def select(self, indices: NDArray[Any]) -> _Letters:
        """Returns the selected letters."""
        return _Letters(*(values[indices] for values in vars(self).values()))

    def transposed(self) -> _Letters:
        """Returns the letters of the transposed image."""
        return replace(self, top=self.left, bottom=self.right, left=self.top, right=self.bottom)


def find_text(image: Image) -> list[TextBox]:
    """Finds regions of one slice that look like lines of text, inside and outside the head.

    Top-hat filters (Serra 1982) find bright and dark strokes. Connected components with the size, thinness and uniform gray
    value of letters are kept. At least three such letters of similar height and value on one line, along the rows or the
    columns, are text if the score of the line is high enough. Single letters, such as a lone side marker, are not reported.

    Args:
        image: One slice, (H, W), any unit; not changed.

    Returns:
        The lines, from the top; empty if there are none.
    """
    plane = _normalized(image)
    if plane is None:
        return []
    return sorted(_find_lines(plane, head_mask(image)), key=lambda box: (box.top, box.left))


def count_words(image: Image, boxes: Sequence[TextBox]) -> int | None:
    """Counts the words that Tesseract reads in regions. The words are neither stored nor shown.

    Args:
        image: The slice that contains the regions.
        boxes: The regions.

    Returns:
        The number of words, or None if the package ``pytesseract`` or the program ``tesseract`` is not installed or fails.
    """
    plane = _normalized(image) if boxes else None
    if plane is None or importlib.util.find_spec("pytesseract") is None or shutil.which("tesseract") is None:
        return None if boxes else 0
    pytesseract: Any = importlib.import_module("pytesseract")
    total = 0
    for box in boxes:
        gray = Pillow.fromarray(np.rint(255 * box.expanded(box.height).crop(plane)).astype(np.uint8))
        large = gray.resize((4 * gray.width, 4 * gray.height), Pillow.Resampling.BICUBIC)
        try:
            total += len(pytesseract.image_to_string(large, config="--psm 7", timeout=TESSERACT_TIMEOUT).split())
        except (RuntimeError, OSError):  # Tesseract failed or timed out
            return None
    return total


def _normalized(image: Image) -> Plane | None:
    """Scales gray values to 0..1 so that tissue keeps its contrast however bright the letters are; None for a flat image."""
    valid = valid_pixels(image)
    if not valid.any() or min(image.pixels.shape) < 2 * MIN_LETTER_SIDE:
        return None
    all_valid = bool(valid.all())
    values = image.pixels if all_valid else image.pixels[valid]
    low, high = (-200.0, 1000.0) if image.unit == "HU" else (float(values.min()), float(values.max()))
    if image.unit == "MR":  # leave headroom above the tissue, as pictures in a fixed window have
        high = low + 1.6 * (float(quantiles(values, (0.99,))[0]) - low)
    if not high > low:
        return None
    pixels = image.pixels if all_valid else np.where(valid, image.pixels, np.float32(low))
    return np.asarray(np.clip((pixels - np.float32(low)) / np.float32(high - low), 0, 1), np.float32)


def _find_lines(plane: Plane, head: Mask) -> list[TextBox]:
    """Returns lines of text along the rows and along the columns."""
    boxes: list[TextBox] = []
    for values, dark in ((plane, False), (1 - plane, True)):
        candidates = _find_letters(values)
        for vertical, letters in ((False, candidates), (True, candidates.transposed())):
            for line in _group_into_lines(letters):
                box = _line_box(line.transposed() if vertical else line, head)
                if _score(line) > (MIN_SCORE_DARK_IN_HEAD if dark else MIN_SCORE_IN_HEAD) * box.in_head:
                    whole = _extend_line(line, letters)
                    boxes.append(_line_box(whole.transposed() if vertical else whole, head))
    return boxes


def _score(line: _Letters) -> float:
    """Returns the log odds that a line is text, from the number, contrast and uniformity of its letters."""
    height = line.bottom - line.top
    values = (
        float(np.log(len(line))),
        _median(line.contrast),
        _median(line.variation),
        float(height.std() / height.mean()),
        min(float(np.ptp(line.bottom)), float(np.ptp(line.top))) / _median(height),
        _median(line.value),
        _median(line.fill),
    )
    return float(np.dot(SCORE_WEIGHTS, values)) + SCORE_BIAS


def _median(values: NDArray[np.float64]) -> float:
    return sorted_median(np.sort(values))


def _extend_line(line: _Letters, letters: _Letters) -> _Letters:
    """Extends a line of text at both ends by letters that continue it, such as a letter before a wide space."""
    height = float(np.median(line.bottom - line.top))
    similar = (np.abs(letters.value - np.median(line.value)) <= 0.2) & (letters.bottom - letters.top <= 1.5 * height)
    similar &= (letters.top >= line.top.min() - 0.4 * height) & (letters.bottom <= line.bottom.max() + 0.4 * height)
    count = 0
    while len(line) > count:
        count = len(line)
        near = (letters.left <= line.right.max() + 1.5 * height) & (letters.right >= line.left.min() - 1.5 * height)
        line = letters.select(similar & near)
    return line


def _find_letters(values: Plane) -> _Letters:
    """Returns connected components of bright strokes that have the size of letters."""
    side = max(values.shape)
    width = max(5, round(side / 36)) | 1
    strokes = values - gray_opening(values, width)
    peak = local_maximum(strokes, width, width)
    mask = (strokes > 0.5 * peak) & (peak > MIN_CONTRAST)
    _, numbers, boxes, _ = cv2.connectedComponentsWithStatsWithAlgorithm(
        mask.view(np.uint8),
        8,
        cv2.CV_32S,
        cv2.CCL_BBDT,  # the fastest for many small components
    )
    shorter, longer = np.sort(boxes[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]], axis=1).T
    largest = MAX_LETTER_SHARE * side
    chosen = (longer >= MIN_LETTER_SIDE) & (shorter <= largest) & (longer <= 3 * largest)
    chosen[0] = False  # the background
    left, top, width, height, area = (column.astype(np.float64) for column in boxes[chosen].T)
    pixels = np.flatnonzero(mask)
    component = numbers.ravel()[pixels]
    kept = chosen[component]
    pixels, rows = pixels[kept], (np.cumsum(chosen) - 1)[component[kept]]
    middle, bright = _quantiles_by_row(values.ravel()[pixels], rows, (0.5, 0.9))
    [contrast] = _quantiles_by_row(strokes.ravel()[pixels], rows, (0.9,))
    return _Letters(
        top, top + height, left, left + width, bright, contrast, (bright - middle) / contrast, area / (height * width)
    )


def _quantiles_by_row(values: Plane, rows: Rows, shares: Sequence[float]) -> list[NDArray[np.float64]]:
    """Returns quantiles of the values of each row by linear interpolation, (rows,) for each share."""
    ordered = _sorted_by_row(values, rows).astype(np.float64)
    counts = np.bincount(rows)
    starts = np.cumsum(counts) - counts
    result = []
    for share in shares:
        places = share * (counts - 1)
        low = ordered[starts + places.astype(np.intp)]
        high = ordered[starts + np.minimum(places.astype(np.intp) + 1, counts - 1)]
        result.append(low + (places - np.floor(places)) * (high - low))
    return result


def _sorted_by_row(values: Plane, rows: Rows) -> Plane:
    """Returns values >= 0 sorted by row, then by value.

    The bits of such a number, read as an integer, have its order, so that row and value fit one integer. Sorting it is several
    times faster than ``numpy.lexsort``.
    """
    keys = np.sort((rows.astype(np.int64) << 32) | values.view(np.int32))
    return keys.astype(np.int32).view(np.float32)  # the cast keeps the lower bits


def _group_into_lines(letters: _Letters) -> list[_Letters]:
    """Returns groups of at least three letters side by side on one line, of similar height and value."""
    height, width = letters.bottom - letters.top, letters.right - letters.left
    letter_like = (height >= MIN_LETTER_SIDE) & (width <= 3 * height) & (letters.fill >= 0.12) & (letters.fill <= 0.95)
    letters = letters.select(letter_like & (letters.variation <= 0.3))
    if len(letters) < 3:
        return []
    left, right = _neighbor_pairs(letters)
    if len(left) < 2:
        return []
    groups = _connected(len(letters), left, right)
    return [letters.select(groups == g) for g in np.flatnonzero(np.bincount(groups) >= 3)]


def _connected(count: int, left: Rows, right: Rows) -> Rows:
    """Returns a number of the group of each letter that pairs connect; for these few it is faster than SciPy's graphs."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, j in zip(left.tolist(), right.tolist(), strict=True):
        parent[root(i)] = root(j)
    return np.array([root(i) for i in range(count)])


def _neighbor_pairs(letters: _Letters) -> tuple[Rows, Rows]:
    """Returns pairs of neighbors on a line: near each other, with a common top or bottom, of similar height and value.

    Only the strip of columns that can contain neighbors is searched, so that memory grows with the number of letters and not
    with its square.
    """
    order = np.argsort(letters.left, kind="stable")
    tallest = (letters.bottom - letters.top) / MIN_HEIGHT_RATIO
    starts = np.searchsorted(letters.left[order], letters.right - 0.25 * tallest - 1)
    counts = np.searchsorted(letters.left[order], letters.right + 1.2 * tallest + 1, side="right") - starts
    boundaries = np.searchsorted(np.cumsum(counts), np.arange(MAX_PAIRS, counts.sum(), MAX_PAIRS))
    pairs = []
    for rows in np.split(np.arange(len(letters)), boundaries):
        left = np.repeat(rows, counts[rows])
        offset = np.arange(len(left)) - np.repeat(np.cumsum(counts[rows]) - counts[rows], counts[rows])
        right = order[starts[left] + offset]
        near = _are_neighbors(letters, left, right)
        pairs.append((left[near], right[near]))
    return np.concatenate([left for left, _ in pairs]), np.concatenate([right for _, right in pairs])


def _are_neighbors(letters: _Letters, left: Rows, right: Rows) -> Mask:
    """Returns which pairs are neighbors, the second to the right of the first."""
    height = letters.bottom - letters.top
    taller, smaller = np.maximum(height[left], height[right]), np.minimum(height[left], height[right])

    def difference(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.abs(values[left] - values[right]))

    gap = letters.left[right] - letters.right[left]
    near = (gap >= -0.25 * taller) & (gap <= 1.2 * taller)
    tolerance = np.maximum(1, 0.15 * taller)
    aligned = (difference(letters.bottom) <= tolerance) | (difference(letters.top) <= tolerance)
    return np.asarray(near & aligned & (smaller >= MIN_HEIGHT_RATIO * taller) & (difference(letters.value) <= 0.1))


def _line_box(line: _Letters, head: Mask) -> TextBox:
    top, bottom = int(line.top.min()), int(line.bottom.max())
    left, right = int(line.left.min()), int(line.right.max())
    in_head = bool(head[(top + bottom) // 2, (left + right) // 2])
    return TextBox(top, left, bottom - top, right - left, in_head, len(line))
