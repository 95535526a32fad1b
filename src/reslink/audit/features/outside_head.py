"""What the pixels outside the head say: background, table, frame, letters, never the head or its outline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy import ndimage

from reslink.imaging.head_mask import Mask, head_mask, measured
from reslink.imaging.image import Image

MARGIN: Final = 1 / 24
"""Pixels nearer to the head than this part of the longer side are left out: scalp, ringing and blocks of JPEG."""

SIDE: Final = 128
"""Working size of the margin."""

SMALLEST: Final = 25
"""A zone with fewer pixels outside the head says nothing."""

BRIGHT: Final = 0.35
"""Part of white from which a pixel stands out from a dark background, as letters and frames do."""

HU_RANGE: Final = (-1024.0, 400.0)
BORDER: Final = 0.03
CORNER: Final = 0.2

_ZONES: Final = (
    "everything",
    *("top left corner", "top right corner", "bottom left corner", "bottom right corner"),
    *("top", "bottom", "left side", "right side"),
    *("top border", "bottom border", "left border", "right border"),
)
_MEASURES: Final = ("mean", "spread", "95th percentile", "99.5th percentile", "share of bright pixels", "fine structure")
FEATURES: Final = tuple(f"{measure}, {zone}" for zone in _ZONES for measure in _MEASURES)
"""What each number of ``outside_features`` is, in words."""

Values = NDArray[np.float32]


def outside(image: Image) -> Mask:
    """Returns which pixels of an (H, W) image lie outside the head and its margin, and were measured."""
    return measured(image) & ~_widened(head_mask(image))


def outside_features(image: Image) -> Values | None:
    """Measures what lies outside the head.

    The picture has thirteen zones of fixed place: everything, four corners, four sides, four strips along the border. Of
    each it takes mean, spread, two high percentiles, share of bright pixels and fine structure, over the pixels outside the
    head alone. Percentiles and means do not grow with the number of pixels, and a zone that the head fills repeats the value
    of the whole, so that the size and outline of the head, which belong to the patient, leave no mark.

    Args:
        image: One slice, (H, W).

    Returns:
        (78,) float32; HU are brought to 0..1 over -1024..400, grey values by their white, MR intensities are as stored. None
        where no head is found, or nothing lies outside it.
    """
    free = outside(image)
    if not head_mask(image).any() or int(free.sum()) < SMALLEST:
        return None
    values = _scaled(image)
    fine = np.abs(ndimage.laplace(values))
    whole = _measures(values[free], fine[free])
    rows = [whole]
    for zone in _zones(values.shape):
        inside = free[zone]
        enough = int(inside.sum()) >= SMALLEST
        rows.append(_measures(values[zone][inside], fine[zone][inside]) if enough else whole)
    return np.concatenate(rows).astype(np.float32)


def _measures(values: Values, fine: Values) -> Values:
    high, top = np.percentile(values, (95, 99.5))
    return np.array([values.mean(), values.std(), high, top, (values > BRIGHT).mean(), fine.mean()], np.float32)


def _scaled(image: Image) -> Values:
    pixels = np.where(measured(image), image.pixels, np.float32(0))
    if image.unit == "HU":
        low, high = HU_RANGE
        return np.asarray((np.clip(pixels, low, high) - low) / (high - low), np.float32)
    if image.unit == "MR":
        return np.asarray(pixels, np.float32)
    return np.asarray(pixels / np.float32(image.white or 255), np.float32)


def _zones(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Four corners, four sides, four strips along the border."""
    height, width = shape
    for part, corners in ((CORNER, True), (BORDER, False)):
        h, w = max(2, round(part * height)), max(2, round(part * width))
        top, bottom, left, right, every = slice(0, h), slice(-h, None), slice(0, w), slice(-w, None), slice(None)
        if corners:
            yield from ((top, left), (top, right), (bottom, left), (bottom, right))
        yield from ((top, every), (bottom, every), (every, left), (every, right))


def _widened(head: Mask) -> Mask:
    """The head with its margin, found on a small copy."""
    height, width = head.shape
    small = Pillow.fromarray(head.astype(np.uint8) * np.uint8(255)).resize((SIDE, SIDE), Pillow.Resampling.BOX)
    wide = ndimage.distance_transform_edt(np.asarray(small) == 0) <= MARGIN * SIDE
    grown = Pillow.fromarray(np.asarray(wide).astype(np.uint8) * np.uint8(255))
    return np.asarray(grown.resize((width, height), Pillow.Resampling.NEAREST)) > 127
