"""Near duplicates and groups: the same slice flipped, rotated, re-encoded, resized, cropped, framed, brighter or darker.

ImageHash is not used: of 250 pairs in the head CT set that correlate above 0.85, its 64-bit pHash finds 93 % within 10 bits,
together with 1.2 % of all other pairs, and each image would need eight hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.near_duplicates.features import (
    CHUNK_SIZE,
    ORIENTATIONS,
    Features,
    downsample,
    orient,
    outline_free_contrast,
    unit_rows,
)
from reslink.datasets.near_duplicates.search import (
    GROUP_SIZE,
    find_matches,
    planes_when_needed,
)
from reslink.datasets.near_duplicates.similar_rows import RowSearch, most_similar, search_rows
from reslink.datasets.near_duplicates.thumbnails import THUMBNAIL_SIZE, Thumbnails
from reslink.errors import UsageError

if TYPE_CHECKING:
    from reslink.datasets.manifest import Manifest

MIN_STRUCTURE: Final = (0.9, 0.95)
MIN_TEXTURE: Final = (0.88, 0.68)
"""Near duplicates reach one of these two pairs of (structure, texture) correlations; strong compression degrades texture
first. Other levels and patients reach 0.90 and 0.78 in phantoms. Of 2,799 FLAIR slices without duplicates, 3 pairs of
neighbors pass."""

MIN_STRUCTURE_ACROSS_PATIENTS: Final = 0.94
"""Correlation of structure that near duplicates of two known patients must reach."""

CANDIDATE_CORRELATION: Final = 0.65
SIMILAR_CORRELATION: Final = 0.8
"""Correlation of similar images: in the head CT set these are near duplicates and neighboring slices; below 0.78 other heads
mix in."""

SIMILAR_CORRELATION_ACROSS_PATIENTS: Final = 0.9
"""The same between two known patients: no two of 88 glioma patients reach 0.85; synthetic heads, whose skulls are similar,
reach 0.88. Also between two known sources: neighboring slices of one scan come from one source. In four CT sets together,
2,230 of 7,298 images would otherwise be one group, and 217 with this limit."""

BLOCK_SIZE: Final = 4096
"""Number of images whose contrasts are in memory while they are compared with earlier ones."""

MAX_SHIFT: Final = 2
SHIFTS: Final = tuple((down, right) for down in range(2 * MAX_SHIFT + 1) for right in range(2 * MAX_SHIFT + 1))
"""Rows and columns of the windows that are compared, in a plane that continues by 2 pixels at each side."""


Rows = NDArray[np.signedinteger]


@dataclass(frozen=True)
class DuplicatePair:
    """A pair of near duplicates: two images of the same slice.

    Attributes:
        first: Row of the first thumbnail.
        second: Row of the second thumbnail, larger than ``first``.
        correlation: Correlation of the structure inside the head after alignment, 0 to 1.
        orientation: Transformation of the second image that matches the first: ``orientation % 4`` rotations by 90°
            counterclockwise, then, from 4, a left-right flip.
    """

    first: int
    second: int
    correlation: float
    orientation: int


def find_duplicates(thumbnails: Thumbnails, patients: Sequence[str | None] | None = None) -> list[DuplicatePair]:
    """Finds near duplicates: one slice re-encoded, resized, brighter, darker, framed, cropped, flipped or rotated by 90°.

    A crop may remove up to 10 % at each side, also of the head. All pairs are compared by the spectra of their texture, in all
    orientations and at a few zooms. Similar pairs are aligned; they are near duplicates if both structure and texture
    correlate. Neighboring slices share much of their structure, but not their texture.

    Args:
        thumbnails: (n, 64, 64) uint8 from ``make_thumbnail``: the isolated head, 0 outside.
        patients: The patient of each image, None if unknown; images of two known patients must be more similar.

    Returns:
        The pairs, ordered by ``first`` and ``second``.

    Raises:
        UsageError: If the thumbnails have another shape or type, or their number differs from that of the patients.
    """
    matches, textures = find_matches(thumbnails)
    min_structure = np.zeros(len(matches), np.float32)
    if patients is not None:
        _check_count(len(patients), len(thumbnails))
        min_structure[_differ(_numbers(patients), matches.first, matches.second)] = MIN_STRUCTURE_ACROSS_PATIENTS
    limits = zip(MIN_STRUCTURE, MIN_TEXTURE, strict=True)
    similar = np.any([(matches.structure >= structure) & (textures >= texture) for structure, texture in limits], axis=0)
    confirmed = matches.select(similar & (matches.structure >= min_structure))
    duplicates = {pair: DuplicatePair(*pair, 1.0, 0) for pair in _identical_pairs(thumbnails)}
    columns = (confirmed.first, confirmed.second, confirmed.structure, confirmed.orientation)
    for first, second, correlation, orientation in zip(*(column.tolist() for column in columns), strict=True):
        if (first, second) not in duplicates:
            identical = np.array_equal(thumbnails[first], thumbnails[second])
            pair = DuplicatePair(first, second, min(correlation, 1.0), 0 if identical else orientation)
            duplicates[first, second] = pair
    return [duplicates[pair] for pair in sorted(duplicates)]


def _identical_pairs(thumbnails: Thumbnails) -> list[tuple[int, int]]:
    """Pairs each thumbnail that is not blank with the first identical one."""
    digests = [hashlib.sha256(thumbnail.tobytes()).digest() if thumbnail.any() else None for thumbnail in thumbnails]
    return [pair for pair in pairs_of_equal_keys(digests) if pair[0] != pair[1]]


def duplicate_groups(thumbnails: Thumbnails) -> list[int]:
    """Groups near duplicates, as ``find_duplicates`` finds them.

    Args:
        thumbnails: (n, 64, 64) uint8 from ``make_thumbnail``: the isolated head, 0 outside.

    Returns:
        n group numbers from 0 in the order of first appearance. Images with the same number are near duplicates of each other,
        directly or through others.

    Raises:
        UsageError: If the thumbnails have another shape or type.
    """
    return connected_groups(len(thumbnails), _pair_rows(find_duplicates(thumbnails)))


def _pair_rows(pairs: Sequence[DuplicatePair]) -> Rows:
    return np.array([(pair.first, pair.second) for pair in pairs], np.intp).reshape(-1, 2)


def leakage_groups(
    manifest: Manifest,
    thumbnails: Thumbnails,
    duplicates: Sequence[DuplicatePair] | None = None,
    *,
    include_similar: bool = True,
) -> list[str]:
    """Joins patients, near duplicates and similar images into groups; the cases of a group belong in one split.

    To be on the safe side, this joins more than ``find_duplicates``: if patients are unknown, similar images may be
    neighboring slices of one patient. Cases of two known patients or sources are joined only from a higher correlation.

    Args:
        manifest: The cases, with ``patient_id`` if known.
        thumbnails: (n, 64, 64) uint8, one per case in the same order.
        duplicates: The result of ``find_duplicates`` with their patients; None computes it.
        include_similar: Also join similar images that are not near duplicates. A new split keeps them together; a split that
            the data states is checked only for patients and near duplicates.

    Returns:
        One group name per case: the name of the first case of its group.

    Raises:
        UsageError: If the numbers of thumbnails and cases differ.
    """
    cases = manifest.cases
    _check_count(len(cases), len(thumbnails))
    patients = [case.patient_id for case in cases]
    same_patient = np.array(pairs_of_equal_keys(patients), np.intp).reshape(-1, 2)
    joined_pairs = [_pair_rows(find_duplicates(thumbnails, patients) if duplicates is None else duplicates), same_patient]
    if include_similar:
        joined_pairs.append(_similar_pairs(thumbnails, patients, [case.source for case in cases]))
    joined = connected_groups(len(cases), np.concatenate(joined_pairs))
    first: dict[int, str] = {}
    return [first.setdefault(number, case.name) for number, case in zip(joined, cases, strict=True)]


def _similar_pairs(thumbnails: Thumbnails, patients: Sequence[str | None], sources: Sequence[str | None]) -> Rows:
    """Returns rows (i, j) of similar images that are not of one known patient; two patients or sources must be more similar."""
    numbers, similar = [_numbers(names) for names in (patients, sources)], [np.zeros((0, 2), np.intp)]
    for pairs, correlation in _find_similar(thumbnails, numbers[0]):
        apart = [_differ(number, pairs[:, 0], pairs[:, 1]) for number in numbers]
        required = np.where(np.any(apart, axis=0), SIMILAR_CORRELATION_ACROSS_PATIENTS, SIMILAR_CORRELATION)
        similar.append(pairs[correlation >= required, :2])
    return np.concatenate(similar)


def _check_count(cases: int, thumbnails: int) -> None:
    if cases != thumbnails:
        raise UsageError(
            f"{thumbnails} thumbnails were given for {cases} cases",
            "Each case has one thumbnail",
            "Use the manifest of the cases that could be read (PixelCache.manifest)",
        )


def _numbers(names: Sequence[str | None]) -> Rows:
    """Returns a number for each name of a patient or source, -1 if it is unknown."""
    numbers = {name: number for number, name in enumerate(sorted({n for n in names if n is not None}))}
    return np.array([-1 if name is None else numbers[name] for name in names], np.intp)


def _differ(numbers: Rows, first: Rows, second: Rows) -> NDArray[np.bool_]:
    """Returns whether each pair has two different known names, given their ``_numbers``."""
    first_number, second_number = numbers[first], numbers[second]
    return np.asarray((first_number >= 0) & (second_number >= 0) & (first_number != second_number))


def pairs_of_equal_keys(keys: Sequence[object]) -> list[tuple[int, int]]:
    """Pairs each item with the first one of the same key; items with key None are left out."""
    first: dict[object, int] = {}
    return [(first.setdefault(key, i), i) for i, key in enumerate(keys) if key is not None]


def connected_groups(count: int, pairs: Rows) -> list[int]:
    """Returns the group (connected component) of each item.

    Args:
        count: Number of items.
        pairs: (n, 2) indices of the two items of each pair.

    Returns:
        ``count`` group numbers from 0 in the order of first appearance.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components  # slow to import

    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, components = connected_components(graph, directed=False)
    order: dict[int, int] = {}
    return [order.setdefault(int(component), len(order)) for component in components]


