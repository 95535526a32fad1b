"""Features of the pixels outside the head: background, table, frame, letters; never the head or its outline."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from reslink.audit.features.levels import WHITE, gray_levels
from reslink.audit.features.quantiles import sorted_quantiles
from reslink.imaging.head_mask import Mask, head_mask, valid_pixels
from reslink.imaging.image import Image
from reslink.imaging.morphology import box_resize

MARGIN: Final = 1 / 24
"""Pixels closer to the head than this share of the longer side are excluded: scalp, ringing and JPEG blocks."""

WORKING_SIDE: Final = 128
"""Side at which the margin is computed, in pixels."""

MIN_ZONE_PIXELS: Final = 25
"""Minimum number of pixels outside the head for a zone to have features."""

BRIGHT_LEVEL: Final = 0.35
"""Share of white above which a pixel is bright on a dark background, such as letters and frames."""

HU_RANGE: Final = (-1024.0, 400.0)
SHARES: Final = (0.95, 0.995)
"""The high percentiles of a zone, as shares."""

BORDER: Final = 0.03
CORNER: Final = 0.2

_ZONES: Final = (
    "everything",
    *("top left corner", "top right corner", "bottom left corner", "bottom right corner"),
    *("top", "bottom", "left side", "right side"),
    *("top border", "bottom border", "left border", "right border"),
)
_MEASURES: Final = ("mean", "spread", "95th percentile", "99.5th percentile", "share of bright pixels", "fine structure")
FEATURE_NAMES: Final = tuple(f"{measure}, {zone}" for zone in _ZONES for measure in _MEASURES)
"""What each number of ``outside_head_features`` is, in words."""

Values = NDArray[np.float32]

_RADIUS: Final = int(MARGIN * WORKING_SIDE)
_Y, _X = np.ogrid[-_RADIUS : _RADIUS + 1, -_RADIUS : _RADIUS + 1]
_DISC: Final = (_X * _X + _Y * _Y <= (MARGIN * WORKING_SIDE) ** 2).astype(np.uint8)
"""The pixels within the margin of a pixel."""


def outside_head_mask(image: Image) -> Mask:
    """Returns the valid pixels of an (H, W) image that are outside the head and its margin."""
    return valid_pixels(image) & ~_with_margin(head_mask(image))


def outside_head_features(image: Image) -> Values | None:
    """Returns the features of the pixels outside the head.

    The image has thirteen fixed zones: everything, four corners, four sides, four strips along the border. The features of a
    zone are mean, standard deviation, two high percentiles, share of bright pixels and fine structure, over the pixels outside
    the head only. They do not depend on the number of pixels, and a zone that the head fills repeats the values of the whole
    image, so that the size and outline of the head, which belong to the patient, do not leak into the features.

    Args:
        image: One slice, (H, W).

    Returns:
        (78,) float32. HU are scaled from -1024..400 to 0..1, gray values by their white; MR intensities stay as stored. None
        if no head is found, or no pixel is outside it.
    """
    outside = outside_head_mask(image)
    if not head_mask(image).any() or np.count_nonzero(outside) < MIN_ZONE_PIXELS:
        return None
    values = _scaled(image)
    fine = np.abs(cv2.Laplacian(values, cv2.CV_32F, ksize=1, borderType=cv2.BORDER_REFLECT))
    levels = gray_levels(image)
    if levels is None:
        return _measure_zones(values, fine, outside)
    return _count_zones(levels, fine, outside)


def _measure_zones(values: Values, fine: Values, outside: Mask) -> Values:
    """Returns the measures of all zones, (78,)."""
    whole = _measures(values[outside], fine[outside])
    zones = [whole]
    for zone in _zones(values.shape):
        mask = outside[zone]
        enough = np.count_nonzero(mask) >= MIN_ZONE_PIXELS
        zones.append(_measures(values[zone][mask], fine[zone][mask]) if enough else whole)
    return np.concatenate(zones).astype(np.float32)


def _measures(values: Values, fine: Values) -> Values:
    ordered, mean = np.sort(values), values.mean()
    high, top = sorted_quantiles(ordered, SHARES)
    spread = np.sqrt(np.square(values - mean).mean())
    bright = 1 - np.searchsorted(ordered, BRIGHT_LEVEL, side="right") / values.size
    return np.array([mean, spread, high, top, bright, fine.mean()], np.float32)


def _count_zones(levels: NDArray[np.uint8], fine: Values, outside: Mask) -> Values:
    """Returns the same as :func:`_measure_zones` up to rounding, (78,), from the number of pixels of each level in each zone.

    The zones overlap. Pixels are counted once in each cell, the pixels of the same zones, and each zone adds its cells.
    """
    first_keys, member, rows, columns = _cells(levels.shape)
    keys = first_keys[outside] + levels[outside]
    counts = member @ np.bincount(keys, minlength=256 * member.shape[1]).reshape(-1, 256).astype(np.float64)
    fine_sums = ((rows @ (fine * outside)) * columns).sum(axis=1)
    pixels = counts.sum(axis=1)
    few = pixels < MIN_ZONE_PIXELS
    for sums in (counts, fine_sums, pixels):
        sums[few] = sums[0]
    shown = np.arange(256, dtype=np.float32) / np.float32(WHITE)
    cumulative = counts.cumsum(axis=1)
    mean = counts @ shown / pixels
    spread = np.sqrt((counts * np.square(shown - mean[:, None])).sum(axis=1) / pixels)
    bright = 1 - cumulative[:, np.searchsorted(shown, BRIGHT_LEVEL, side="right") - 1] / pixels
    positions = np.array(SHARES)[:, None] * (pixels - 1)
    first = np.floor(positions)
    low, high = (
        shown[(cumulative <= np.minimum(rank, pixels - 1)[..., None]).sum(axis=2)].astype(np.float64)
        for rank in (first, first + 1)
    )
    highs = low + (positions - first) * (high - low)
    return np.stack([mean, spread, *highs, bright, fine_sums / pixels], axis=1).ravel().astype(np.float32)


@lru_cache(maxsize=2)
def _cells(shape: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.float64], Values, Values]:
    """Returns 256 times the number of the cell of each pixel, (H, W), and the cells, rows and columns of each zone, 0 or 1.

    The shapes of the latter are (13, cells), (13, H) and (13, W).
    """
    rows, columns = (np.zeros((len(_ZONES), side), np.float32) for side in shape)
    for i, zone in enumerate([(slice(None), slice(None)), *_zones(shape)]):
        rows[i, zone[0]], columns[i, zone[1]] = 1, 1
    (bands, band), (strips, strip) = (np.unique(part, axis=1, return_inverse=True) for part in (rows, columns))
    member = (bands[:, :, None] * strips[:, None, :]).reshape(len(_ZONES), -1)
    keys = (band.reshape(-1, 1) * strips.shape[1] + strip.reshape(1, -1)) << 8
    return keys, member.astype(np.float64), rows, columns


def _scaled(image: Image) -> Values:
    valid = valid_pixels(image)
    pixels = image.pixels if valid.all() else np.where(valid, image.pixels, np.float32(0))
    if image.unit == "HU":
        low, high = HU_RANGE
        return np.asarray((np.clip(pixels, low, high) - low) / (high - low), np.float32)
    if image.unit == "MR":
        return np.asarray(pixels, np.float32)
    return np.asarray(pixels / np.float32(image.white or 255), np.float32)


def _zones(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Yields four corners, four sides and four strips along the border."""
    height, width = shape
    for share, with_corners in ((CORNER, True), (BORDER, False)):
        h, w = max(2, round(share * height)), max(2, round(share * width))
        top, bottom, left, right, every = slice(0, h), slice(-h, None), slice(0, w), slice(-w, None), slice(None)
        if with_corners:
            yield from ((top, left), (top, right), (bottom, left), (bottom, right))
        yield from ((top, every), (bottom, every), (every, left), (every, right))


def _with_margin(head: Mask) -> Mask:
    """Returns the head with its margin, computed on a small copy."""
    height, width = head.shape
    small = box_resize(head.astype(np.float32), WORKING_SIDE, WORKING_SIDE) > 0
    wide = cv2.dilate(small.view(np.uint8), _DISC, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    grown = Picture.fromarray(np.asarray(wide)).resize((width, height), Picture.Resampling.NEAREST)
    return np.asarray(grown).view(np.bool_)
