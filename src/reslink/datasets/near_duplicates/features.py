"""What near copies have in common: local contrast inside the head, and how much of it there is at each frequency."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from reslink.datasets.near_duplicates.thumbnails import SIDE, Thumbnails, check

COARSE: Final = 32
ORIENTATIONS: Final = 8
CHUNK: Final = 512
RADIUS: Final = 16
"""Highest frequency of a spectrum, in cycles a thumbnail."""

WHITE: Final = 220
RIM: Final = 7
DEEP: Final = 10

Features = NDArray[np.float32]


def features(thumbnails: Thumbnails) -> Features:
    """Returns coarse local contrast: value minus local mean, divided by local deviation.

    The outline of the skull alone makes any two heads alike, so it plays no part.

    Args:
        thumbnails: (n, 64, 64) uint8 from ``thumbnails.thumbnail``: the isolated head, 0 outside.

    Returns:
        (n, 64, 64) float32, mostly within -3..3; 0 outside the head and near its edge.

    Raises:
        UsageError: If the thumbnails have another shape or type.
    """
    check(thumbnails)
    result = np.zeros(thumbnails.shape, np.float32)
    for start in range(0, len(result), CHUNK):
        part = thumbnails[start : start + CHUNK]
        inside = np.stack([ndimage.binary_erosion(ndimage.binary_fill_holes(t > 8), iterations=4) for t in part])
        result[start : start + CHUNK] = _contrast(part, inside.astype(np.float32), (1.0, 4.0, 4.0))
    return result


def structure(thumbnails: Thumbnails) -> Features:
    """Returns local contrast of the soft tissue at the scale of sulci and ventricles, without skull, (n, 64, 64) float32."""
    return _in_chunks(thumbnails, (0.7, 3.0, 4.5))


def texture(thumbnails: Thumbnails) -> Features:
    """Returns local contrast at the scale of single pixels of the thumbnail, (n, 64, 64) float32.

    Neighbouring slices have the same structure, but only copies have the same texture.
    """
    return _in_chunks(thumbnails, (0.5, 1.5, 2.25))


def coarse(planes: Features) -> Features:
    """Returns the means of 2×2 pixels, (n, 32, 32)."""
    step = SIDE // COARSE
    return np.asarray(planes.reshape(-1, COARSE, step, COARSE, step).mean((2, 4)))


def spectra(planes: Features, zoom: float = 1.0) -> Features:
    """Returns how the magnitudes of low frequencies deviate from their ring's mean; a shift of the head does not change that.

    Args:
        planes: (n, 64, 64) local contrast.
        zoom: As if the planes were shown this much larger.

    Returns:
        (n, 33, 33) float32: square roots of the magnitudes of the frequencies -16..16 cycles a plane, less the mean at that
        distance from frequency 0, each of length 1; 0 below 1.5 and above 16 cycles. Turned by 180° it is the same, so 4
        orientations of it stand for 8 of the plane.
    """
    parts = [np.zeros((0, 2 * RADIUS + 1, 2 * RADIUS + 1), np.float32)]
    parts += [_spectra(planes[start : start + CHUNK], zoom) for start in range(0, len(planes), CHUNK)]
    return np.concatenate(parts)


def _spectra(planes: Features, zoom: float) -> Features:
    waves, (kept, rings) = _waves(zoom), _rings()
    half = np.abs(waves @ planes.astype(np.complex64) @ waves[RADIUS:].T)
    whole = np.sqrt(np.concatenate([half[:, ::-1, :0:-1], half], axis=2)).reshape(len(planes), -1)
    whole[:, kept] -= (whole[:, kept] @ rings) @ (rings > 0).T
    whole[:, ~kept] = 0
    return unit(whole.reshape(len(planes), 2 * RADIUS + 1, -1)).reshape(len(planes), 2 * RADIUS + 1, -1)


def half(looks: Features) -> Features:
    """Returns the rows of spectra to compare, (n, 398), each of length 1: half of the plane, since the rest is the same."""
    kept = _rings()[0].reshape(looks.shape[1:]).copy()
    kept[:RADIUS], kept[RADIUS, :RADIUS] = False, False
    return np.asarray(looks[:, kept] * np.float32(np.sqrt(2)), np.float32)


def oriented(planes: Features, orientation: int) -> Features:
    """Returns (n, s, s) planes turned by 90° ``orientation % 4`` times, and mirrored left to right from 4 on."""
    turned = np.rot90(planes, orientation % 4, axes=(1, 2))
    return turned[:, :, ::-1] if orientation >= 4 else turned


def unit(planes: Features) -> Features:
    """Returns (n, s * s) rows of length 1; a blank plane stays 0."""
    flat = planes.reshape(len(planes), planes.shape[1] * planes.shape[2])
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6), np.float32)


def _in_chunks(thumbnails: Thumbnails, widths: tuple[float, float, float]) -> Features:
    check(thumbnails)
    result = np.zeros(thumbnails.shape, np.float32)
    for start in range(0, len(result), CHUNK):
        part = thumbnails[start : start + CHUNK]
        result[start : start + CHUNK] = _contrast(part, np.stack([_soft(t) for t in part]).astype(np.float32), widths)
    return result


def _soft(thumbnail: Thumbnails) -> NDArray[np.bool_]:
    """Soft tissue: the head without what is white and near its outline, skull or scalp."""
    head = ndimage.binary_fill_holes(thumbnail > 8)
    depth = ndimage.distance_transform_edt(np.pad(head, 1, mode="edge"))[1:-1, 1:-1]  # what a crop cuts is no outline
    white = head & (thumbnail >= WHITE) & (depth <= DEEP)
    pieces, _ = ndimage.label(white, np.ones((3, 3)))
    outer = np.unique(pieces[(depth > 0) & (depth <= RIM)])
    return np.asarray(ndimage.binary_erosion(head & ~np.isin(pieces, outer[outer > 0]), iterations=2))


def _contrast(thumbnails: Thumbnails, weight: Features, widths: tuple[float, float, float]) -> Features:
    """Gaussian widths in pixels: what is smoothed away, the local mean, the local deviation."""
    fine = _mean(thumbnails.astype(np.float32), weight, widths[0])
    contrast = (fine - _mean(fine, weight, widths[1])) * weight
    deviation = np.sqrt(_mean(contrast * contrast, weight, widths[2]))
    return np.asarray(contrast / (deviation + 2) * weight, np.float32)


def _mean(values: Features, weight: Features, sigma: float) -> Features:
    """Gaussian mean over the pixels with weight."""
    axes = (0.0, sigma, sigma)
    total = ndimage.gaussian_filter(values * weight, axes, truncate=3)
    return np.asarray(total / np.maximum(ndimage.gaussian_filter(weight, axes, truncate=3), 0.05))


@cache
def _waves(zoom: float) -> NDArray[np.complex64]:
    """(33, 64): rows of a discrete Fourier transform at the frequencies -16..16, times the zoom."""
    cycles = np.arange(-RADIUS, RADIUS + 1)[:, None] * zoom * np.arange(SIDE) / SIDE
    return np.asarray(np.exp(-2j * np.pi * cycles), np.complex64)


@cache
def _rings() -> tuple[NDArray[np.bool_], Features]:
    """Which of the 33 × 33 frequencies count, and (counted, 17) weights whose products are the means of the rings."""
    distance = np.hypot(*np.mgrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1]).ravel()
    kept = (distance >= 1.5) & (distance <= RADIUS)
    member = np.rint(distance[kept])[:, None] == np.arange(RADIUS + 1)
    return kept, np.asarray(member / np.maximum(member.sum(axis=0), 1), np.float32)
