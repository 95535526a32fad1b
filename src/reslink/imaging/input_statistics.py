"""What an image looks like in some thirty numbers: shape of what is shown, brightness from rim to centre, contrast by scale."""

from __future__ import annotations

from typing import Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from reslink.imaging.morphology import filled
from reslink.imaging.preprocess import counted_quantiles

Floats: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

SIDE: Final = 56
"""Side at which the numbers are taken, about 4 mm a pixel: too coarse for compression and grain to matter."""

VISIBLE: Final = 0.02
"""Grey from which a pixel is shown rather than background; isolated heads have 0 outside."""

SMALLEST: Final = 0.01
SHELLS: Final = (0.0, 0.06, 0.14, 0.25, 0.4, 0.6)
"""Where shells begin, as parts of the way from the rim to the innermost pixel: scalp, skull, then brain."""

CORE: Final = 0.35
QUANTILES: Final = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
CORE_QUANTILES: Final = (0.1, 0.5, 0.9)
SCALES: Final = (3, 7, 15)

NAMES: Final = (
    *("area", "box_fill", "elongation", "depth", "rim"),
    *(f"shell_{i}_mean" for i in range(len(SHELLS))),
    *(f"shell_{i}_deviation" for i in range(len(SHELLS))),
    *(f"quantile_{q:g}" for q in QUANTILES),
    *(f"core_quantile_{q:g}" for q in CORE_QUANTILES),
    *(f"contrast_{scale}{where}" for scale in SCALES for where in ("", "_core")),
)
"""The numbers in their order."""


def input_statistics(pixels: NDArray[np.uint8]) -> Floats:
    """Returns numbers that tell head CT from MR, photographs, text and noise, and do not change if the image is turned.

    Area, shape and rim of what is shown; mean and deviation of grey in shells from the rim inwards (in CT the skull is
    white and the brain grey, in MR the skull is dark); quantiles of grey; logarithm of the contrast at three scales.

    Args:
        pixels: (n, planes, S, S) uint8, what ``Preprocess.pixels`` returns for each slice.

    Returns:
        (n, 33) float64, finite, in the order of ``NAMES``.
    """
    small = [Picture.fromarray(planes.max(axis=0)).resize((SIDE, SIDE), Picture.Resampling.BOX) for planes in pixels]
    rows = [_statistics(np.asarray(picture)) for picture in small]
    return np.array(rows, dtype=np.float64).reshape(len(small), len(NAMES))


def _statistics(eight: NDArray[np.uint8]) -> list[float]:
    grey = eight / 255
    shown = filled(grey > VISIBLE)
    if shown.sum() < SMALLEST * shown.size:  # nothing to see: the whole square is looked at
        shown = np.ones_like(shown)
    distance = _distance(shown)
    depth = distance / distance.max()
    core = shown & (depth > CORE)
    return [
        *_shape(shown, distance),
        *_shells(grey[shown], depth[shown]),
        *counted_quantiles(eight[shown], QUANTILES) / 255,
        *counted_quantiles(eight[core], CORE_QUANTILES) / 255,
        *_contrasts(grey, shown, core),
    ]


def _distance(shown: Mask) -> Floats:
    """How far each pixel is from the nearest that is not shown; beyond the square nothing is."""
    framed = cv2.copyMakeBorder(shown.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    found = np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float64)[1:-1, 1:-1]
    squared: Floats = np.rint(found * found)  # whole numbers, which single precision had rounded the roots of
    return np.sqrt(squared)


def _contrasts(grey: Floats, shown: Mask, core: Mask) -> Floats:
    """Logarithm of the deviation of what a mean over 3, 7 and 15 pixels takes away, scale by scale, shown and core each."""
    found, before = [], grey
    for scale in SCALES:
        smooth = np.asarray(cv2.blur(grey, (scale, scale), borderType=cv2.BORDER_REFLECT), np.float64)
        band = before - smooth
        found += [cv2.meanStdDev(band, mask=where.view(np.uint8))[1].item() for where in (shown, core)]
        before = smooth
    return np.asarray(np.log(np.array(found) + 0.01))


def _shape(shown: Mask, distance: Floats) -> list[float]:
    """Area, share of the bounding box that is filled, its sides, largest depth, and length of the rim."""
    area = float(shown.sum())
    _, _, width, height = cv2.boundingRect(shown.view(np.uint8))
    rim = np.count_nonzero(shown & (distance <= 1))
    sides = min(height, width) / max(height, width)
    return [area / shown.size, area / (height * width), sides, distance.max() / np.sqrt(area), rim / np.sqrt(area)]


def _shells(grey: Floats, depth: Floats) -> list[float]:
    """Mean of each shell, then deviation of each shell, of the pixels shown; 0 for a shell without a pixel."""
    shell = np.searchsorted(SHELLS, depth, side="left") - 1
    count = np.maximum(np.bincount(shell, minlength=len(SHELLS)), 1)
    mean = np.bincount(shell, grey, len(SHELLS)) / count
    square = np.bincount(shell, grey * grey, len(SHELLS)) / count
    return [*mean, *np.sqrt(np.maximum(square - mean**2, 0))]
