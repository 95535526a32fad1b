"""Input statistics for the detection of OOD inputs: shape, brightness and contrast of an image, and how much brain it shows."""

from __future__ import annotations

from typing import Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from reslink.imaging.image import Modality
from reslink.imaging.morphology import fill_holes, label_components
from reslink.imaging.preprocess import Preprocess, uint8_quantiles

Floats: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

SIDE: Final = 56
"""Side of the image for the statistics, about 4 mm per pixel: too coarse for compression and noise to matter."""

VISIBLE: Final = 0.02
"""Minimum gray value of a visible pixel; isolated heads have 0 outside."""

MIN_VISIBLE_SHARE: Final = 0.01
SHELLS: Final = (0.0, 0.06, 0.14, 0.25, 0.4, 0.6)
"""Start of each shell, as a share of the distance from the rim to the innermost pixel: scalp, skull, then brain."""

CORE: Final = 0.35
QUANTILES: Final = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
CORE_QUANTILES: Final = (0.1, 0.5, 0.9)
SCALES: Final = (3, 7, 15)

MIN_BRAIN_SHARE: Final = 0.25
"""Smallest share of the head at which a CT slice shows enough brain. Of the training and validation images of the shipped model
for CT, 0.2 % (set ct), 4 % (ct_phe), 5 % (ct_rsna) and 24 % (ct_ich, which holds slices of face and neck) are below."""

_BRAIN_SIDE: Final = 128
_BACKGROUND: Final = 5
"""Largest gray value of air and fat in a brain window, with the noise of JPEG."""

_SOFT_TISSUE: Final = (20, 200)
"""Gray values of brain, blood, muscle and most CSF in a brain window; bone, fat and air are outside."""

_MIN_PIECE: Final = 60
"""Smallest piece of soft tissue in pixels."""

_ENCLOSED: Final = 0.4
"""Smallest share of bone in the rim of the brain. The skull base has gaps; muscles of the neck have 0 to 0.3."""

_DISC: Final = np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)), np.uint8)

NAMES: Final = (
    *("area", "box_fill", "elongation", "depth", "rim"),
    *(f"shell_{i}_mean" for i in range(len(SHELLS))),
    *(f"shell_{i}_deviation" for i in range(len(SHELLS))),
    *(f"quantile_{q:g}" for q in QUANTILES),
    *(f"core_quantile_{q:g}" for q in CORE_QUANTILES),
    *(f"contrast_{scale}{where}" for scale in SCALES for where in ("", "_core")),
)
"""Names of the statistics in order."""


def input_statistics(pixels: NDArray[np.uint8]) -> Floats:
    """Returns statistics that distinguish head CT from MR, photographs, text and noise, and do not change with orientation.

    They are the area, shape and rim of the visible pixels; mean and deviation of the gray values in shells from the rim inwards
    (in CT the skull is white and the brain gray, in MR the skull is dark); quantiles; and the logarithm of the contrast at
    three scales.

    Args:
        pixels: (n, planes, S, S) uint8, the result of ``Preprocess.pixels`` for each slice.

    Returns:
        (n, 33) float64, finite, in the order of ``NAMES``.
    """
    brightest = (planes[0] if len(planes) == 1 else planes.max(axis=0) for planes in pixels)
    small = [Picture.fromarray(plane).resize((SIDE, SIDE), Picture.Resampling.BOX) for plane in brightest]
    rows = [_statistics(np.asarray(picture)) for picture in small]
    return np.array(rows, dtype=np.float64).reshape(len(small), len(NAMES))


def _statistics(eight: NDArray[np.uint8]) -> list[float]:
    gray = eight / 255
    visible = fill_holes(gray > VISIBLE)
    if visible.sum() < MIN_VISIBLE_SHARE * visible.size:  # nearly blank: use the whole square
        visible = np.ones_like(visible)
    distance = _distance(visible)
    depth = distance / distance.max()
    core = visible & (depth > CORE)
    return [
        *_shape(visible, distance),
        *_shells(gray[visible], depth[visible]),
        *uint8_quantiles(eight[visible], QUANTILES) / 255,
        *uint8_quantiles(eight[core], CORE_QUANTILES) / 255,
        *_contrasts(gray, visible, core),
    ]


