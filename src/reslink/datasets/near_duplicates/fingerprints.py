"""Image fingerprints of 128 bytes that recognize near duplicates without storing the image.

A fingerprint is the sign of 1,024 projections of the head's local contrast at 32×32 onto the rows of a fixed rotation
(SimHash: Charikar, "Similarity estimation techniques from rounding algorithms", STOC 2002, section 3), equal on every
machine.

Privacy: the inverse rotation of a fingerprint is a noisy image of 32×32 local contrasts, without gray values, skull and
outline. It correlates with the true contrasts by 0.8. That is enough to recognize an image that one already has.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from reslink.datasets.near_duplicates.alignment import find_shift_and_turn, refine_pose
from reslink.datasets.near_duplicates.features import (
    CHUNK_SIZE,
    COARSE_SIZE,
    Features,
    downsample,
    spectra,
    structure_contrast,
    unit_rows,
)
from reslink.datasets.near_duplicates.hamming_index import BITS, BYTES, binary_codes, rotation
from reslink.datasets.near_duplicates.search import SPECTRUM_ORIENTATIONS, ZOOMS, Matches, orient_each, poses_of_zoom
from reslink.datasets.near_duplicates.symmetry import oriented_correlations, symmetric_parts
from reslink.datasets.near_duplicates.thumbnails import THUMBNAIL_SIZE, Thumbnails
from reslink.errors import UsageError

MATCH_CORRELATION: Final = 0.9
"""Estimated correlation from which a new image is a near duplicate of a fingerprinted one. No pair of 638 slices of glioma
patients and 2,161 slices of others reaches it."""

CANDIDATE_CORRELATION: Final = 0.38
"""Correlation of spectra from which a pair is aligned and compared."""

SHIFTED_SHARE: Final = 0.7
"""Share of the threshold that a pair reaches after the whole-pixel shift if its alignment is worth refining. Of 7,785 matches
among 4,700 copies and slices of ct, lgg, mri4 and phantoms, none has less than 0.78."""

REFINED_SHARE: Final = 0.88
"""Share of the threshold after one refinement step, from which refinement continues. No such match has less than 0.97."""

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
    _check_fingerprints(fingerprints)
    queries = Queries.of(thumbnails)
    matches = _matches(fingerprints, queries, _find_candidates(fingerprints, queries), threshold).best_per_pair()
    return list(zip(matches.first.tolist(), matches.second.tolist(), matches.structure.tolist(), strict=True))


@dataclass(frozen=True)
class Queries:
    """What the search among fingerprints needs of new images; one computation serves the fingerprints of several networks.

    Attributes:
        planes: (m, 64, 64) local contrasts.
        spectra: (4, m, 114) symmetric parts of their spectra, by zoom.
    """

    planes: Features
    spectra: dict[float, Features]

    @classmethod
    def of(cls, thumbnails: Thumbnails) -> Queries:
        """Computes the contrasts and spectra of thumbnails, (m, 64, 64) uint8."""
        planes = _enlarge(downsample(structure_contrast(thumbnails)))
        zooms = (*ZOOMS, *(1 / zoom for zoom in ZOOMS[1:]))
        return cls(planes, {zoom: symmetric_parts(spectra(planes, zoom)) for zoom in zooms})


def matched_queries(fingerprints: Fingerprints, queries: Queries, threshold: float = MATCH_CORRELATION) -> dict[int, float]:
    """Finds the new images that are near duplicates of a fingerprinted one; see :func:`match_fingerprints`.

    The candidate with the most similar spectrum is compared first, the others only if it is no match. That saves most of the
    alignments where many new images are near duplicates.

    Args:
        fingerprints: (n, 128) uint8 from ``make_fingerprints``.
        queries: The new images.
        threshold: Estimated correlation from which two images are near duplicates.

    Returns:
        New image to the estimated correlation with a fingerprinted image that it matches.

    Raises:
        UsageError: If the fingerprints have another shape or type.
    """
    _check_fingerprints(fingerprints)
    candidates = _find_candidates(fingerprints, queries)
    candidates = candidates.select(np.lexsort((-candidates.structure, candidates.first)))
    is_best = np.diff(candidates.first, prepend=-1) != 0
    found = _matches(fingerprints, queries, candidates.select(is_best), threshold)
    others = candidates.select(~is_best & ~np.isin(candidates.first, found.first))
    found = Matches.concatenate([found, _matches(fingerprints, queries, others, threshold)])
    highest: dict[int, float] = {}
    for query, correlation in zip(found.first.tolist(), found.structure.tolist(), strict=True):
        highest[query] = max(highest.get(query, 0.0), correlation)
    return highest


def _find_candidates(fingerprints: Fingerprints, queries: Queries) -> Matches:
    """Returns the pairs (new image, fingerprinted image) with similar spectra, each with its orientations."""
    orientations, candidates = np.array(SPECTRUM_ORIENTATIONS), [Matches.empty()]
    for start in range(0, len(fingerprints), CHUNK_SIZE):
        reconstructed = symmetric_parts(spectra(_reconstruct(fingerprints[start : start + CHUNK_SIZE])[0]))
        similar_pairs = [Matches.empty()]
        for zoom, first in itertools.product(queries.spectra, range(0, len(queries.planes), CHUNK_SIZE)):
            correlation = oriented_correlations(queries.spectra[zoom][:, first : first + CHUNK_SIZE], reconstructed)
            similar = np.flatnonzero(correlation >= CANDIDATE_CORRELATION)  # faster than nonzero
            orientation, i, j = np.unravel_index(similar, correlation.shape)
            pose = poses_of_zoom(np.full(len(i), np.log(zoom)))
            similar_pairs.append(Matches(i + first, j + start, orientations[orientation], pose, correlation.ravel()[similar]))
        candidates.append(Matches.concatenate(similar_pairs).best_per_pair(per_orientation=True))
    return Matches.concatenate(candidates)


def _matches(fingerprints: Fingerprints, queries: Queries, candidates: Matches, threshold: float) -> Matches:
    """Returns the candidates that are near duplicates, with the estimated correlation as ``structure``."""
    candidates, found = candidates.select(np.argsort(candidates.second, kind="stable")), [Matches.empty()]
    for start in range(0, len(candidates), CHUNK_SIZE):
        pairs = candidates.select(slice(start, start + CHUNK_SIZE))
        rows, second = np.unique(pairs.second, return_inverse=True)
        reconstructed, noise_factors = _reconstruct(fingerprints[rows])
        for batch in replace(pairs, second=second).batches():
            aligned = _align(queries.planes, reconstructed, threshold * noise_factors, batch)
            correlation = np.minimum(aligned.structure / noise_factors[aligned.second], 1)
            aligned = replace(aligned, second=rows[aligned.second], structure=correlation)
            found.append(aligned.select(correlation >= threshold))
    return Matches.concatenate(found)


def _align(planes: Features, reconstructed: Features, required: NDArray[np.float32], pairs: Matches) -> Matches:
    """Aligns the fingerprinted image of each pair to the new one, and drops the pairs that stay far below a match.

    Args:
        planes: (m, 64, 64) local contrasts of the new images.
        reconstructed: (n, 64, 64) local contrasts of the fingerprinted images.
        required: (n,) correlation of the planes at a match.
        pairs: Candidates with spectrum orientation and zoom.

    Returns:
        The remaining rows, with orientation, pose and the correlation of the planes.
    """
    fixed, moving = planes[pairs.first], orient_each(reconstructed[pairs.second], pairs.orientation)
    pose, correlation, turned = find_shift_and_turn(fixed, moving, pairs.pose[:, 0])
    moving[turned] = moving[turned][:, ::-1, ::-1]
    pairs = replace(pairs, orientation=pairs.orientation ^ (2 * turned), pose=pose)
    for share, steps in ((SHIFTED_SHARE, 1), (REFINED_SHARE, 6)):
        keep = np.flatnonzero(correlation >= share * required[pairs.second])
        fixed, moving, pairs = fixed[keep], moving[keep], pairs.select(keep)
        pose, correlation = refine_pose(fixed, moving, pairs.pose, steps)
        pairs = replace(pairs, pose=pose, structure=correlation)
    return pairs


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
