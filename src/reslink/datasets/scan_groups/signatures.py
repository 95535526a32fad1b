"""Signatures of images for scan groups: where the head is in the picture, its form, its anatomy, its gray values and noise.

The slices of a scan share the frame of the picture: position and tilt of the head, table, head holder and field of view. Their
skull, gray values and noise change little from slice to slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from reslink.datasets.near_duplicates.features import Features, outline_free_contrast, structure_contrast
from reslink.datasets.near_duplicates.thumbnails import Thumbnails
from reslink.imaging.image import Image
from reslink.imaging.preprocess import Preprocess

PICTURE_SIDE: Final = 256
COARSE_SIDE: Final = 32
FINE_SIDE: Final = 48
MIN_PIXELS: Final = 50
"""Fewer pixels of soft tissue give no gray values and no noise."""

NOISE_WIDTHS: Final = (0.6, 1.0, 1.6, 2.6, 4.2)
NUM_NUMBERS: Final = 24

_PICTURE: Final = Preprocess(size=PICTURE_SIDE, channels=1, window="brain", isolate_head=False)

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Signature:
    """The signature of one picture, without its thumbnail.

    Attributes:
        planes: Planes that are compared by correlation.
        head: (32, 32) share of the head in each cell.
        numbers: (24,) gray values, noise, position, form and filling of the head.
    """

    planes: tuple[Plane, ...]
    head: Plane
    numbers: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Signatures:
    """The signatures of n images.

    Attributes:
        planes: (n, s) rows of length 1 without their mean, by kind of plane; products of rows are correlations.
        heads: (n, 1024) share of the head in each cell.
        numbers: (n, 24) as in ``Signature``.
    """

    planes: tuple[Features, ...]
    heads: Features
    numbers: Features


def scan_signature(image: Image) -> Signature:
    """Returns the signature of one slice, (H, W), in any unit; CT in HU has the brain window.

    Raises:
        InputError: If the image is a volume or has no pixels.
    """
    picture = np.asarray(_PICTURE.pixels(image)[0])
    return picture_signature(picture, np.asarray(_PICTURE.resized_head_mask(image), np.bool_))


def picture_signature(picture: Picture, head: Mask) -> Signature:
    """Returns the signature of a picture (256, 256), uint8, with the mask of its head (256, 256)."""
    values, mask = picture.astype(np.float32), head.astype(np.uint8)
    small, small_mask = _shrink(values, 64), _shrink(mask.astype(np.float32), 64)
    smooth = _blur(small, 1)
    planes = (
        _shrink(smooth, COARSE_SIDE),
        _shrink(smooth - _blur(small, 5), COARSE_SIDE),
        _shrink(_blur(small_mask, 1) - _blur(small_mask, 3), COARSE_SIDE),
        _shrink(_blur(small, 0.7) - _blur(small, 2), FINE_SIDE),
        _local_contrast(values),
    )
    numbers = (*_gray_and_noise(values, mask), *_geometry(head), *_filling(values, head, mask))
    return Signature(planes, _shrink(small_mask, COARSE_SIDE), np.asarray(numbers, np.float32))


def join_signatures(signatures: list[Signature], thumbnails: Thumbnails) -> Signatures:
    """Joins the signatures of n images with the planes of their thumbnails, (n, 64, 64) uint8 from ``make_thumbnail``."""
    planes = [_rows([signature.planes[k] for signature in signatures]) for k in range(len(signatures[0].planes))]
    contrast, structure = outline_free_contrast(thumbnails), structure_contrast(thumbnails)
    values = thumbnails.astype(np.float32)
    planes += [
        _rows([_shrink(_blur(plane, 1), COARSE_SIDE) for plane in values]),
        _rows([_shrink(_blur(plane, 0.7), COARSE_SIDE) for plane in contrast]),
        _rows([_shrink(_blur(plane, 0.7) - _blur(plane, 2.5), FINE_SIDE) for plane in values]),
        _rows([_shrink(_blur(plane, 0.8), FINE_SIDE) for plane in structure]),
    ]
    heads = np.stack([signature.head.ravel() for signature in signatures])
    return Signatures(tuple(planes), heads, np.stack([signature.numbers for signature in signatures]))


def _local_contrast(values: Plane) -> Plane:
    """Returns the local contrast of the whole picture, also outside the head, (48, 48)."""
    small = _shrink(values, 96)
    fine = _blur(small, 0.7)
    contrast = fine - _blur(fine, 4)
    contrast = contrast / (np.sqrt(_blur(contrast * contrast, 6)) + 2)
    return _shrink(_blur(contrast, 0.8), FINE_SIDE)


def _gray_and_noise(values: Plane, mask: NDArray[np.uint8]) -> list[float]:
    """Returns five quantiles of soft tissue, five levels of noise by its scale, and four correlations of neighboring noise."""
    soft = (cv2.erode(mask, np.ones((9, 9), np.uint8)) > 0) & (values > 20) & (values < 200)
    flat = cv2.erode(soft.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    tissue = values[soft] if soft.sum() > MIN_PIXELS else values.ravel()
    levels, finer = [], values
    for width in NOISE_WIDTHS:
        coarser = _blur(values, width)
        detail = np.abs(finer - coarser)[flat]
        levels.append(float(np.log((np.median(detail) if detail.size > MIN_PIXELS else 0) + 0.1)))
        finer = coarser
    noise = np.where(flat, np.clip(values - _blur(values, 1.5), -15, 15), 0)
    power = float((noise * noise).sum()) + 1e-6
    pairs = ((noise[:, :-1], noise[:, 1:]), (noise[:-1], noise[1:]), (noise[:, :-2], noise[:, 2:]), (noise[:-2], noise[2:]))
    return [*np.percentile(tissue, [10, 25, 50, 75, 90]).tolist(), *levels, *(float((a * b).sum()) / power for a, b in pairs)]


def _geometry(head: Mask) -> list[float]:
    """Returns size, center, height, width, slope and middle column of the head, as shares of the side of the picture."""
    rows, columns = np.nonzero(head)
    if len(rows) < MIN_PIXELS:
        return [0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.5]
    (down, slope), (_, across) = np.cov(np.stack([rows, columns]))
    return [
        float(np.sqrt(head.mean())),
        float(rows.mean()) / PICTURE_SIDE,
        float(columns.mean()) / PICTURE_SIDE,
        float(np.ptp(rows)) / PICTURE_SIDE,
        float(np.ptp(columns)) / PICTURE_SIDE,
        float(slope / np.sqrt(down * across + 1e-6)),
        float(columns.min() + columns.max()) / (2 * PICTURE_SIDE),
    ]


def _filling(values: Plane, head: Mask, mask: NDArray[np.uint8]) -> list[float]:
    """Returns the share of white and of black in the head, and the brightness outside."""
    inner = cv2.erode(mask, np.ones((9, 9), np.uint8)) > 0
    return [
        float((values[head] > 235).mean()) if head.any() else 0.0,
        float((values[inner] < 30).mean()) if inner.any() else 0.0,
        float(np.log1p(values[~head].mean())) if not head.all() else 0.0,
    ]


def _rows(planes: list[Plane]) -> Features:
    rows = np.stack(planes).reshape(len(planes), -1)
    rows -= rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6), np.float32)


def _shrink(plane: Plane, side: int) -> Plane:
    return np.asarray(cv2.resize(plane, (side, side), interpolation=cv2.INTER_AREA), np.float32)


def _blur(plane: Plane, width: float) -> Plane:
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), width), np.float32)
