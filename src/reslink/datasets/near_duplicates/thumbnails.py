"""The small picture of the head that near copies are looked for on; stored in the cache of a data set."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy import ndimage

from reslink.errors import UsageError
from reslink.imaging.head_mask import WORKING_SIDE, head_mask, measured
from reslink.imaging.image import Image
from reslink.imaging.preprocess import MARGIN, Preprocess

SIDE: Final = 64
EVEN: Final = 0.03
"""A row is even where its values deviate by less than this part of the image's range."""

STEP: Final = 0.05
"""Even rows are a frame, not background, where the median then changes by more than this part of the range."""

WHOLE: Final = 0.7
"""A head mask with less than this part of what stands out from the background holds only a piece of the head."""

FULL: Final = 0.88
"""Part of the picture; a head that is not cut leaves more background than the rest."""

Thumbnails = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_OF_HEAD: Final = Preprocess(size=SIDE, channels=1, window="brain", isolate_head=True)
_OF_ALL: Final = Preprocess(size=SIDE, channels=1, window="brain", isolate_head=False)


def thumbnail(image: Image) -> Thumbnails:
    """Makes the thumbnail that twins are looked for on.

    An even frame is cut off. Where the edge of a picture cuts the skull open, the head mask may hold a piece of skull
    alone; then, and wherever the head reaches the edge, all that stands out from the background is taken.

    Args:
        image: One slice, (H, W).

    Returns:
        (64, 64) uint8: the head, 0 outside, fitted to the longer side; the brain window for CT in HU.

    Raises:
        InputError: If the image is a volume or has no pixels.
    """
    if image.pixels.ndim != 2 or min(image.pixels.shape) < 8:
        return np.asarray(_OF_HEAD.pixels(image)[0])
    inner = _unframed(image)
    head = head_mask(inner)
    if inner.unit != "HU":
        outstanding = _silhouette(inner)
        if _on_edge(head) or _piece(head, outstanding):
            return np.asarray(_OF_ALL.pixels(_only(inner, outstanding))[0])
    return np.asarray(_OF_HEAD.pixels(inner)[0])


def check(thumbnails: Thumbnails) -> None:
    """Refuses anything but thumbnails.

    Raises:
        UsageError: If the array is not (n, 64, 64) uint8.
    """
    if thumbnails.ndim != 3 or thumbnails.shape[1:] != (SIDE, SIDE) or thumbnails.dtype != np.uint8:
        raise UsageError(
            f"Thumbnails of the shape {thumbnails.shape} and the type {thumbnails.dtype} were given",
            f"Twins are found on thumbnails of the shape (n, {SIDE}, {SIDE}), uint8",
            "Make them with reslink.datasets.near_duplicates.groups.thumbnail",
        )


def _unframed(image: Image) -> Image:
    """The image without an even frame along its edges, unless that leaves less than half of a side."""
    values = np.where(measured(image), image.pixels, image.pixels[measured(image)].min()) if measured(image).any() else None
    if values is None or not values.max() > values.min():
        return image
    unit = (values - values.min()) / (values.max() - values.min())
    top, bottom, left, right = 0, unit.shape[0], 0, unit.shape[1]
    for _ in range(4):  # a corner belongs to a row and a column, and what was blurred shows when the other side is gone
        up, down = _frame(unit[top:bottom, left:right])
        top, bottom = top + up, bottom - down
        before, after = _frame(unit[top:bottom, left:right].T)
        left, right = left + before, right - after
    if bottom - top < unit.shape[0] / 2 or right - left < unit.shape[1] / 2:
        return image
    return _cut(image, slice(top, bottom), slice(left, right)) if (bottom - top, right - left) != unit.shape else image


def _frame(unit: NDArray[np.float32]) -> tuple[int, int]:
    """How many rows of a frame there are at the first edge and at the last."""
    return (_run(unit), _run(unit[::-1])) if unit.size else (0, 0)


def _run(unit: NDArray[np.float32]) -> int:
    """Rows from the first on that are as even and as light as it, if what comes after them is lighter or darker."""
    levels = np.median(unit, axis=1)
    alike = (unit.std(axis=1) < EVEN) & (np.abs(levels - levels[0]) <= STEP / 2)
    rows = int(alike.argmin())
    return rows if rows and np.abs(levels[rows : rows + 3] - levels[0]).max() > STEP else 0


def _cut(image: Image, rows: slice, columns: slice) -> Image:
    padding = None if image.padding is None else image.padding[rows, columns]
    return replace(image, pixels=image.pixels[rows, columns], padding=padding)


def _piece(head: Mask, outstanding: Mask) -> bool:
    """Whether the head mask holds only a piece of the head; a background that stands out itself tells nothing."""
    plausible = outstanding.mean() < FULL or head.mean() < 1 - FULL
    return bool(plausible and head.sum() < WHOLE * outstanding.sum())


def _on_edge(head: Mask) -> bool:
    return bool(head[[0, -1]].any() or head[:, [0, -1]].any())


def _silhouette(image: Image) -> Mask:
    """The largest piece that stands out from the background, (H, W); everything where nothing does."""
    values = np.where(measured(image), image.pixels, image.pixels.min())
    values = values.max() - values if image.inverted else values
    scale = WORKING_SIDE / max(values.shape)
    size = max(1, round(values.shape[1] * scale)), max(1, round(values.shape[0] * scale))
    smooth = ndimage.uniform_filter(np.asarray(Picture.fromarray(values).resize(size, Picture.Resampling.BOX)), 3)
    low, high = float(smooth.min()), float(smooth.max())
    if not high > low:
        return np.ones(image.pixels.shape, np.bool_)
    typical = float(np.median(smooth[smooth > low + 0.1 * (high - low)]))
    bright = np.pad(smooth > low + 0.27 * (typical - low), 4)
    solid = ndimage.binary_opening(ndimage.binary_fill_holes(ndimage.binary_closing(bright, iterations=3)), iterations=4)
    pieces, count = ndimage.label(solid[4:-4, 4:-4])
    if count == 0:
        return np.ones(image.pixels.shape, np.bool_)
    largest = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    grey = Picture.fromarray(largest.astype(np.uint8) * np.uint8(255))
    return np.asarray(grey.resize(image.pixels.shape[::-1], Picture.Resampling.BILINEAR)) > 127


def _only(image: Image, head: Mask) -> Image:
    """The image cut to the head with a margin, what is not head marked as not measured."""
    rows, columns = np.flatnonzero(head.any(axis=1)), np.flatnonzero(head.any(axis=0))
    inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    kept = (head & measured(image))[inside]
    margins = [(round(MARGIN * side),) * 2 for side in kept.shape]
    pixels = np.pad(image.pixels[inside], margins, mode="edge")
    return replace(image, pixels=pixels, padding=~np.pad(kept, margins))
