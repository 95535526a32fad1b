"""What of an image is head: without table, head holder, background and burned-in text."""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from weakref import WeakKeyDictionary

import cv2
import numpy as np
from numpy.typing import NDArray

from reslink.imaging.image import Image
from reslink.imaging.morphology import closed, dilated, filled, grey_opened, labelled, opened, smoothed

WORKING_SIDE: Final = 128
"""Pixels of the longer side at which the mask is found (about 2 mm each)."""

TISSUE_HU: Final = -300.0
"""Between air or foam (below -900 HU) and fat (-120 to -90 HU)."""

SMALLEST: Final = 0.02
"""A head covers at least this part of the image."""

_LARGE: Final = 1e30
"""Sums of larger values overflow."""

Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]

_KNOWN: Final[WeakKeyDictionary[Image, Mask]] = WeakKeyDictionary()
"""Masks of images that are still alive: pixels, head mask, thumbnail and lesion mask of an image all ask for it."""


def head_mask(image: Image) -> Mask:
    """Finds the head in one slice.

    The image is thresholded on a copy of 128 pixels a side; opening removes what is thin (text, table, head
    holder), the largest piece near the centre is kept, and its holes are filled (ventricles and sinuses belong to the
    head). CT in HU has a fixed threshold. Elsewhere the levels of background and head are estimated, so that the mask
    does not change with brightness and contrast. A picture with much white is taken for a CT: there the mask follows the
    skull, and areas without any structure (noise, hatching) are left out. Otherwise, as in MR, it follows the scalp.

    Args:
        image: One slice, (H, W), any unit; not changed.

    Returns:
        (H, W) booleans, read-only, True inside the head; all False where no head is found (blank image).
    """
    known = _KNOWN.get(image)
    if known is None:
        known = _KNOWN[image] = _find(image)
        known.setflags(write=False)
    return known


def _find(image: Image) -> Mask:
    valid = measured(image)
    if not valid.any():
        return valid
    small = _unframed(_working_copy(image, valid))
    mask = _solid(small > TISSUE_HU) if image.unit == "HU" else _pictured(small)
    return _returned(mask, valid.shape) & valid if mask.mean() > SMALLEST else np.zeros_like(valid)


def measured(image: Image) -> Mask:
    """Returns which pixels hold a measurement: finite and not padding, booleans like the pixels."""
    finite = np.isfinite(image.pixels)
    return finite if image.padding is None else finite & ~image.padding


def _working_copy(image: Image, valid: Mask) -> Plane:
    """The image at the working size: HU as they are; otherwise 0 to 1, the background low and what was not measured 0."""
    whole = bool(valid.all())
    pixels = np.asarray(image.pixels, np.float32)
    values = pixels if whole else np.where(valid, pixels, pixels[valid].min())
    if image.unit == "HU":
        return _resampled(values)
    low, high = float(values.min()), float(values.max())
    if high - low > _LARGE:
        values, low, high = values / np.float32(_LARGE), low / _LARGE, high / _LARGE
    small = _resampled(values)
    if not high > low:
        return np.zeros_like(small)
    unit = ((small.astype(np.float64) - low) / (high - low)).astype(np.float32)
    measured_share = np.float32(1) if whole else _resampled(valid.astype(np.float32))
    unit = measured_share - unit if image.inverted else unit
    return measured_share - unit if _bright_corners(unit) else unit


def _bright_corners(values: Plane) -> bool:
    """Whether all four corners are nearer to white than to black: the picture is a negative."""
    h, w = (max(1, side // 16) for side in values.shape)
    corners = (values[:h, :w], values[:h, -w:], values[-h:, :w], values[-h:, -w:])
    return all(_middle(np.sort(corner, axis=None)) > 0.5 for corner in corners)


def _resampled(values: Plane) -> Plane:
    """Brings the longer side to the working size, so that a radius means the same in every image."""
    height, width = values.shape
    scale = WORKING_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, size, interpolation=how), np.float32)


def _returned(mask: Mask, shape: tuple[int, ...]) -> Mask:
    grey = mask.astype(np.uint8) * np.uint8(255)
    return np.asarray(cv2.resize(grey, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)) > 127


def _unframed(values: Plane) -> Plane:
    """Replaces the outermost two pixels, where pictures have frames, by those next to them."""
    if min(values.shape) <= 8:
        return values
    inner = values.copy()
    inner[:2], inner[-2:] = inner[2], inner[-3]
    inner[:, :2], inner[:, -2:] = inner[:, 2:3], inner[:, -3:-2]
    return inner