def _find_similar(thumbnails: Thumbnails, patients: Rows) -> Iterator[tuple[Rows, NDArray[np.float32]]]:
    """Yields rows (i, j, orientation), i < j, of pairs similar at 32×32, and their correlations.

    Args:
        thumbnails: (n, 64, 64) uint8.
        patients: (n,) the patient of each, -1 if unknown. Pairs of one patient are left out.
    """
    count, contrast = len(thumbnails), planes_when_needed(outline_free_contrast, thumbnails)
    chunks = [slice(start, min(start + CHUNK_SIZE, count)) for start in range(0, max(count, 1), CHUNK_SIZE)]
    search = search_rows((unit_rows(downsample(contrast(chunk))) for chunk in chunks), count, CANDIDATE_CORRELATION)
    for start in range(0, count, BLOCK_SIZE):
        later = contrast(slice(start, min(start + BLOCK_SIZE, count)))
        found, correlation = _find_candidates(downsample(later), start, search)
        of_two = (patients[found[:, 0]] < 0) | (patients[found[:, 0]] != patients[found[:, 1]])
        found, correlation = found[of_two], correlation[of_two]
        found = found[most_similar(found[:, 1], correlation, count)]
        for part in np.unique(found[:, 0] // GROUP_SIZE):
            pairs = found[found[:, 0] // GROUP_SIZE == part]
            rows, first = np.unique(pairs[:, 0], return_inverse=True)
            local = np.stack([first, pairs[:, 1] - start, pairs[:, 2]], axis=1)
            yield pairs, _best_correlation(contrast(rows), later, local)
        del later  # before the next block is computed


def _find_candidates(small: Features, start: int, search: RowSearch) -> tuple[Rows, NDArray[np.float32]]:
    """Returns rows (i, j, orientation), i < j, of pairs whose second is one of some images, numbered from ``start``."""
    candidates, correlations = [np.zeros((0, 3), np.int32)], [np.zeros(0, np.float32)]
    for orientation in range(ORIENTATIONS):
        for i, j, correlation in search(unit_rows(orient(small, orientation)), start):
            rows = np.stack([i, j + start, np.full_like(i, orientation)], axis=1).astype(np.int32)
            earlier = rows[:, 0] < rows[:, 1]
            candidates.append(rows[earlier])
            correlations.append(correlation[earlier])
    return np.concatenate(candidates), np.concatenate(correlations)


def _best_correlation(first: Features, second: Features, pairs: Rows) -> NDArray[np.float32]:
    """Returns the highest correlation of each pair over small shifts.

    Args:
        first: (n, 64, 64) local contrast.
        second: (m, 64, 64) local contrast.
        pairs: (k, 3) index of the first, index of the second, orientation of the second.
    """
    best = np.zeros(len(pairs), np.float32)
    for orientation in range(ORIENTATIONS):
        selected = np.flatnonzero(pairs[:, 2] == orientation)
        for start in range(0, len(selected), CHUNK_SIZE):
            rows = selected[start : start + CHUNK_SIZE]
            fixed = unit_rows(first[pairs[rows, 0]]).reshape(-1, THUMBNAIL_SIZE, THUMBNAIL_SIZE)
            moving = unit_rows(orient(second[pairs[rows, 1]], orientation)).reshape(fixed.shape)
            wrapped = np.pad(moving, ((0, 0), (MAX_SHIFT, MAX_SHIFT), (MAX_SHIFT, MAX_SHIFT)), mode="wrap")
            for down, right in SHIFTS:
                shifted = wrapped[:, down : down + THUMBNAIL_SIZE, right : right + THUMBNAIL_SIZE]
                best[rows] = np.maximum(best[rows], np.einsum("ijk,ijk->i", fixed, shifted))
    return best
