"""What an image looks like in some thirty numbers: shape of what is shown, brightness from rim to centre, contrast by scale."""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy import ndimage

from reslink.imaging.morphology import filled
from reslink.imaging.quantiles import counted_quantiles

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
    if not small:
        return np.zeros((0, len(NAMES)))
    grey = np.stack([np.asarray(picture) for picture in small])
    bands = _bands(grey / 255)
    return np.array([_statistics(*one) for one in zip(grey, *bands, strict=True)], dtype=np.float64)


def _bands(grey: Floats) -> list[Floats]:
    """What a mean over 3, 7 and 15 pixels takes away, scale by scale, (n, SIDE, SIDE) each."""
    found, before = [], grey
    for scale in SCALES:
        smooth = ndimage.uniform_filter(grey, scale, axes=(1, 2))
        found.append(before - smooth)
        before = smooth
    return found


def _statistics(eight: NDArray[np.uint8], *bands: Floats) -> list[float]:
    grey = eight / 255
    shown = filled(grey > VISIBLE)
    if shown.sum() < SMALLEST * shown.size:  # nothing to see: the whole square is looked at
        shown = np.ones_like(shown)
    framed = np.zeros((SIDE + 2, SIDE + 2), np.bool_)
    framed[1:-1, 1:-1] = shown
    distance = ndimage.distance_transform_edt(framed)[1:-1, 1:-1]
    depth = distance / distance.max()
    core = shown & (depth > CORE)
    return [
        *_shape(shown, distance),
        *_shells(grey, shown, depth),
        *counted_quantiles(eight[shown], QUANTILES) / 255,
        *counted_quantiles(eight[core], CORE_QUANTILES) / 255,
        *(float(np.log(_deviation(band[where]) + 0.01)) for band in bands for where in (shown, core)),
    ]


def _deviation(values: Floats) -> float:
    """The standard deviation, at a third of the time of ``numpy.std``, which is mostly checks."""
    apart = values - values.sum() / values.size
    return float(np.sqrt(apart @ apart / values.size))


def _shape(shown: Mask, distance: Floats) -> list[float]:
    """Area, share of the bounding box that is filled, its sides, largest depth, and length of the rim."""
    area = float(shown.sum())
    height, width = (np.ptp(where) + 1 for where in np.nonzero(shown))
    rim = np.count_nonzero(shown & (distance <= 1))
    sides = min(height, width) / max(height, width)
    return [area / shown.size, area / (height * width), sides, distance.max() / np.sqrt(area), rim / np.sqrt(area)]


def _shells(grey: Floats, shown: Mask, depth: Floats) -> list[float]:
    """Mean of each shell, then deviation of each shell; 0 for a shell without a pixel."""
    shell = np.searchsorted(SHELLS, depth[shown], side="left") - 1
    count = np.maximum(np.bincount(shell, minlength=len(SHELLS)), 1)
    mean = np.bincount(shell, grey[shown], len(SHELLS)) / count
    square = np.bincount(shell, grey[shown] ** 2, len(SHELLS)) / count
    return [*mean, *np.sqrt(np.maximum(square - mean**2, 0))]
