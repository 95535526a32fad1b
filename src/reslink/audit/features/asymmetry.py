"""What a quick model looks at: how much the two halves of the brain differ, and how grey it is where.

A lesion seldom has a twin on the other side, and computer-aided detection has long compared the halves (Thirion et al.,
"Statistical analysis of normal and abnormal dissymmetry in volumetric medical images", Medical Image Analysis 4:111, 2000).
A hundred such numbers tell lesions apart with forty patients, from which no network learns in the seconds an audit has.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from reslink.imaging.image import Image
from reslink.imaging.preprocess import Preprocess

SIDE: Final = 128
"""Pixels of the isolated head."""

SCALES: Final = (0.0, 1.5, 3.0)
"""Blur before the halves are compared, pixels of 128."""

ANGLES: Final = tuple(range(-12, 13, 3))
"""Tilts of the head that are tried, degrees."""

REACH: Final = (9, 11)
"""Rows and columns around a point of which the other half shows the like anywhere: nobody is quite symmetric."""

SKULL_HOLDS: Final = 0.3
"""What a closed white ring holds is brain from this part of the head on."""

SMALLEST: Final = 240
"""Pixels of a brain."""

LEVELS: Final = (0, 1, 2, 5, 10, 25, 50, 75, 90, 95, 98, 99, 100)
_DIFFERENCE: Final = (50, 75, 90, 95, 99, 100)
_CONTRAST: Final = (0, 0.2, 1, 5, 95, 99, 99.8, 100)
_UNMATCHED: Final = (95, 99, 99.8, 100)

FEATURES: Final = len(LEVELS) + len(SCALES) * (len(_DIFFERENCE) + len(_CONTRAST) + 2 * len(_UNMATCHED))

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]
Grey = NDArray[np.uint8]

_HEAD: Final = Preprocess(size=SIDE, channels=1, window="brain", isolate_head=True)


def head_picture(image: Image) -> Grey:
    """Returns the (128, 128) uint8 picture of the isolated head, 0 outside, that is measured."""
    return np.asarray(_HEAD.pixels(image)[0])


def asymmetry_features(picture: Grey) -> NDArray[np.float32]:
    """Measures one head.

    The brain's grey values are brought to robust units (distance from the median in median absolute deviations), the head is
    turned so that its halves match best, and each half is compared with the mirror image of the other: pixel by pixel, and
    by the local contrast that the other half has nowhere near.

    Args:
        picture: (128, 128) uint8 from ``head_picture``.

    Returns:
        (79,) float32: percentiles of the brain's grey values and, at three scales, of the difference between the halves, of
        local contrast, and of bright and dark contrast that the other half does not have. All zeros for a blank picture.
    """
    brain = brain_mask(picture)
    if not brain.any():
        return np.zeros(FEATURES, np.float32)
    units = _robust(picture, brain)
    upright, mask, mirrored, its_mask = _upright(units, brain)
    both = ndimage.binary_erosion(mask & its_mask)
    both = both if both.any() else np.ones_like(mask)
    parts: list[NDArray[Any]] = [np.percentile(units[brain], LEVELS)]
    for scale in SCALES:
        parts += _at_scale((upright, mask), (mirrored, its_mask), both, scale)
    return np.concatenate(parts).astype(np.float32)


def brain_mask(picture: Grey) -> Mask:
    """Returns where the brain is: inside the skull where there is a white one, otherwise the head without its rim.

    Args:
        picture: (128, 128) uint8 of the isolated head.

    Returns:
        (128, 128) booleans; the whole head where no brain stands out, all False for a blank picture.
    """
    head = ndimage.binary_fill_holes(picture > 8)
    skull = _largest(picture > 215)
    inside = ndimage.binary_fill_holes(skull) & ~ndimage.binary_dilation(skull, iterations=2)
    core = ndimage.binary_fill_holes(_largest(ndimage.binary_opening(inside, iterations=2)))
    if int(core.sum()) < SKULL_HOLDS * int(head.sum()):
        core = ndimage.binary_erosion(head, iterations=6)
    return np.asarray(core if int(core.sum()) >= SMALLEST else head)


def _largest(mask: Mask) -> Mask:
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray(pieces == sizes.argmax())


def _robust(picture: Grey, brain: Mask) -> Plane:
    smooth = ndimage.gaussian_filter(picture.astype(np.float32), 1)
    middle = float(np.median(smooth[brain]))
    spread = 1.4826 * float(np.median(np.abs(smooth[brain] - middle))) + 2
    return np.asarray(np.clip((smooth - middle) / spread, -12, 12), np.float32)


def _upright(units: Plane, brain: Mask) -> tuple[Plane, Mask, Plane, Mask]:
    """The brain with its midline upright, and its mirror image laid over it; the best of two axes and nine tilts.

    How well a tilt fits is told by the correlation of the picture with its mirror image over all shifts along the rows.
    """
    inside = np.where(brain, units, 0)
    tilts = [(turns, angle) for turns in (0, 1) for angle in ANGLES]
    tried = [_tilted(inside[::4, ::4], brain[::4, ::4], *tilt) for tilt in tilts]
    best = max(range(len(tilts)), key=lambda i: _fit(*tried[i])[0])
    picture, weight = _tilted(inside, brain, *tilts[best])
    shift = _fit(picture, weight)[1]
    mirrored, its_weight = (np.roll(plane[:, ::-1], shift, axis=1) for plane in (picture, weight))
    return picture, weight > 0.5, mirrored, its_weight > 0.5


def _tilted(inside: Plane, brain: Mask, turns: int, angle: int) -> tuple[Plane, Plane]:
    planes = (np.rot90(plane, turns).astype(np.float32) for plane in (inside, brain))
    picture, weight = (ndimage.rotate(plane, angle, reshape=False, order=1) for plane in planes)
    return picture, weight


def _fit(picture: Plane, weight: Plane) -> tuple[float, int]:
    """How alike the halves are, -2 to 2, and the shift of the mirror image that makes them so."""
    alike = sum(_against_mirror(plane) / max(float((plane**2).sum()), 1e-6) for plane in (picture, weight))
    shift = int(np.argmax(alike))
    return float(alike[shift]), shift  # type: ignore[index]


def _against_mirror(plane: Plane) -> NDArray[np.float64]:
    there, back = np.fft.rfft(plane, axis=1), np.fft.rfft(plane[:, ::-1], axis=1)
    return np.asarray(np.fft.irfft((there * np.conj(back)).sum(axis=0), n=plane.shape[1]))


def _blurred(plane: Plane, mask: Mask, sigma: float) -> Plane:
    """Gaussian mean over the pixels of the mask."""
    if not sigma:
        return plane
    weight = mask.astype(np.float32)
    total = ndimage.gaussian_filter(plane * weight, sigma, truncate=3)
    return np.asarray(total / np.maximum(ndimage.gaussian_filter(weight, sigma, truncate=3), 0.1))


def _at_scale(half: tuple[Plane, Mask], other: tuple[Plane, Mask], both: Mask, scale: float) -> list[NDArray[Any]]:
    """Percentiles of the difference of the halves, of local contrast, and of contrast that the other half has not."""
    fine, its_fine = _blurred(*half, scale), _blurred(*other, scale)
    contrast = fine - _blurred(*half, 2 * scale + 2)
    its_contrast = its_fine - _blurred(*other, 2 * scale + 2)
    brightest = ndimage.maximum_filter(np.where(other[1], its_contrast, -12), size=REACH)
    darkest = ndimage.minimum_filter(np.where(other[1], its_contrast, 12), size=REACH)
    return [
        np.percentile(np.abs(fine - its_fine)[both], _DIFFERENCE),
        np.percentile(contrast[both], _CONTRAST),
        np.percentile((contrast - brightest)[both], _UNMATCHED),
        np.percentile((darkest - contrast)[both], _UNMATCHED),
    ]
