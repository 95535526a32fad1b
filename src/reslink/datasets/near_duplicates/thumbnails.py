"""Thumbnails: the 64×64 images of the head that near-duplicate search compares; stored in the pixel cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from reslink.errors import UsageError
from reslink.imaging.head_mask import WORKING_SIDE, head_mask, sorted_median, valid_pixels
from reslink.imaging.image import Image
from reslink.imaging.morphology import box_resize, dilate_cross, erode_cross, fill_holes, label_components
from reslink.imaging.preprocess import MARGIN, Preprocess

THUMBNAIL_SIZE: Final = 64
UNIFORM_DEVIATION: Final = 0.03
"""A row is uniform if its standard deviation is below this share of the gray range."""

FRAME_STEP: Final = 0.05
"""Uniform rows are a frame and not background if the median then changes by more than this share of the gray range."""

WHOLE_HEAD_SHARE: Final = 0.7
"""A head mask with less than this share of the foreground holds only part of the head."""

CLEARLY_WHOLE_SHARE: Final = 0.8
"""With this share of the small foreground, a head mask is whole: resizing changes the area by a few percent only."""

MAX_HEAD_SHARE: Final = 0.88
"""Largest plausible share of foreground in an image; an uncropped head leaves more background."""

Thumbnails = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_PREPROCESS_HEAD: Final = Preprocess(size=THUMBNAIL_SIZE, channels=1, window="brain", isolate_head=True)
_PREPROCESS_ALL: Final = Preprocess(size=THUMBNAIL_SIZE, channels=1, window="brain", isolate_head=False)


def make_thumbnail(image: Image) -> Thumbnails:
    """Returns the thumbnail of a slice for near-duplicate search.

    A uniform frame is removed. If the image edge cuts through the skull, the head mask may contain only a piece of skull.
    Then, and whenever the head touches the edge, the whole foreground is used instead.

    Args:
        image: One slice, (H, W).

    Returns:
        (64, 64) uint8: the head, 0 outside, scaled to fit its longer side; brain window for CT in HU.

    Raises:
        InputError: If the image is a volume or has no pixels.
    """
    if image.pixels.ndim != 2 or min(image.pixels.shape) < 8:
        return np.asarray(_PREPROCESS_HEAD.pixels(image)[0])
    unframed = _remove_frame(image)
    head = head_mask(unframed)
    if unframed.unit != "HU":
        small = _small_foreground(unframed)
        if _touches_edge(head) or _share(head) < CLEARLY_WHOLE_SHARE * _share(small):
            foreground = _to_image_size(small, head.shape)
            if _touches_edge(head) or _is_partial_head(head, foreground):
                return np.asarray(_PREPROCESS_ALL.pixels(_crop_to_head(unframed, foreground))[0])
    return np.asarray(_PREPROCESS_HEAD.pixels(unframed)[0])


def check_thumbnails(thumbnails: Thumbnails) -> None:
    """Checks shape and type of thumbnails.

    Raises:
        UsageError: If the array is not (n, 64, 64) uint8.
    """
    if thumbnails.ndim != 3 or thumbnails.shape[1:] != (THUMBNAIL_SIZE, THUMBNAIL_SIZE) or thumbnails.dtype != np.uint8:
        raise UsageError(
            f"Got thumbnails of shape {thumbnails.shape} and type {thumbnails.dtype}",
            f"Thumbnails have shape (n, {THUMBNAIL_SIZE}, {THUMBNAIL_SIZE}) and type uint8",
            "Make them with reslink.datasets.near_duplicates.thumbnails.make_thumbnail",
        )


def _remove_frame(image: Image) -> Image:
    """Removes a uniform frame along the edges, unless that leaves less than half of a side."""
    valid = valid_pixels(image)
    if not valid.any():
        return image
    values = image.pixels if valid.all() else np.where(valid, image.pixels, image.pixels[valid].min())
    low, high = values.min(), values.max()
    if not high > low:
        return image
    unit = (values - low) / (high - low)
    top, bottom, left, right = 0, unit.shape[0], 0, unit.shape[1]
    for _ in range(4):  # corners belong to rows and columns, and blurred frames show only after the other axis
        up, down = _frame_widths(unit[top:bottom, left:right])
        top, bottom = top + up, bottom - down
        before, after = _frame_widths(unit[top:bottom, left:right].T)
        left, right = left + before, right - after
        if not (up or down or before or after):
            break
    if bottom - top < unit.shape[0] / 2 or right - left < unit.shape[1] / 2:
        return image
    return _crop(image, slice(top, bottom), slice(left, right)) if (bottom - top, right - left) != unit.shape else image


def _frame_widths(unit: NDArray[np.float32]) -> tuple[int, int]:
    """Returns the number of frame rows at the first and at the last edge."""
    return (_frame_rows(unit), _frame_rows(unit[::-1])) if unit.size else (0, 0)


def _are_uniform(rows: NDArray[np.float32]) -> Mask:
    centered = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", centered, centered) / rows.shape[1]) < UNIFORM_DEVIATION)


def _uniform_rows(unit: NDArray[np.float32]) -> int:
    """Returns the number of uniform rows before the first that is not."""
    start = 0
    while start < len(unit):
        uniform = _are_uniform(unit[start : start + max(1, start)])  # twice as many rows each time
        if not uniform.all():
            return start + int(uniform.argmin())
        start += len(uniform)
    return start


def _frame_rows(unit: NDArray[np.float32]) -> int:
    """Returns the number of uniform rows as bright as the first, if the rows after them are brighter or darker."""
    uniform = _uniform_rows(unit)
    if not uniform:
        return 0
    levels = np.array([sorted_median(row) for row in np.sort(unit[: uniform + 3], axis=1)])
    same_as_first = np.abs(levels - levels[0]) <= FRAME_STEP / 2
    same_as_first[uniform:] = False
    rows = int(same_as_first.argmin())
    return rows if rows and np.abs(levels[rows : rows + 3] - levels[0]).max() > FRAME_STEP else 0


def _crop(image: Image, rows: slice, columns: slice) -> Image:
    padding = None if image.padding is None else image.padding[rows, columns]
    return replace(image, pixels=image.pixels[rows, columns], padding=padding)


def _is_partial_head(head: Mask, foreground: Mask) -> bool:
    """Returns whether the head mask holds only part of the head; a bright background makes the test inconclusive."""
    plausible = _share(foreground) < MAX_HEAD_SHARE or _share(head) < 1 - MAX_HEAD_SHARE
    return bool(plausible and np.count_nonzero(head) < WHOLE_HEAD_SHARE * np.count_nonzero(foreground))


def _share(mask: Mask) -> float:
    return np.count_nonzero(mask) / mask.size


def _touches_edge(head: Mask) -> bool:
    return bool(head[[0, -1]].any() or head[:, [0, -1]].any())


def _small_foreground(image: Image) -> Mask:
    """Returns the largest foreground component, with the longer side at the working size; all True if there is none."""
    valid = valid_pixels(image)
    values = image.pixels if valid.all() else np.where(valid, image.pixels, image.pixels.min())
    values = values.max() - values if image.inverted else values
    scale = WORKING_SIDE / max(values.shape)
    size = max(1, round(values.shape[1] * scale)), max(1, round(values.shape[0] * scale))
    smooth = _mean_of_neighbors(box_resize(values, *size))
    low, high = float(smooth.min()), float(smooth.max())
    if not high > low:
        return np.ones(smooth.shape, np.bool_)
    typical = sorted_median(np.sort(smooth[smooth > low + 0.1 * (high - low)]))
    bright = np.zeros((smooth.shape[0] + 8, smooth.shape[1] + 8), np.bool_)
    bright[4:-4, 4:-4] = smooth > low + 0.27 * (typical - low)
    filled = fill_holes(erode_cross(dilate_cross(bright, 3), 3))
    solid = dilate_cross(erode_cross(filled, 4), 4)
    components, count = label_components(solid[4:-4, 4:-4])
    if count == 0:
        return np.ones(smooth.shape, np.bool_)
    return np.asarray(components == np.bincount(components.ravel())[1:].argmax() + 1)


def _mean_of_neighbors(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the means of 3×3 pixels, the same bits as ``ndimage.uniform_filter``: double sums, rounded after each axis."""
    for size in ((1, 3), (3, 1)):
        sums = cv2.boxFilter(plane, cv2.CV_64F, size, normalize=False, borderType=cv2.BORDER_REFLECT)
        plane = np.divide(sums, 3, dtype=np.float64).astype(np.float32)
    return plane


def _to_image_size(mask: Mask, shape: tuple[int, ...]) -> Mask:
    scaled = Picture.fromarray(mask.astype(np.uint8) * np.uint8(255))
    return np.asarray(scaled.resize((shape[1], shape[0]), Picture.Resampling.BILINEAR)) > 127


def _crop_to_head(image: Image, head: Mask) -> Image:
    """Crops the image to the head with a margin, and marks all other pixels as padding."""
    rows, columns = np.flatnonzero(head.any(axis=1)), np.flatnonzero(head.any(axis=0))
    inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inside_head = (head & valid_pixels(image))[inside]
    margins = [(round(MARGIN * side),) * 2 for side in inside_head.shape]
    pixels = np.pad(image.pixels[inside], margins, mode="edge")
    return replace(image, pixels=pixels, padding=~np.pad(inside_head, margins))
