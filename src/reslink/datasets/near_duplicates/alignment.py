"""Alignment of thumbnails: whole-pixel shift by cross-correlation, then zoom and shift with subpixel accuracy.

A crop shifts and magnifies the head in its thumbnail. The refinement is Gauss-Newton on the squared difference up to a
factor, which maximizes the correlation coefficient (Evangelidis and Psarakis, "Parametric image alignment using enhanced
correlation coefficient maximization", IEEE PAMI 2008). OpenCV implements it for one pair at a time only.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from reslink.datasets.near_duplicates.features import Features
from reslink.datasets.near_duplicates.thumbnails import THUMBNAIL_SIZE

MAX_SHIFT: Final = 12
"""Largest shift in thumbnail pixels that a crop of 10 % causes."""

MAX_LOG_ZOOM: Final = 0.3
"""Largest absolute logarithm of the zoom."""

MIN_OVERLAP: Final = 0.5
"""Share of the smaller head that both thumbnails must show."""

Pose = NDArray[np.float32]
"""(b, 3) logarithm of the zoom of the sampled plane, shift down, shift right, in pixels."""

_CACHED_PAIRS: Final = 16
"""Pairs that are refined together: their planes fit into the cache of a core, which makes it a third faster."""

_CENTER: Final = (THUMBNAIL_SIZE - 1) / 2
_OFFSETS: Final = (np.arange(THUMBNAIL_SIZE) - _CENTER).astype(np.float32)


def find_shift(fixed: Features, moving: Features, log_zoom: NDArray[np.float32]) -> tuple[Pose, NDArray[np.float32]]:
    """Finds the whole-pixel shift with the highest correlation for each pair of planes.

    Args:
        fixed: (b, 64, 64) local contrast.
        moving: (b, 64, 64) local contrast.
        log_zoom: (b,) logarithm of the step in ``moving`` that corresponds to one pixel in ``fixed``.

    Returns:
        The pose of each pair, and the correlation of the planes in it; pixels outside the heads count as 0.
    """
    pose = np.zeros((len(fixed), 3), np.float32)
    pose[:, 0] = log_zoom
    zoomed = resample(moving, pose)
    correlation = fft.irfft2(fft.rfft2(fixed) * np.conj(fft.rfft2(zoomed)), s=(THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    return _best_shift(correlation, 0, pose, _lengths(fixed, zoomed))


def find_shift_and_turn(
    fixed: Features, moving: Features, log_zoom: NDArray[np.float32]
) -> tuple[Pose, NDArray[np.float32], NDArray[np.bool_]]:
    """Finds the best shift of each pair of planes as ``find_shift`` does, also of the moving plane rotated by 180°.

    The spectrum of a rotated plane is the complex conjugate, so both cost little more than one.

    Returns:
        The pose and the correlation of the better of the two, and whether it is the rotated one.
    """
    pose = np.zeros((len(fixed), 3), np.float32)
    pose[:, 0] = log_zoom
    zoomed = resample(moving, pose)
    spectrum, zoomed_spectrum, lengths = fft.rfft2(fixed), fft.rfft2(zoomed), _lengths(fixed, zoomed)
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    upright, value = _best_shift(fft.irfft2(spectrum * np.conj(zoomed_spectrum), s=size), 0, pose, lengths)
    turned, turned_value = _best_shift(fft.irfft2(spectrum * zoomed_spectrum, s=size), 1, pose, lengths)
    better = turned_value > value
    return np.where(better[:, None], turned, upright), np.where(better, turned_value, value), better


def _lengths(fixed: Features, zoomed: Features) -> NDArray[np.float32]:
    return np.asarray(np.sqrt(np.square(fixed).sum((1, 2)) * np.square(zoomed).sum((1, 2))), np.float32)


def _best_shift(
    correlation: Features, start: int, pose: Pose, lengths: NDArray[np.float32]
) -> tuple[Pose, NDArray[np.float32]]:
    """Returns pose and correlation of the best shift in (b, 64, 64) cyclic cross-correlations that begin at pixel ``start``."""
    shift = MAX_SHIFT + start
    middle = np.roll(correlation, (shift, shift), axis=(1, 2))[:, : 2 * MAX_SHIFT + 1, : 2 * MAX_SHIFT + 1].reshape(
        len(correlation), (2 * MAX_SHIFT + 1) ** 2
    )
    best = middle.argmax(axis=1)
    down, right = np.divmod(best, 2 * MAX_SHIFT + 1)
    shifted = pose.copy()
    shifted[:, 1:] = (MAX_SHIFT - np.stack([down, right], axis=1)) * np.exp(pose[:, :1])
    return shifted, np.asarray(middle[np.arange(len(best)), best] / np.maximum(lengths, 1e-6), np.float32)


def refine_pose(fixed: Features, moving: Features, pose: Pose, steps: int) -> tuple[Pose, NDArray[np.float32]]:
    """Refines zoom and shift by Gauss-Newton steps.

    Args:
        fixed: (b, 64, 64) local contrast.
        moving: (b, 64, 64) local contrast.
        pose: (b, 3) initial poses.
        steps: Number of Gauss-Newton steps.

    Returns:
        The best pose of each pair, and the correlation over the area that both planes show in it.
    """
    parts = [np.s_[start : start + _CACHED_PAIRS] for start in range(0, len(pose), _CACHED_PAIRS)]
    refined = [_refine_part(fixed[part], moving[part], pose[part], steps) for part in parts]
    values = [np.zeros(0, np.float32), *(value for _, value in refined)]
    return np.concatenate([pose[:0], *(best for best, _ in refined)]), np.concatenate(values)


def _refine_part(fixed: Features, moving: Features, pose: Pose, steps: int) -> tuple[Pose, NDArray[np.float32]]:
    gradients, inverse_hessian = _gauss_newton(fixed)
    inside_fixed = (fixed != 0).astype(np.float32)
    pose = pose.copy()
    best, value, best_warped = pose.copy(), np.full(len(fixed), -2, np.float32), np.empty_like(fixed)
    for step in range(steps + 1):
        warped = resample(moving, pose)
        correlation, residual = _correlate(fixed, inside_fixed, warped)
        better = correlation > value
        best[better], value[better], best_warped[better] = pose[better], correlation[better], warped[better]
        if step < steps:
            change = inverse_hessian @ (gradients @ residual)
            pose += np.clip(change[:, :, 0], (-0.05, -2, -2), (0.05, 2, 2)).astype(np.float32)
            np.clip(pose, (-MAX_LOG_ZOOM, -MAX_SHIFT, -MAX_SHIFT), (MAX_LOG_ZOOM, MAX_SHIFT, MAX_SHIFT), out=pose)
    inside = resample((moving != 0).astype(np.float32), best) > 0.99  # pixels interpolated with the background hold no contrast
    return best, _correlate(fixed, inside_fixed, best_warped * inside)[0]


def resample(planes: Features, pose: Pose) -> Features:
    """Resamples (b, 64, 64) planes in poses (b, 3) with bilinear interpolation, 0 beyond their edge.

    Rows and columns are interpolated one after the other by matrix products. scipy.ndimage takes one plane at a time, which
    is many times slower.
    """
    step = np.exp(pose[:, :1])
    rows, columns = (_interpolation_weights(step * _OFFSETS + np.float32(_CENTER) + pose[:, axis, None]) for axis in (1, 2))
    return np.asarray(rows @ planes @ columns.transpose(0, 2, 1), np.float32)


def _interpolation_weights(positions: Features) -> Features:
    """(b, 64, 64) weights of linear interpolation; row i holds the weights of the two pixels around position i."""
    weights = np.zeros((positions.size, THUMBNAIL_SIZE + 2), np.float32)  # with a column for pixels beyond each edge
    flat, rows = positions.ravel(), np.arange(positions.size)
    first = np.clip(np.floor(flat), -1, THUMBNAIL_SIZE - 1)
    for pixel in (first, first + 1):
        weights[rows, pixel.astype(np.intp) + 1] = np.maximum(np.float32(1) - np.abs(flat - pixel), np.float32(0))
    return weights[:, 1:-1].reshape(*positions.shape, THUMBNAIL_SIZE)


def _correlate(fixed: Features, inside_fixed: Features, warped: Features) -> tuple[NDArray[np.float32], Features]:
    """Returns the correlation where both planes have contrast (0 if the overlap is too small), and the residual there.

    ``inside_fixed`` is 1 where the fixed planes have contrast, else 0.
    """
    inside_warped = (warped != 0).astype(np.float32)
    a, b = fixed * inside_warped, warped * inside_fixed
    dot, power_warped, power_fixed = _products(a, b), _products(b, b), _products(a, a)
    common = _products(inside_fixed, inside_warped)
    min_pixels = MIN_OVERLAP * np.minimum(_products(inside_fixed, inside_fixed), _products(inside_warped, inside_warped))
    value = np.where(common >= np.maximum(min_pixels, 1), dot / np.maximum(np.sqrt(power_warped * power_fixed), 1e-6), 0)
    residual = a - b * (dot / np.maximum(power_warped, 1e-6))[:, None, None]
    return np.asarray(value, np.float32), residual.reshape(len(fixed), THUMBNAIL_SIZE * THUMBNAIL_SIZE, 1)


def _products(first: Features, second: Features) -> NDArray[np.float32]:
    """(b,) sums of the products of planes; of planes of 0 and 1, the number of pixels that both have."""
    return np.asarray(np.einsum("ijk,ijk->i", first, second), np.float32)


def _gauss_newton(fixed: Features) -> tuple[Features, Features]:
    """Returns the gradients of the fixed planes by zoom and shift, (b, 3, 4096), and the inverse of their Hessian, (b, 3, 3).

    Near the optimum, the gradients of the moving planes are almost the same, but would have to be recomputed at each step.
    """
    down, right = np.zeros_like(fixed), np.zeros_like(fixed)
    down[:, 1:-1] = (fixed[:, 2:] - fixed[:, :-2]) / 2
    right[:, :, 1:-1] = (fixed[:, :, 2:] - fixed[:, :, :-2]) / 2
    gradients = np.stack([down * _OFFSETS[:, None] + right * _OFFSETS, down, right], axis=1).reshape(
        len(fixed), 3, THUMBNAIL_SIZE * THUMBNAIL_SIZE
    )
    hessian = gradients @ gradients.transpose(0, 2, 1) + np.eye(3, dtype=np.float32) * np.float32(1e-2)
    return gradients, np.linalg.inv(hessian)
