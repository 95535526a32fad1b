"""Features for near-duplicate search: local contrast inside the head, and its Fourier spectrum."""

from __future__ import annotations

from functools import cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from reslink.datasets.near_duplicates.thumbnails import THUMBNAIL_SIZE, Thumbnails, check_thumbnails
from reslink.imaging.morphology import erode_cross, fill_holes

COARSE_SIZE: Final = 32
ORIENTATIONS: Final = 8
CHUNK_SIZE: Final = 512
PLANES_IN_CACHE: Final = 32
"""Planes that are filtered at once: few enough for the processor cache, which makes this three times as fast."""

MAX_FREQUENCY: Final = 16
"""Highest frequency of a spectrum, in cycles per thumbnail."""

SKULL_INTENSITY: Final = 220
OUTLINE_DEPTH: Final = 7
SKULL_DEPTH: Final = 10

Features = NDArray[np.float32]
Masks = NDArray[np.bool_]


def outline_free_contrast(thumbnails: Thumbnails) -> Features:
    """Returns coarse local contrast: value minus local mean, divided by the local standard deviation.

    The outline of the skull is left out, because it makes any two heads look alike.

    Args:
        thumbnails: (n, 64, 64) uint8 from ``make_thumbnail``: the isolated head, 0 outside.

    Returns:
        (n, 64, 64) float32, mostly between -3 and 3; 0 outside the head and near its edge.

    Raises:
        UsageError: If the thumbnails have another shape or type.
    """
    check_thumbnails(thumbnails)
    result = np.zeros(thumbnails.shape, np.float32)
    for start in range(0, len(result), PLANES_IN_CACHE):
        chunk = thumbnails[start : start + PLANES_IN_CACHE]
        inside = np.stack([erode_cross(fill_holes(t > 8), 4) for t in chunk])
        result[start : start + PLANES_IN_CACHE] = _contrast(chunk, inside.astype(np.float32), (1.0, 4.0, 4.0))
    return result


def soft_tissue_masks(thumbnails: Thumbnails) -> Masks:
    """Returns the masks of the soft tissue, (n, 64, 64): the head without bright pixels near its outline (skull and scalp).

    Raises:
        UsageError: If the thumbnails have another shape or type.
    """
    check_thumbnails(thumbnails)
    masks = np.zeros(thumbnails.shape, np.bool_)
    for i, thumbnail in enumerate(thumbnails):
        masks[i] = _soft_tissue_mask(thumbnail)
    return masks


def structure_contrast(thumbnails: Thumbnails, masks: Masks | None = None) -> Features:
    """Returns the local contrast of soft tissue at the scale of sulci and ventricles, (n, 64, 64) float32.

    Args:
        thumbnails: (n, 64, 64) uint8 from ``make_thumbnail``.
        masks: The result of ``soft_tissue_masks``; computed if None.
    """
    return _soft_tissue_contrast(thumbnails, masks, (0.7, 3.0, 4.5))


def texture_contrast(thumbnails: Thumbnails, masks: Masks | None = None) -> Features:
    """Returns the local contrast of soft tissue at the scale of single thumbnail pixels, (n, 64, 64) float32.

    Neighboring slices share their structure, but only near duplicates share their texture.

    Args:
        thumbnails: (n, 64, 64) uint8 from ``make_thumbnail``.
        masks: The result of ``soft_tissue_masks``; computed if None.
    """
    return _soft_tissue_contrast(thumbnails, masks, (0.5, 1.5, 2.25))


def downsample(planes: Features) -> Features:
    """Returns (n, 32, 32) means of 2×2 pixels of (n, 64, 64) planes."""
    step = THUMBNAIL_SIZE // COARSE_SIZE
    return np.asarray(planes.reshape(-1, COARSE_SIZE, step, COARSE_SIZE, step).mean((2, 4)))


def spectra(planes: Features, zoom: float = 1.0) -> Features:
    """Returns shift-invariant spectra: low-frequency magnitudes minus the mean of their ring.

    Args:
        planes: (n, 64, 64) local contrast.
        zoom: Magnification of the planes.

    Returns:
        (n, 33, 33) float32, each of length 1: square roots of the magnitudes at -16 to 16 cycles per plane, minus the mean at
        the same distance from frequency 0; 0 below 1.5 and above 16 cycles. A spectrum does not change under rotation by
        180°, so its 4 orientations cover the 8 of the plane.
    """
    chunks = [np.zeros((0, 2 * MAX_FREQUENCY + 1, 2 * MAX_FREQUENCY + 1), np.float32)]
    chunks += [_chunk_spectra(planes[start : start + CHUNK_SIZE], zoom) for start in range(0, len(planes), CHUNK_SIZE)]
    return np.concatenate(chunks)


