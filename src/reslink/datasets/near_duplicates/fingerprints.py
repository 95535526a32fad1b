"""Image fingerprints of 128 bytes that recognize near duplicates without storing the image.

A fingerprint is the sign of 1,024 projections of the head's local contrast at 32×32 onto the rows of a fixed rotation
(SimHash: Charikar, "Similarity estimation techniques from rounding algorithms", STOC 2002, section 3), equal on every
machine.

Privacy: the inverse rotation of a fingerprint is a noisy image of 32×32 local contrasts, without gray values, skull and
outline. It correlates with the true contrasts by 0.8. That is enough to recognize an image that one already has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from reslink.datasets.near_duplicates.features import (
    CHUNK_SIZE,
    COARSE_SIZE,
    Features,
    downsample,
    half_spectra,
    orient,
    spectra,
    structure_contrast,
    unit_rows,
)
from reslink.datasets.near_duplicates.hamming_index import BITS, BYTES, binary_codes, rotation
from reslink.datasets.near_duplicates.search import SPECTRUM_ORIENTATIONS, ZOOMS, Matches, align_pairs, poses_of_zoom
from reslink.datasets.near_duplicates.thumbnails import THUMBNAIL_SIZE, Thumbnails
from reslink.errors import UsageError

MATCH_CORRELATION: Final = 0.9
"""Estimated correlation from which a new image is a near duplicate of a fingerprinted one. No pair of 638 slices of glioma
patients and 2,161 slices of others reaches it."""

CANDIDATE_CORRELATION: Final = 0.38
"""Correlation of spectra from which a pair is aligned and compared."""

CONTRAST_POWER: Final = 0.5
"""Minimum power of a pixel with contrast, as a share of the power that evenly spread noise and contrast would have."""

NOISE_SHARE: Final = 1 - 2 / np.pi
"""Share of noise in the power of an image reconstructed from signs; the noise is spread evenly."""

NOISE_AFTER_RESIZE: Final = (0.75**2 + 0.25**2) ** 2
"""Factor on the noise power after linear interpolation between pixels."""

Fingerprints = NDArray[np.uint8]


def make_fingerprints(thumbnails: Thumbnails) -> Fingerprints:
    """Returns the fingerprints of images.

    Args:
        thumbnails: (n, 64, 64) uint8 from ``make_thumbnail``.

    Returns:
        (n, 128) uint8; all 0 for an image without contrast, which matches no other.

    Raises:
        UsageError: If the thumbnails have another shape or type.
    """
    rows = unit_rows(downsample(structure_contrast(thumbnails)))
    return binary_codes(rows)


def match_fingerprints(
    fingerprints: Fingerprints, thumbnails: Thumbnails, threshold: float = MATCH_CORRELATION
) -> list[tuple[int, int, float]]:
    """Finds near duplicates of fingerprinted images among new images, in all 8 orientations, also shifted or cropped.

    The correlation is estimated from the contrasts of the new image and the signs of the fingerprinted one (asymmetric
    estimate: Dong, Charikar and Li, SIGIR 2008). Its standard error is about 0.01 for near duplicates.

    Args:
        fingerprints: (n, 128) uint8 from ``make_fingerprints``.
        thumbnails: (m, 64, 64) uint8 of the new images.
        threshold: Estimated correlation from which two images are near duplicates.

    Returns:
        (new image, fingerprinted image, estimated correlation) per match, in the order of the new images.

    Raises:
        UsageError: If fingerprints or thumbnails have another shape or type.
    """
    return match_queries(fingerprints, Queries.of(thumbnails), threshold)


@dataclass(frozen=True)
class Queries:
    """What the search among fingerprints needs of new images; one computation serves the fingerprints of several networks.

    Attributes:
        planes: (m, 64, 64) local contrasts.
        spectra: Their spectra, by zoom.
    """

    planes: Features
    spectra: dict[float, Features]

    @classmethod
    def of(cls, thumbnails: Thumbnails) -> Queries:
        """Computes the contrasts and spectra of thumbnails, (m, 64, 64) uint8."""
        planes = _enlarge(downsample(structure_contrast(thumbnails)))
        return cls(planes, {zoom: spectra(planes, zoom) for zoom in (*ZOOMS, *(1 / zoom for zoom in ZOOMS[1:]))})


def match_queries(
    fingerprints: Fingerprints, queries: Queries, threshold: float = MATCH_CORRELATION
) -> list[tuple[int, int, float]]:
    """Finds near duplicates of fingerprinted images among new images; see :func:`match_fingerprints`."""
    _check_fingerprints(fingerprints)
    matched: list[tuple[int, int, float]] = []
    for start in range(0, len(fingerprints), CHUNK_SIZE):
        reconstructed, noise_factors = _reconstruct(fingerprints[start : start + CHUNK_SIZE])
        candidates = _find_candidates(queries.spectra, spectra(reconstructed))
        best = Matches.concatenate(
            [Matches.empty(), *(align_pairs(queries.planes, reconstructed, batch) for batch in candidates.batches())]
        ).best_per_pair()
        correlation = np.minimum(best.structure / noise_factors[best.second], 1)
        rows = zip(best.first.tolist(), (best.second + start).tolist(), correlation.tolist(), strict=True)
        matched += [row for row in rows if row[2] >= threshold]
    return sorted(matched)


def _find_candidates(query_spectra: dict[float, Features], reconstructed: Features) -> Matches:
    """Returns the pairs (new image, fingerprinted image) with similar spectra."""
    rows, candidates = half_spectra(reconstructed), [Matches.empty()]
    for zoom, spectrum in query_spectra.items():
        for orientation in SPECTRUM_ORIENTATIONS:
            correlation = half_spectra(orient(spectrum, orientation)) @ rows.T
            similar = np.flatnonzero(correlation >= CANDIDATE_CORRELATION)  # faster than nonzero
            i, j = np.divmod(similar, correlation.shape[1])
            pose = poses_of_zoom(np.full(len(i), np.log(zoom)))
            candidates.append(Matches(i, j, np.full_like(i, orientation), pose, correlation[i, j]))
    return Matches.concatenate(candidates).best_per_pair(per_orientation=True)


def _reconstruct(fingerprints: Fingerprints) -> tuple[Features, NDArray[np.float32]]:
    """Reconstructs local contrasts from fingerprints by the inverse rotation.

    Returns:
        (n, 64, 64) noisy local contrasts, 0 where there is none, and (n,) the factor by which the noise lowers a correlation.
    """
    signs = np.unpackbits(fingerprints, axis=1).astype(np.float32) * 2 - 1
    signs[~fingerprints.any(axis=1)] = 0
    small = (signs @ rotation() / np.float32(np.sqrt(BITS))).reshape(-1, COARSE_SIZE, COARSE_SIZE)
    power = small * small
    small = small * (ndimage.uniform_filter(power, (0, 5, 5)) > CONTRAST_POWER / BITS)
    planes = _enlarge(small)
    noise_power = NOISE_AFTER_RESIZE * NOISE_SHARE / BITS * (planes != 0).sum(axis=(1, 2))
    noise = noise_power / np.maximum((planes * planes).sum(axis=(1, 2)), 1e-6)
    return planes, np.sqrt(np.maximum(1 - noise, 0.1)).astype(np.float32)


def _enlarge(planes: Features) -> Features:
    """Resizes (n, 32, 32) planes to (n, 64, 64) by linear interpolation."""
    positions = (np.arange(THUMBNAIL_SIZE, dtype=np.float32) + np.float32(0.5)) * np.float32(
        COARSE_SIZE / THUMBNAIL_SIZE
    ) - np.float32(0.5)
    weights = np.maximum(1 - np.abs(positions[:, None] - np.arange(COARSE_SIZE, dtype=np.float32)), np.float32(0))
    return np.asarray(weights @ planes @ weights.T, np.float32)


def _check_fingerprints(fingerprints: Fingerprints) -> None:
    if fingerprints.ndim != 2 or fingerprints.shape[1] != BYTES or fingerprints.dtype != np.uint8:
        raise UsageError(
            f"Got fingerprints of shape {fingerprints.shape} and type {fingerprints.dtype}",
            f"Fingerprints are (n, {BYTES}) uint8",
            "Make them with reslink.datasets.near_duplicates.fingerprints.make_fingerprints",
        )
