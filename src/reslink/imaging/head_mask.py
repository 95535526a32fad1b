"""Segment the head in a slice, without table, head holder, background and text, and recognize pictures of several heads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final
from weakref import WeakKeyDictionary

import cv2
import numpy as np
from numpy.typing import NDArray

from reslink.imaging.image import Image, Stated
from reslink.imaging.morphology import box_mean, closing, dilate, fill_holes, gray_opening, label_components, opening

WORKING_SIDE: Final = 128
"""Longer side, in pixels, of the copy on which the mask is computed (about 2 mm per pixel)."""

TISSUE_HU: Final = -300.0
"""Between air or foam (below -900 HU) and fat (-120 to -90 HU)."""

MIN_HEAD_SHARE: Final = 0.02
"""Minimum share of the image that a head covers."""

SEVERAL_HEADS: Final = "several heads in one picture (a contact sheet or a mosaic), not a slice"
"""Why a picture of several heads is not classified."""

_UNIFORM: Final = 0.05
"""Range of the middle 90 % of a row or column that is a gap between tiles, as a share of the range of the picture."""

_MAX_GAP: Final = 0.15
"""Largest gap between two tiles, as a share of the picture."""

_MIN_CORRELATION: Final = 0.4
"""Lowest correlation of repeated tiles. With it 4 of 14,231 single slices are refused, and 1,436 of 1,440 sheets recognized."""

_MIN_RISE: Final = 0.25
"""How much the correlation at the distance of two tiles exceeds the lowest one at a smaller distance."""

_MAX_SHIFT: Final = 0.55
"""Largest distance of two tiles, as a share of the picture."""

_LARGE: Final = 1e30
"""Larger values are scaled down, because their sums overflow."""

Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]

_CACHE: Final[WeakKeyDictionary[Image, Mask]] = WeakKeyDictionary()
"""Masks of images that still exist: several steps of the preprocessing need the mask of the same image."""

_WORKING_COPIES: Final[WeakKeyDictionary[Image, Plane]] = WeakKeyDictionary()
"""Working copies of images that still exist: the mask and the test for several heads need the same."""


def head_mask(image: Image) -> Mask:
    """Segments the head in one slice.

    A copy of 128 pixels a side is thresholded. Opening removes thin objects (text, table, head holder), the largest component
    near the center is kept, and its holes are filled (ventricles and sinuses belong to the head). CT in HU has a fixed
    threshold. For other units the levels of background and head are estimated, so that the mask does not depend on brightness
    and contrast. A picture with much white is treated as CT: the mask follows the skull, and areas without structure (noise,
    hatching) are excluded. Otherwise, as in MR, it follows the scalp.

    Args:
        image: One slice, (H, W), any unit; not changed.

    Returns:
        (H, W) booleans, read-only, True inside the head; all False if no head is found (blank image).
    """
    mask = _CACHE.get(image)
    if mask is None:
        mask = _CACHE[image] = _segment(image)
        mask.setflags(write=False)
    return mask


def stated_content(image: Image, sequence: str | None = None) -> Stated:
    """Returns what the file of an image states, or that it is excluded because it shows several heads.

    Args:
        image: One slice or a volume. The middle slice of a volume is examined.
        sequence: The MR sequence by the user or a table, which replaces that of the file; None keeps it.
    """
    stated = image.stated.with_sequence(sequence)
    if stated.excluded is None and 0 not in image.pixels.shape:
        planes = image.slices()
        if holds_several_heads(planes[len(planes) // 2]):
            return stated._replace(excluded=SEVERAL_HEADS)
    return stated


def holds_several_heads(image: Image) -> bool:
    """Returns whether a picture shows several heads: a contact sheet, a mosaic, or a screenshot of several views.

    The silhouette of heads in rows or columns resembles itself when it is shifted by one tile. Two views of different form
    have silhouettes that are separate, compact and of similar size. Gaps between tiles count as background, whatever their
    color.

    Args:
        image: One slice, (H, W), any unit; not changed.
    """
    silhouette = _silhouette(image)
    if silhouette is None or silhouette.mean() <= MIN_HEAD_SHARE:
        return False
    return _repeats(silhouette) or _has_separate_heads(silhouette)


def _silhouette(image: Image) -> Plane | None:
    """Returns how much each pixel belongs to a bright object, 0 to 1, at the working size; None for a blank image."""
    valid = valid_pixels(image)
    if not valid.any():
        return None
    values = _working_copy(image, valid)
    if image.unit == "HU":
        values = np.clip((values - 2 * TISSUE_HU) / (-2 * TISSUE_HU), 0, 2)  # 0.5 at the threshold of tissue; bone beyond 1
    rows, columns = _uniform_rows(values), _uniform_rows(values.T)
    content = values[~rows][:, ~columns]
    if min(content.shape) < WORKING_SIDE // 8:
        return None
    if image.unit != "HU" and _bright_corners(content):  # the gaps and the background of the tiles differ
        values, content = 1 - values, 1 - content
    background = sorted_quantile(np.sort(content, axis=None), 0.05)
    smooth = _remove_thin_lines(np.where(rows[:, None] | columns, background, values))
    if image.unit == "HU":
        return np.minimum(smooth, 1)
    levels = _background_and_head_levels(box_mean(smooth, 3))
    if levels is None:
        return None
    dark, bright = levels
    return np.asarray(np.clip((smooth - dark) / (0.5 * (bright - dark)), 0, 1), np.float32)


def _uniform_rows(values: Plane) -> Mask:
    """Returns the rows of gaps and margins: nearly equal pixels, except for a twentieth at each end of the range (annotations).

    Rows within the picture are not a gap if many are together: the middle of a head is as uniform if it fills the picture.
    """
    ordered, count = np.sort(values, axis=1), values.shape[1]
    uniform = np.asarray(ordered[:, int(0.95 * count)] - ordered[:, int(0.05 * count)] < _UNIFORM)
    if not uniform.any():
        return uniform
    edges = np.flatnonzero(np.diff(np.concatenate([[False], uniform, [False]])))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if start > 0 and end < len(uniform) and end - start > _MAX_GAP * len(uniform):
            uniform[start:end] = False
    return uniform


def _repeats(silhouette: Plane) -> bool:
    """Whether a silhouette resembles itself when shifted along an axis by up to half of the picture."""
    half = np.asarray(cv2.resize(silhouette, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.float64)
    return max(_repetition(half), _repetition(half.T)) >= _MIN_CORRELATION


def _repetition(values: NDArray[np.float64]) -> float:
    """Returns the highest correlation of a plane with itself at which it rose again with the shift along the rows, or 0.

    It falls with the shift for any object; it rises again at the distance of two tiles.
    """
    height, width = values.shape
    shifts = np.arange(1, int(_MAX_SHIFT * width) + 1)
    spectrum = np.fft.rfft(values, 2 * width)
    power = (spectrum.real**2 + spectrum.imag**2).sum(axis=0)
    products = np.fft.irfft(power, 2 * width)[shifts]
    overlap = height * (width - shifts)
    sums = [
        np.cumsum(part)[width - shifts - 1]
        for line in (values.sum(axis=0), (values**2).sum(axis=0))
        for part in (line, line[::-1])
    ]
    left, right, left_squares, right_squares = sums
    covariance = products - left * right / overlap
    variances = np.maximum(left_squares - left**2 / overlap, 0) * np.maximum(right_squares - right**2 / overlap, 0)
    correlation = np.divide(covariance, np.sqrt(variances), out=np.zeros(len(shifts)), where=variances > 1e-9)
    rises = correlation - np.minimum.accumulate(correlation) >= _MIN_RISE
    return float(correlation[rises].max(initial=0))


def _has_separate_heads(silhouette: Plane) -> bool:
    """Whether the two largest objects have the form of a head, similar areas, and bounding boxes that do not overlap."""
    objects = opening(fill_holes(box_mean(silhouette, 3) > 0.5), 2)
    _, _, statistics, _ = cv2.connectedComponentsWithStats(objects.view(np.uint8), connectivity=4)
    boxes, areas = statistics[1:, : cv2.CC_STAT_AREA], statistics[1:, cv2.CC_STAT_AREA]
    heads = [
        (areas[i], boxes[i])
        for i in np.argsort(-areas)[:8]
        if areas[i] >= 0.4 * areas.max() and _is_compact(areas[i], boxes[i])
    ]
    if len(heads) < 2 or sum(int(area) for area, _ in heads) < 0.12 * silhouette.size:
        return False
    (x, y, width, height), (other_x, other_y, other_width, other_height) = heads[0][1], heads[1][1]
    across = min(x + width, other_x + other_width) - max(x, other_x)
    down = min(y + height, other_y + other_height) - max(y, other_y)
    return bool(max(across, 0) * max(down, 0) <= 0.05 * min(width * height, other_width * other_height))


def _is_compact(area: int, box: Sequence[int]) -> bool:
    """Whether an object fills its bounding box like an ellipse and is not elongated like a table or a cerebral hemisphere."""
    _, _, width, height = box
    return area >= 0.55 * width * height and 0.6 <= width / height <= 1.67


def _segment(image: Image) -> Mask:
    valid = valid_pixels(image)
    if not valid.any():
        return valid
    small = _without_frame(_working_copy(image, valid))
    mask = _fill_main_component(small > TISSUE_HU) if image.unit == "HU" else _segment_without_unit(small)
    return _to_image_size(mask, valid.shape) & valid if mask.mean() > MIN_HEAD_SHARE else np.zeros_like(valid)


def valid_pixels(image: Image) -> Mask:
    """Returns the mask of valid pixels: finite and not padding, booleans shaped like the pixels."""
    finite = np.isfinite(image.pixels)
    return finite if image.padding is None else finite & ~image.padding


def _working_copy(image: Image, valid: Mask) -> Plane:
    """Returns the image at the working size, read-only; HU unchanged; others 0..1, dark background, invalid pixels 0."""
    copy = _WORKING_COPIES.get(image)
    if copy is None:
        copy = _WORKING_COPIES[image] = _make_working_copy(image, valid)
        copy.setflags(write=False)
    return copy


def _make_working_copy(image: Image, valid: Mask) -> Plane:
    all_valid = bool(valid.all())
    pixels = np.asarray(image.pixels, np.float32)
    values = pixels if all_valid else np.where(valid, pixels, pixels[valid].min())
    if image.unit == "HU":
        return _resampled(values)
    low, high = float(values.min()), float(values.max())
    if high - low > _LARGE:
        values, low, high = values / np.float32(_LARGE), low / _LARGE, high / _LARGE
    small = _resampled(values)
    if not high > low:
        return np.zeros_like(small)
    unit = ((small.astype(np.float64) - low) / (high - low)).astype(np.float32)
    valid_share = np.float32(1) if all_valid else _resampled(valid.astype(np.float32))
    unit = valid_share - unit if image.inverted else unit
    return valid_share - unit if _bright_corners(unit) else unit


def _bright_corners(values: Plane) -> bool:
    """Whether all four corners are closer to white than to black, as in a negative."""
    h, w = (max(1, side // 16) for side in values.shape)
    corners = (values[:h, :w], values[:h, -w:], values[-h:, :w], values[-h:, -w:])
    return all(sorted_median(np.sort(corner, axis=None)) > 0.5 for corner in corners)


def _resampled(values: Plane) -> Plane:
    """Resizes the longer side to the working size, so that a radius means the same in every image."""
    height, width = values.shape
    scale = WORKING_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, size, interpolation=interpolation), np.float32)


def _to_image_size(mask: Mask, shape: tuple[int, ...]) -> Mask:
    gray = mask.astype(np.uint8) * np.uint8(255)
    return np.asarray(cv2.resize(gray, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)) > 127


def _without_frame(values: Plane) -> Plane:
    """Replaces the outermost two pixels, where pictures may have a frame, by their inner neighbors."""
    if min(values.shape) <= 8:
        return values
    inner = values.copy()
    inner[:2], inner[-2:] = inner[2], inner[-3]
    inner[:, :2], inner[:, -2:] = inner[:, 2:3], inner[:, -3:-2]
    return inner


def _segment_without_unit(values: Plane) -> Mask:
    """Segments a picture or MR image, whose values (0 to 1) have no physical unit."""
    without_text = _remove_thin_lines(values)
    levels = _background_and_head_levels(box_mean(without_text, 3))
    if levels is None:
        return np.zeros(values.shape, np.bool_)
    dark, bright = levels
    top = float(without_text.max())
    inside = without_text > dark + 0.4 * (bright - dark)
    white = without_text > dark + 0.9 * (top - dark)
    if np.count_nonzero(inside & white) > 0.06 * np.count_nonzero(inside):
        return _segment_by_skull(values, dark, min(bright, (dark + top) / 2))
    return _segment_by_scalp(values, dark + 0.2 * (bright - dark))


def _remove_thin_lines(values: Plane) -> Plane:
    """Removes bright lines of up to two pixels, so that burned-in text does not change the levels."""
    thick = gray_opening(values)
    return np.where(values - thick > 0.3, thick, values)


def _background_and_head_levels(smooth: Plane) -> tuple[float, float] | None:
    """Returns the medians of the values below and above the mean; None for a flat image.

    If the head fills the picture, the values below the mean may be brain. Then the background level is the median of the much
    darker values along the rim of the picture.
    """
    ordered, mean = np.sort(smooth, axis=None), smooth.mean()
    low = float(ordered[0])
    if not mean > low:
        return None
    brighter = int(np.searchsorted(ordered, mean, side="right"))
    dark, bright = sorted_median(ordered[:brighter]), sorted_median(ordered[brighter:])
    rim = np.concatenate([smooth[0], smooth[-1], smooth[:, 0], smooth[:, -1]])
    darker = rim[rim <= (low + dark) / 2]
    if dark - low > 0.35 * (bright - low) and darker.size > 0.05 * rim.size:
        return sorted_median(np.sort(darker)), bright
    return dark, bright


def sorted_median(ordered: NDArray[np.floating[Any]]) -> float:
    """Returns the same value as ``numpy.median``, bit for bit, for sorted values without NaN, (n,), but faster."""
    last = ordered.size // 2
    return float(ordered[last] if ordered.size % 2 else (ordered[last - 1] + ordered[last]) / 2)


def sorted_quantile(ordered: Plane, quantile: float) -> np.float32:
    """Returns the same value as ``numpy.quantile``, bit for bit, for sorted values without NaN, (n,), but faster."""
    position = (ordered.size - 1) * quantile
    first = int(position)
    share, (low, high) = position - first, ordered[[first, min(first + 1, ordered.size - 1)]]
    step = high - low
    return np.float32(low + step * share if share < 0.5 else high - step * (1 - share))


def _segment_by_scalp(values: Plane, level: float) -> Mask:
    """Segments everything brighter than the background, including the dark skull between brain and scalp (MR)."""
    smooth = box_mean(values, 3)
    return _main_component(opening(fill_holes(closing(smooth > level, 3)), 4))


def _segment_by_skull(values: Plane, dark: float, bright: float) -> Mask:
    """Segments the skull with its content and attached tissue (CT pictures)."""
    structured = (values > dark + 0.4 * (bright - dark)) & ~_unstructured(values, 0.15 * (bright - dark))
    return _fill_main_component(structured)


def _fill_main_component(mask: Mask) -> Mask:
    """Returns the main component without thin parts, with its holes and narrow gaps filled."""
    core = _main_component(opening(fill_holes(mask), 3))
    near = mask & dilate(core, 2)
    return fill_holes(closing(core | near, 3))


def _unstructured(values: Plane, contrast: float) -> Mask:
    """Returns the pixels without structure: noise, hatching, small text.

    There the correlation of neighboring pixels, over 5×5 pixels, is below 1/4, and the standard deviation is above
    ``contrast``.
    """
    fine = values - box_mean(values, 5)
    power = box_mean(fine * fine, 5)
    products = fine * _shift_rows(fine.T).T + fine * _shift_rows(fine)
    covariance = box_mean(products, 5) / 2
    return np.asarray((covariance < 0.25 * power) & (power > contrast**2))


def _shift_rows(values: Plane) -> Plane:
    """Shifts each row down by one; the last row becomes the first."""
    return np.concatenate([values[-1:], values[:-1]])


def _main_component(mask: Mask) -> Mask:
    """Returns the largest connected component, with pixels weighted by their proximity to the center."""
    labels, count = label_components(mask)
    if count < 2:
        return mask
    height, width = mask.shape
    weight = np.bincount(labels.ravel(), _center_weights(height, width))
    weight[0] = 0
    return np.asarray(labels == weight.argmax())


@lru_cache(maxsize=64)
def _center_weights(height: int, width: int) -> NDArray[np.float64]:
    """Returns the flattened weight of each pixel: 1 at the center, decreasing with distance."""
    y, x = (np.linspace(-1, 1, side) for side in (height, width))
    weights: NDArray[np.float64] = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2)).ravel()
    weights.setflags(write=False)
    return weights