def _pictured(values: Plane) -> Mask:
    """The head of a picture or MR image, whose values (0 to 1) have no fixed meaning."""
    plain = _plain(values)
    levels = _levels(smoothed(plain, 3))
    if levels is None:
        return np.zeros(values.shape, np.bool_)
    dark, bright = levels
    top = float(plain.max())
    inside = plain > dark + 0.4 * (bright - dark)
    white = plain > dark + 0.9 * (top - dark)
    if np.count_nonzero(inside & white) > 0.06 * np.count_nonzero(inside):
        return _skull(values, dark, min(bright, (dark + top) / 2))
    return _silhouette(values, dark + 0.2 * (bright - dark))


def _plain(values: Plane) -> Plane:
    """Takes bright lines of up to two pixels away, so that burned-in text moves no level."""
    thick = grey_opened(values)
    return np.where(values - thick > 0.3, thick, values)


def _levels(smooth: Plane) -> tuple[float, float] | None:
    """Levels of background and head: medians of what is darker and brighter than the mean; None for a flat image.

    Where the head fills the picture, what is darker than the mean may be brain; then the background is what is still much
    darker along the rim of the picture.
    """
    ordered, mean = np.sort(smooth, axis=None), smooth.mean()
    low = float(ordered[0])
    if not mean > low:
        return None
    brighter = int(np.searchsorted(ordered, mean, side="right"))
    dark, bright = _middle(ordered[:brighter]), _middle(ordered[brighter:])
    rim = np.concatenate([smooth[0], smooth[-1], smooth[:, 0], smooth[:, -1]])
    darker = rim[rim <= (low + dark) / 2]
    if dark - low > 0.35 * (bright - low) and darker.size > 0.05 * rim.size:
        return _middle(np.sort(darker)), bright
    return dark, bright


def _middle(ordered: Plane) -> float:
    """The number of ``numpy.median``, to the bit, of values in order, all of them numbers: without its checks."""
    last = ordered.size // 2
    return float(ordered[last] if ordered.size % 2 else (ordered[last - 1] + ordered[last]) / 2)


def _silhouette(values: Plane, level: float) -> Mask:
    """MR: all that stands out from the dark background, the dark skull between brain and scalp included."""
    smooth = smoothed(values, 3)
    return _main_piece(opened(filled(closed(smooth > level, 3)), 4))


def _skull(values: Plane, dark: float, bright: float) -> Mask:
    """CT in a picture: the skull with what lies inside it and hangs on to it."""
    even = (values > dark + 0.4 * (bright - dark)) & ~_scattered(values, 0.15 * (bright - dark))
    return _solid(even)


def _solid(mask: Mask) -> Mask:
    """The main piece without what is thin, with its holes and narrow bays."""
    core = _main_piece(opened(filled(mask), 3))
    near = mask & dilated(core, 2)
    return filled(closed(core | near, 3))


def _scattered(values: Plane, contrast: float) -> Mask:
    """Where neighbouring pixels have nothing to do with each other: noise, hatching, small text.

    There the correlation of a pixel with its neighbours, over 5×5 pixels, is below 1/4, at a deviation above
    ``contrast``.
    """
    fine = values - smoothed(values, 5)
    power = smoothed(fine * fine, 5)
    beside = fine * _turned(fine.T).T + fine * _turned(fine)
    together = smoothed(beside, 5) / 2
    return np.asarray((together < 0.25 * power) & (power > contrast**2))


def _turned(values: Plane) -> Plane:
    """Each row one row further down, the last one on top."""
    return np.concatenate([values[-1:], values[:-1]])


def _main_piece(mask: Mask) -> Mask:
    """The largest connected piece, each pixel weighted by its nearness to the centre."""
    pieces, count = labelled(mask)
    if count < 2:
        return mask
    height, width = mask.shape
    weight = np.bincount(pieces.ravel(), _nearness(height, width))
    weight[0] = 0
    return np.asarray(pieces == weight.argmax())


@lru_cache(maxsize=64)
def _nearness(height: int, width: int) -> NDArray[np.float64]:
    """The weight of each pixel, row after row: 1 in the centre, less the farther from it."""
    y, x = (np.linspace(-1, 1, side) for side in (height, width))
    weights: NDArray[np.float64] = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2)).ravel()
    weights.setflags(write=False)
    return weights