def _distance(visible: Mask) -> Floats:
    """Returns the distance of each pixel to the nearest invisible pixel; pixels outside the square are invisible."""
    framed = cv2.copyMakeBorder(visible.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float64)[1:-1, 1:-1]
    squared: Floats = np.rint(distance * distance)  # exact integers; single precision rounded their roots
    return np.sqrt(squared)


def _contrasts(gray: Floats, visible: Mask, core: Mask) -> Floats:
    """Returns the log of the deviation in each band between means over 3, 7 and 15 pixels, visible pixels and core."""
    deviations, previous = [], gray
    for scale in SCALES:
        smooth = np.asarray(cv2.blur(gray, (scale, scale), borderType=cv2.BORDER_REFLECT), np.float64)
        band = previous - smooth
        deviations += [cv2.meanStdDev(band, mask=mask.view(np.uint8))[1].item() for mask in (visible, core)]
        previous = smooth
    return np.asarray(np.log(np.array(deviations) + 0.01))


def _shape(visible: Mask, distance: Floats) -> list[float]:
    """Returns area, filled share of the bounding box, its aspect ratio, largest depth, and length of the rim."""
    area = float(visible.sum())
    _, _, width, height = cv2.boundingRect(visible.view(np.uint8))
    rim = np.count_nonzero(visible & (distance <= 1))
    sides = min(height, width) / max(height, width)
    return [area / visible.size, area / (height * width), sides, distance.max() / np.sqrt(area), rim / np.sqrt(area)]


def _shells(gray: Floats, depth: Floats) -> list[float]:
    """Returns the mean of each shell, then the deviation of each shell; 0 for a shell without pixels."""
    shell = np.searchsorted(SHELLS, depth, side="left") - 1
    count = np.maximum(np.bincount(shell, minlength=len(SHELLS)), 1)
    mean = np.bincount(shell, gray, len(SHELLS)) / count
    square = np.bincount(shell, gray * gray, len(SHELLS)) / count
    return [*mean, *np.sqrt(np.maximum(square - mean**2, 0))]


def brain_share(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns the share of each head that is one piece of soft tissue within bone.

    Thin parts, such as the scalp, are removed. A piece whose rim is mostly fat or air is muscle.

    Args:
        pixels: (n, planes, S, S) uint8, the result of ``Preprocess.pixels`` for CT slices with isolated heads; the first plane
            is the brain window.

    Returns:
        (n,) 0 to 1.
    """
    return np.array([_brain_share(planes[0]) for planes in pixels], dtype=np.float64)


def min_brain_share(modality: Modality | None, preprocess: Preprocess) -> float | None:
    """Returns the smallest brain share that a slice needs; None for images in which soft tissue is not recognized.

    It is recognized in isolated heads on CT in a brain window.

    Args:
        modality: The modality of the images, None if it is not known.
        preprocess: The preprocessing of the images.
    """
    if modality != "CT" or not preprocess.isolate_head or preprocess.window not in ("brain", "three"):
        return None
    return MIN_BRAIN_SHARE


def _brain_share(plane: NDArray[np.uint8]) -> float:
    small = np.asarray(cv2.resize(plane, (_BRAIN_SIDE, _BRAIN_SIDE), interpolation=cv2.INTER_AREA))
    tissue = cv2.morphologyEx(np.asarray(cv2.inRange(small, *_SOFT_TISSUE)), cv2.MORPH_OPEN, _DISC)
    numbers, _ = label_components(tissue > 0)
    bone, areas = small > _SOFT_TISSUE[1], np.bincount(numbers.ravel())
    largest_first = [int(i) for i in np.argsort(-areas, kind="stable") if i and areas[i] >= _MIN_PIECE]
    brain = next((i for i in largest_first if _is_enclosed(numbers == i, bone)), None)
    return 0.0 if brain is None else float(areas[brain]) / np.count_nonzero(fill_holes(small > _BACKGROUND))


def _is_enclosed(piece: Mask, bone: Mask) -> bool:
    """Returns whether enough of the outer rim of a piece, two pixels wide, is bone."""
    filled = fill_holes(piece)
    rim = (cv2.dilate(filled.view(np.uint8), _DISC) > 0) & ~filled
    return bool(rim.any() and bone[rim].mean() >= _ENCLOSED)
