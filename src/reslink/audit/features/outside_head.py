"""Features of the pixels outside the head: background, table, frame, letters; never the head or its outline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from reslink.audit.features.quantiles import sorted_quantiles
from reslink.imaging.head_mask import Mask, head_mask, valid_pixels
from reslink.imaging.image import Image

MARGIN: Final = 1 / 24
"""Pixels closer to the head than this share of the longer side are excluded: scalp, ringing and JPEG blocks."""

WORKING_SIDE: Final = 128
"""Side at which the margin is computed, in pixels."""

MIN_ZONE_PIXELS: Final = 25
"""Minimum number of pixels outside the head for a zone to have features."""

BRIGHT_LEVEL: Final = 0.35
"""Share of white above which a pixel is bright on a dark background, such as letters and frames."""

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
    whole = _measures(values[outside], fine[outside])
    zones = [whole]
    for zone in _zones(values.shape):
        mask = outside[zone]
        enough = np.count_nonzero(mask) >= MIN_ZONE_PIXELS
        zones.append(_measures(values[zone][mask], fine[zone][mask]) if enough else whole)
    return np.concatenate(zones).astype(np.float32)


def _measures(values: Values, fine: Values) -> Values:
    ordered, mean = np.sort(values), values.mean()
    high, top = sorted_quantiles(ordered, (0.95, 0.995))
    spread = np.sqrt(np.square(values - mean).mean())
    bright = 1 - np.searchsorted(ordered, BRIGHT_LEVEL, side="right") / values.size
    return np.array([mean, spread, high, top, bright, fine.mean()], np.float32)


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
    small = Pillow.fromarray(head.astype(np.uint8) * np.uint8(255)).resize((WORKING_SIDE, WORKING_SIDE), Pillow.Resampling.BOX)
    wide = cv2.dilate((np.asarray(small) > 0).view(np.uint8), _DISC, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    grown = Pillow.fromarray(np.asarray(wide))
    return np.asarray(grown.resize((width, height), Pillow.Resampling.NEAREST)) > 0
