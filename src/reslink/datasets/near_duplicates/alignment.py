"""Lays one thumbnail on another: shift by phase-free correlation, then zoom and shift to parts of a pixel.

Crops move and magnify the head in its thumbnail. The fine search is Gauss-Newton on the squared difference up to a
factor, which climbs the correlation coefficient (Evangelidis and Psarakis, "Parametric image alignment using enhanced
correlation coefficient maximization", IEEE PAMI 2008); OpenCV has it for one pair at a time only.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from reslink.datasets.near_duplicates.features import Features
from reslink.datasets.near_duplicates.thumbnails import SIDE

FARTHEST: Final = 12
"""Pixels of a thumbnail that a crop of 10 % may shift the head by."""

WIDEST: Final = 0.3
"""Largest logarithm of the zoom."""

OVERLAP: Final = 0.5
"""Part of the smaller head that both thumbnails must show."""

Pose = NDArray[np.float32]
"""(b, 3): logarithm of the zoom of the sampled plane, shift down, shift right."""

_CENTRE: Final = (SIDE - 1) / 2
_OFFSETS: Final = (np.arange(SIDE) - _CENTRE).astype(np.float32)


def shifted(fixed: Features, moving: Features, log_zoom: NDArray[np.float32]) -> tuple[Pose, NDArray[np.float32]]:
    """Finds the whole-pixel shift at which two sets of planes are most alike.

    Args:
        fixed: (b, 64, 64) local contrast.
        moving: (b, 64, 64) local contrast.
        log_zoom: (b,) logarithm of the step in ``moving`` that matches one pixel in ``fixed``.

    Returns:
        The pose of each pair, and the correlation of the planes there, 0 outside the heads.
    """
    pose = np.zeros((len(fixed), 3), np.float32)
    pose[:, 0] = log_zoom
    zoomed = sample(moving, pose)
    found = fft.irfft2(fft.rfft2(fixed) * np.conj(fft.rfft2(zoomed)), s=(SIDE, SIDE))
    middle = np.roll(found, (FARTHEST, FARTHEST), axis=(1, 2))[:, : 2 * FARTHEST + 1, : 2 * FARTHEST + 1].reshape(
        len(fixed), (2 * FARTHEST + 1) ** 2
    )
    best = middle.argmax(axis=1)
    down, right = np.divmod(best, 2 * FARTHEST + 1)
    pose[:, 1:] = (FARTHEST - np.stack([down, right], axis=1)) * np.exp(pose[:, :1])
    lengths = np.sqrt(np.square(fixed).sum((1, 2)) * np.square(zoomed).sum((1, 2)))
    return pose, np.asarray(middle[np.arange(len(best)), best] / np.maximum(lengths, 1e-6), np.float32)


def refined(fixed: Features, moving: Features, pose: Pose, steps: int) -> tuple[Pose, NDArray[np.float32]]:
    """Improves zoom and shift.

    Args:
        fixed: (b, 64, 64) local contrast.
        moving: (b, 64, 64) local contrast.
        pose: (b, 3) where to start.
        steps: How many Gauss-Newton steps.

    Returns:
        The best pose of each pair, and the correlation over the part that both planes show there.
    """
    slopes, solution = _newton(fixed)
    pose = pose.copy()
    best, value = pose.copy(), np.full(len(fixed), -1, np.float32)
    for step in range(steps + 1):
        laid = sample(moving, pose)
        now, rest = _compared(fixed, laid)
        better = now > value
        best[better], value[better] = pose[better], now[better]
        if step < steps:
            change = solution @ (slopes @ rest)
            pose += np.clip(change[:, :, 0], (-0.05, -2, -2), (0.05, 2, 2)).astype(np.float32)
            np.clip(pose, (-WIDEST, -FARTHEST, -FARTHEST), (WIDEST, FARTHEST, FARTHEST), out=pose)
    seen = sample((moving != 0).astype(np.float32), best) > 0.99  # what was mixed with the outside is no contrast
    return best, _compared(fixed, sample(moving, best) * seen)[0]


def sample(planes: Features, pose: Pose) -> Features:
    """Samples planes with bilinear interpolation, 0 beyond their edge.

    Rows and columns are interpolated one after the other by matrix products; scipy.ndimage does one plane at a time, which
    takes many times as long.
    """
    step = np.exp(pose[:, :1])
    rows, columns = (_hats(step * _OFFSETS + np.float32(_CENTRE) + pose[:, axis, None]) for axis in (1, 2))
    return np.asarray(rows @ planes @ columns.transpose(0, 2, 1), np.float32)


def _hats(positions: Features) -> Features:
    """(b, 64, 64) weights of linear interpolation: row i holds those of the pixels around position i."""
    pixels = np.arange(SIDE, dtype=np.float32)
    return np.asarray(np.maximum(np.float32(1) - np.abs(positions[:, :, None] - pixels), np.float32(0)), np.float32)


def _compared(fixed: Features, laid: Features) -> tuple[NDArray[np.float32], Features]:
    """The correlation where both planes have contrast, 0 where that is too little, and the difference there."""
    inside, other = fixed != 0, laid != 0
    common = inside & other
    a, b = fixed * common, laid * common
    along = np.einsum("ijk,ijk->i", a, b)
    power, mine = np.einsum("ijk,ijk->i", b, b), np.einsum("ijk,ijk->i", a, a)
    least = OVERLAP * np.minimum(np.count_nonzero(inside, axis=(1, 2)), np.count_nonzero(other, axis=(1, 2)))
    enough = np.count_nonzero(common, axis=(1, 2)) >= np.maximum(least, 1)
    value = np.where(enough, along / np.maximum(np.sqrt(power * mine), 1e-6), 0)
    rest = a - b * (along / np.maximum(power, 1e-6))[:, None, None]
    return np.asarray(value, np.float32), rest.reshape(len(fixed), SIDE * SIDE, 1)


def _newton(fixed: Features) -> tuple[Features, Features]:
    """The slopes of the fixed planes along zoom and shift, (b, 3, 4096), and the inverse of their products, (b, 3, 3).

    Those of the moving planes differ from them by little near the solution, and would have to be made anew at each step.
    """
    down, right = np.zeros_like(fixed), np.zeros_like(fixed)
    down[:, 1:-1] = (fixed[:, 2:] - fixed[:, :-2]) / 2
    right[:, :, 1:-1] = (fixed[:, :, 2:] - fixed[:, :, :-2]) / 2
    slopes = np.stack([down * _OFFSETS[:, None] + right * _OFFSETS, down, right], axis=1).reshape(len(fixed), 3, SIDE * SIDE)
    curvature = slopes @ slopes.transpose(0, 2, 1) + np.eye(3, dtype=np.float32) * np.float32(1e-2)
    return slopes, np.linalg.inv(curvature)