def _chunk_spectra(planes: Features, zoom: float) -> Features:
    fourier, (kept, rings) = _fourier_rows(zoom), _rings()
    size, half = 2 * MAX_FREQUENCY + 1, fourier[MAX_FREQUENCY:]
    rows, columns = np.concatenate([fourier.real, fourier.imag]), np.concatenate([half.real, half.imag]).T
    # products of real numbers take half the time of complex ones
    parts = rows @ (planes.reshape(-1, THUMBNAIL_SIZE) @ columns).reshape(len(planes), THUMBNAIL_SIZE, -1)
    real = parts[:, :size, : len(half)] - parts[:, size:, len(half) :]
    imaginary = parts[:, size:, : len(half)] + parts[:, :size, len(half) :]
    half_plane = np.sqrt(np.sqrt(np.square(real) + np.square(imaginary)))
    spectrum_rows = np.concatenate([half_plane[:, ::-1, :0:-1], half_plane], axis=2).reshape(len(planes), -1)
    spectrum_rows = spectrum_rows * kept - (spectrum_rows @ rings) @ (rings > 0).T
    return unit_rows(spectrum_rows.reshape(len(planes), size, size)).reshape(len(planes), size, size)


def half_spectra(spectrum_planes: Features) -> Features:
    """Returns (n, 398) rows of length 1: the half plane of each spectrum, as the other half is equal."""
    kept = _rings()[0].reshape(spectrum_planes.shape[1:]).copy()
    kept[:MAX_FREQUENCY], kept[MAX_FREQUENCY, :MAX_FREQUENCY] = False, False
    return np.asarray(spectrum_planes[:, kept] * np.float32(np.sqrt(2)), np.float32)


def orient(planes: Features, orientation: int) -> Features:
    """Returns (n, s, s) planes rotated by 90° ``orientation % 4`` times and, from orientation 4, flipped left to right."""
    rotated = np.rot90(planes, orientation % 4, axes=(1, 2))
    return rotated[:, :, ::-1] if orientation >= 4 else rotated


def unit_rows(planes: Features) -> Features:
    """Returns (n, s * s) rows of length 1; blank planes stay 0."""
    flat = planes.reshape(len(planes), planes.shape[1] * planes.shape[2])
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6), np.float32)


def _soft_tissue_contrast(thumbnails: Thumbnails, masks: Masks | None, widths: tuple[float, float, float]) -> Features:
    masks = soft_tissue_masks(thumbnails) if masks is None else masks
    result = np.zeros(thumbnails.shape, np.float32)
    for start in range(0, len(result), PLANES_IN_CACHE):
        chunk = np.s_[start : start + PLANES_IN_CACHE]
        result[chunk] = _contrast(thumbnails[chunk], masks[chunk].astype(np.float32), widths)
    return result


def _soft_tissue_mask(thumbnail: Thumbnails) -> NDArray[np.bool_]:
    head = fill_holes(thumbnail > 8)
    framed = cv2.copyMakeBorder(head.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)  # the edge of a crop is not an outline
    depth = np.asarray(cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE))[1:-1, 1:-1]
    white = head & (thumbnail >= SKULL_INTENSITY) & (depth <= SKULL_DEPTH)
    count, components = cv2.connectedComponents(white.view(np.uint8), connectivity=8)
    outer = np.bincount(components[head & (depth <= OUTLINE_DEPTH)], minlength=count) > 0
    outer[0] = False
    return erode_cross(head & ~outer[components], 2)


def _contrast(thumbnails: Thumbnails, weight: Features, widths: tuple[float, float, float]) -> Features:
    """Local contrast; ``widths`` are the Gaussian widths in pixels of smoothing, local mean and local deviation."""
    fine = _weighted_mean(thumbnails.astype(np.float32), weight, widths[0])
    contrast = (fine - _weighted_mean(fine, weight, widths[1])) * weight
    deviation = np.sqrt(_weighted_mean(contrast * contrast, weight, widths[2]))
    return np.asarray(contrast / (deviation + 2) * weight, np.float32)


def _weighted_mean(values: Features, weight: Features, sigma: float) -> Features:
    """Weighted Gaussian mean."""
    blur = _blur_matrix(sigma)
    return np.asarray(blur @ (values * weight) @ blur.T / np.maximum(blur @ weight @ blur.T, np.float32(0.05)))


@cache
def _blur_matrix(sigma: float) -> Features:
    """Returns the (64, 64) matrix of ``ndimage.gaussian_filter1d``; products with it are five times faster for small planes."""
    return np.asarray(ndimage.gaussian_filter1d(np.eye(THUMBNAIL_SIZE), sigma, axis=0, truncate=3), np.float32)


@cache
def _fourier_rows(zoom: float) -> NDArray[np.complex64]:
    """(33, 64) rows of a discrete Fourier transform at the frequencies -16 to 16, times the zoom."""
    cycles = np.arange(-MAX_FREQUENCY, MAX_FREQUENCY + 1)[:, None] * zoom * np.arange(THUMBNAIL_SIZE) / THUMBNAIL_SIZE
    return np.asarray(np.exp(-2j * np.pi * cycles), np.complex64)


@cache
def _rings() -> tuple[NDArray[np.bool_], Features]:
    """Returns the mask of the 33×33 frequencies in use, (1089,), and (1089, 17) weights that average each ring."""
    distance = np.hypot(*np.mgrid[-MAX_FREQUENCY : MAX_FREQUENCY + 1, -MAX_FREQUENCY : MAX_FREQUENCY + 1]).ravel()
    kept = (distance >= 1.5) & (distance <= MAX_FREQUENCY)
    member = (np.rint(distance)[:, None] == np.arange(MAX_FREQUENCY + 1)) & kept[:, None]
    return kept, np.asarray(member / np.maximum(member.sum(axis=0), 1), np.float32)
