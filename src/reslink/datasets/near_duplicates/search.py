"""Near-duplicate search: candidate pairs by shift-invariant spectra, then verification by alignment.

Fourier magnitudes as a shift-invariant key: Reddy and Chatterji, "An FFT-based technique for translation, rotation, and
scale-invariant image registration", IEEE Trans. Image Processing 1996. Zooms are tried one by one, since a crop magnifies a
head by no more than a quarter.

Planes and spectra of all images at once would take 90 KB for each. They are computed in chunks when they are needed; those of
small data sets are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.near_duplicates.alignment import Pose, find_shift, refine_pose
from reslink.datasets.near_duplicates.features import (
    CHUNK_SIZE,
    ORIENTATIONS,
    Features,
    half_spectra,
    orient,
    soft_tissue_masks,
    spectra,
    structure_contrast,
    texture_contrast,
)
from reslink.datasets.near_duplicates.similar_rows import most_similar, search_rows
from reslink.datasets.near_duplicates.thumbnails import Thumbnails, check_thumbnails

ZOOMS: Final = (1.0, 1.04, 1.08, 1.12, 1.16, 1.2, 1.25)
"""A crop of 10 % at each side magnifies the head by 1.25; between two zooms the spectra of a head stay similar."""

SPECTRUM_ORIENTATIONS: Final = (0, 1, 4, 5)
"""Orientations of a spectrum, which rotation by 180° does not change."""

CANDIDATE_CORRELATION: Final = 0.45
"""Correlation of spectra from which a pair is aligned."""

SHIFTED_CORRELATION: Final = 0.35
"""Correlation of structure after the whole-pixel shift, from which the alignment is refined."""

KEPT_IMAGES: Final = 4096
"""Up to this number of images their planes are kept; those of more images are computed again for each use."""

GROUP_SIZE: Final = 1024
"""Number of pairs whose planes are in memory at once."""

REFINED_CORRELATION: Final = 0.6
"""Correlation of structure after two refinement steps, from which refinement continues."""

BATCH_SIZE: Final = 64

Numbers = NDArray[np.intp]
Values = NDArray[np.float32]
Planes: TypeAlias = Callable[[Numbers | slice], Features]
"""Returns the (k, 64, 64) planes of some rows."""


@dataclass(frozen=True, eq=False)
class Matches:
    """Pairs of images, one row per pair.

    Attributes:
        first: (k,) row of the first thumbnail.
        second: (k,) row of the second thumbnail, larger than ``first``.
        orientation: (k,) rotation and flip of the second that matches the first, 0 to 7 (``features.orient``).
        pose: (k, 3) zoom and shift of the second (``alignment.Pose``).
        structure: (k,) correlation of the structure: of the spectra before, of the planes after alignment.
    """

    first: Numbers
    second: Numbers
    orientation: Numbers
    pose: Pose
    structure: Values

    @classmethod
    def empty(cls) -> Matches:
        """Returns a table without rows."""
        numbers, values = np.zeros(0, np.intp), np.zeros(0, np.float32)
        return cls(numbers, numbers, numbers, np.zeros((0, 3), np.float32), values)

    def __len__(self) -> int:
        return len(self.first)

    def select(self, rows: Numbers | slice | NDArray[np.bool_]) -> Matches:
        """Returns some of the rows."""
        return Matches(*(getattr(self, field.name)[rows] for field in fields(self)))

    def batches(self) -> Iterator[Matches]:
        """Yields batches of rows small enough for the processor cache."""
        return (self.select(slice(start, start + BATCH_SIZE)) for start in range(0, len(self), BATCH_SIZE))

    @classmethod
    def concatenate(cls, tables: list[Matches]) -> Matches:
        """Concatenates tables."""
        return cls(*(np.concatenate([getattr(table, field.name) for table in tables]) for field in fields(cls)))

    def best_per_pair(self, per_orientation: bool = False) -> Matches:
        """Keeps the row with the highest correlation per pair (or per pair and orientation), in the order of the pairs."""
        keys = (self.first, self.second, *([self.orientation] if per_orientation else []))
        order = np.lexsort((-self.structure, *reversed(keys)))
        same = np.all([np.diff(key[order], prepend=-1) == 0 for key in keys], axis=0)
        return self.select(order[~same])


def find_matches(thumbnails: Thumbnails) -> tuple[Matches, Values]:
    """Finds the pairs that may be near duplicates, and aligns them.

    Args:
        thumbnails: (n, 64, 64) uint8 from ``make_thumbnail``; may be a memory-mapped file.

    Returns:
        Each pair once, in the pose with the highest correlation of structure, and the correlation of texture in that pose.

    Raises:
        UsageError: If the thumbnails have another shape or type.
    """
    check_thumbnails(thumbnails)
    masks = soft_tissue_masks(thumbnails) if len(thumbnails) <= KEPT_IMAGES else None
    texture = planes_when_needed(partial(texture_contrast, masks=masks), thumbnails)
    candidates = find_candidates(texture, len(thumbnails))
    structure = planes_when_needed(partial(structure_contrast, masks=masks), thumbnails)
    aligned = [Matches.empty()]
    for rows, planes, pairs in _with_planes(structure, candidates):
        kept = [align_pairs(planes, planes, batch) for batch in pairs.batches()]
        aligned += [replace(part, first=rows[part.first], second=rows[part.second]) for part in kept]
    best = Matches.concatenate(aligned).best_per_pair()
    correlations = [np.zeros(0, np.float32)]
    for _, planes, pairs in _with_planes(texture, best):
        correlations += [_texture_correlation(planes, batch) for batch in pairs.batches()]
    return best, np.concatenate(correlations)


def planes_when_needed(compute: Callable[[Thumbnails], Features], thumbnails: Thumbnails) -> Planes:
    """Returns the planes of thumbnails by row: computed once for up to 4,096 images, for more whenever they are needed.

    Args:
        compute: Turns (k, 64, 64) thumbnails into as many planes, each by itself.
        thumbnails: (n, 64, 64) uint8.
    """
    if len(thumbnails) <= KEPT_IMAGES:
        return compute(thumbnails).__getitem__
    return lambda rows: compute(thumbnails[rows])


def find_candidates(textures: Planes, count: int) -> Matches:
    """Finds the pairs with similar spectra.

    Args:
        textures: The ``texture_contrast`` of each image.
        count: Number of images.

    Returns:
        One row per pair and spectrum orientation (0, 1, 4 or 5), with the zoom of the highest correlation. Up to 10,000
        images, these are all similar pairs; of more images, the 16 most similar ones of each.
    """
    chunks = [slice(start, min(start + CHUNK_SIZE, count)) for start in range(0, max(count, 1), CHUNK_SIZE)]
    plain = (half_spectra(spectra(textures(chunk))) for chunk in chunks)
    search = search_rows(plain, count, CANDIDATE_CORRELATION)
    candidates = [Matches.empty()]
    for chunk in chunks:
        texture, similar = textures(chunk), [Matches.empty()]
        for zoom in ZOOMS:
            zoomed = spectra(texture, zoom)
            for orientation in SPECTRUM_ORIENTATIONS:
                rows = half_spectra(orient(zoomed, orientation))
                for i, j, correlation in search(rows, chunk.start if zoom == 1 else None):
                    similar.append(_candidate_rows(i, j + chunk.start, correlation, orientation, zoom))
        best = Matches.concatenate(similar).best_per_pair(per_orientation=True)
        of_chunk = np.where((best.second >= chunk.start) & (best.second < chunk.stop), best.second, best.first)
        candidates.append(best.select(most_similar(of_chunk, best.structure, count)))
    found = Matches.concatenate(candidates)
    log_zoom = found.pose[:, 0]  # of equal correlations, the smallest zoom counts, and the zoom of the later image
    return found.select(np.lexsort((log_zoom, np.abs(log_zoom)))).best_per_pair(per_orientation=True)


def _with_planes(contrast: Planes, pairs: Matches) -> Iterator[tuple[Numbers, Features, Matches]]:
    """Yields groups of pairs: the rows of their images, the planes of these, and the pairs as indices of these planes."""
    for start in range(0, len(pairs), GROUP_SIZE):
        group = pairs.select(slice(start, start + GROUP_SIZE))
        rows, indices = np.unique(np.stack([group.first, group.second]), return_inverse=True)
        first, second = indices.reshape(2, len(group))
        yield rows, contrast(rows), replace(group, first=first, second=second)


def align_pairs(first: Features, second: Features, pairs: Matches) -> Matches:
    """Aligns the second image of each pair to the first, and drops dissimilar pairs.

    Args:
        first: (n, 64, 64) from ``structure_contrast``.
        second: (m, 64, 64) from ``structure_contrast``; may be the same array.
        pairs: Candidates with spectrum orientation and zoom.

    Returns:
        The remaining rows, with orientation, pose and the correlation of their structure.
    """
    fixed, moving = first[pairs.first], second[pairs.second]
    orientations = pairs.orientation
    rotated = orientations ^ 2  # spectra do not distinguish rotation by 180°
    pose, correlation = find_shift(fixed, orient_each(moving, orientations), pairs.pose[:, 0])
    rotated_pose, rotated_correlation = find_shift(fixed, orient_each(moving, rotated), pairs.pose[:, 0])
    better = rotated_correlation > correlation
    pose[better] = rotated_pose[better]
    orientations = np.where(better, rotated, orientations)
    similar = np.maximum(correlation, rotated_correlation) >= SHIFTED_CORRELATION
    fixed, moving, pose = fixed[similar], orient_each(moving[similar], orientations[similar]), pose[similar]
    pose, correlation = refine_pose(fixed, moving, pose, 2)
    keep = correlation >= REFINED_CORRELATION
    pose, correlation = refine_pose(fixed[keep], moving[keep], pose[keep], 5)
    kept_pairs = pairs.select(np.flatnonzero(similar)[keep])
    return replace(kept_pairs, orientation=orientations[similar][keep], pose=pose, structure=correlation)


def _texture_correlation(texture: Features, pairs: Matches) -> Values:
    return refine_pose(texture[pairs.first], orient_each(texture[pairs.second], pairs.orientation), pairs.pose, 4)[1]


def orient_each(planes: Features, orientations: Numbers) -> Features:
    """Rotates and flips each of (n, s, s) planes by its own orientation."""
    result = np.empty_like(planes)
    for orientation in range(ORIENTATIONS):
        selected = orientations == orientation
        result[selected] = orient(planes[selected], orientation)
    return result


def _candidate_rows(i: Numbers, j: Numbers, correlation: Values, orientation: int, zoom: float) -> Matches:
    """Returns ``Matches`` of similar rows, the second of which was oriented and zoomed; each pair once at zoom 1."""
    keep = i < j if zoom == 1 else i != j
    i, j, correlation = i[keep], j[keep], correlation[keep]
    pose = poses_of_zoom(np.where(i < j, -np.log(zoom), np.log(zoom)))
    return Matches(np.minimum(i, j), np.maximum(i, j), np.full_like(i, orientation), pose, correlation)


def poses_of_zoom(log_zooms: NDArray[np.floating]) -> Pose:
    """Returns (n, 3) poses with the given logarithms of the zoom, without shift."""
    pose = np.zeros((len(log_zooms), 3), np.float32)
    pose[:, 0] = log_zooms
    return pose
