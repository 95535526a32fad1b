"""Near copies: the same slice again, mirrored, rotated, re-encoded, resized, cropped, framed, brighter or darker.

Candidates do not come from ImageHash: of 250 pairs in the head CT set that correlate above 0.85, its 64-bit pHash brings
93 % within 10 bits, together with 1.2 % of all other pairs, and an image would need eight hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from reslink.datasets.near_duplicates import hamming_index
from reslink.datasets.near_duplicates.features import CHUNK, ORIENTATIONS, Features, coarse, features, oriented, unit
from reslink.datasets.near_duplicates.search import MANY, SURELY, matches
from reslink.datasets.near_duplicates.thumbnails import SIDE, Thumbnails, thumbnail
from reslink.errors import UsageError

if TYPE_CHECKING:
    from reslink.datasets.manifest import Manifest

__all__ = ["SIDE", "Thumbnails", "TwinPair", "groups", "pairs", "thumbnail", "twin_groups"]

SAME_STRUCTURE: Final = (0.9, 0.95)
SAME_TEXTURE: Final = (0.88, 0.68)
"""Twins have one of these two pairs of correlations; strong compression spoils texture first. Slices of other levels and
patients reach 0.90 and 0.78 in phantoms; of 2,799 FLAIR slices without copies 3 pairs of neighbours pass."""

SAME_ACROSS_PATIENTS: Final = 0.94
"""Structure that images of two known patients must have in common."""

CANDIDATE: Final = 0.65
CONFIRMED: Final = 0.8
"""Images that look alike: on the head CT set these are copies and neighbouring slices; below 0.78 other heads mix in."""

CONFIRMED_ACROSS_PATIENTS: Final = 0.9
"""Between two known patients: of 88 glioma patients no two reach 0.85; synthetic heads, whose skulls are alike, reach 0.88."""

SHIFTS: Final = tuple((y, x) for y in (-2, -1, 0, 1, 2) for x in (-2, -1, 0, 1, 2))


@dataclass(frozen=True)
class TwinPair:
    """Two images that show the same slice.

    Attributes:
        first: Row of the one thumbnail.
        second: Row of the other, larger than ``first``.
        correlation: Of the structure inside the head after alignment, 0 to 1.
        orientation: How the second must be turned and mirrored to match the first: by 90° counterclockwise
            ``orientation % 4`` times, then, from 4 on, mirrored left to right.
        exact: Whether the two thumbnails are equal in every pixel.
    """

    first: int
    second: int
    correlation: float
    orientation: int
    exact: bool


def pairs(thumbnails: Thumbnails, patients: Sequence[str | None] | None = None) -> list[TwinPair]:
    """Finds copies: the same slice re-encoded, resized, brighter, darker, framed, cropped, mirrored or rotated by 90°.

    A crop may take up to 10 % of each side, also of the head. All pairs are compared by spectra of their texture, in all
    orientations and at a few zooms; those that are alike are aligned, and are twins where both structure and texture
    correlate. Neighbouring slices have much of their structure in common, but not their texture.

    Args:
        thumbnails: (n, 64, 64) uint8 from ``thumbnail``: the isolated head, 0 outside.
        patients: The patient of each image, None where not known; images of two known patients must be more alike.

    Returns:
        The pairs, ordered by ``first`` and ``second``.

    Raises:
        UsageError: If the thumbnails have another shape or type, or there are more or fewer patients.
    """
    found, textures = matches(thumbnails)
    least = np.zeros(len(found), np.float32)
    if patients is not None:
        _check_count(len(patients), len(thumbnails))
        least[_across(patients, found.first, found.second)] = SAME_ACROSS_PATIENTS
    ways = zip(SAME_STRUCTURE, SAME_TEXTURE, strict=True)
    alike = np.any([(found.structure >= structure) & (textures >= texture) for structure, texture in ways], axis=0)
    sure = found.at(alike & (found.structure >= least))
    equal = {pair: TwinPair(*pair, 1.0, 0, exact=True) for pair in _equal(thumbnails)}
    rows = zip(sure.first.tolist(), sure.second.tolist(), sure.structure.tolist(), sure.orientation.tolist(), strict=True)
    for first, second, value, orientation in rows:
        if (first, second) not in equal:
            same = np.array_equal(thumbnails[first], thumbnails[second])
            equal[first, second] = TwinPair(first, second, min(value, 1.0), 0 if same else orientation, exact=same)
    return [equal[pair] for pair in sorted(equal)]


def _equal(thumbnails: Thumbnails) -> list[tuple[int, int]]:
    """Links each thumbnail that is not blank to the first one with the same pixels."""
    return [pair for pair in _links([t.tobytes() if t.any() else None for t in thumbnails]) if pair[0] != pair[1]]


def twin_groups(thumbnails: Thumbnails) -> list[int]:
    """Groups copies, as ``pairs`` finds them.

    Args:
        thumbnails: (n, 64, 64) uint8 from ``thumbnail``: the isolated head, 0 outside.

    Returns:
        n group numbers from 0 in the order of first appearance; images with the same number are copies of each
        other, directly or through others.

    Raises:
        UsageError: If the thumbnails have another shape or type.
    """
    return united(len(thumbnails), _ends(pairs(thumbnails)))


def _ends(found: Sequence[TwinPair]) -> NDArray[np.intp]:
    return np.array([(pair.first, pair.second) for pair in found], np.intp).reshape(-1, 2)


def _compared(thumbnails: Thumbnails) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Rows (i, j, orientation) of images that look alike, and the correlation of each."""
    fine = features(thumbnails)
    rows = _candidates(fine)
    return rows, _correlation(fine, rows)


def groups(
    manifest: Manifest, thumbnails: Thumbnails, copies: Sequence[TwinPair] | None = None, *, alike: bool = True
) -> list[str]:
    """Joins patients, twins and images that look alike: cases of one group are kept on one side of a split.

    To be on the safe side this joins more than ``pairs``: where patients are not known, images that look alike may be
    neighbouring slices of one. Cases of two known patients are joined only from a higher correlation.

    Args:
        manifest: The cases, with ``patient_id`` where known.
        thumbnails: (n, 64, 64), one a case in the same order.
        copies: What ``pairs`` found among them, given their patients; None looks for them.
        alike: Whether images that merely look alike are joined. A split that is drawn keeps them together; a split that the
            data states is refused for patients and twins alone.

    Returns:
        One group name a case: the name of the first case of its group.

    Raises:
        UsageError: If there are more or fewer thumbnails than cases.
    """
    cases = manifest.cases
    _check_count(len(cases), len(thumbnails))
    patients = [case.patient_id for case in cases]
    links = np.array(_links(patients), np.intp).reshape(-1, 2)
    ends = [_ends(pairs(thumbnails, patients) if copies is None else copies), links]
    if alike:
        ends.append(_look_alikes(thumbnails, patients))
    joined = united(len(cases), np.concatenate(ends))
    first: dict[int, str] = {}
    return [first.setdefault(number, case.name) for number, case in zip(joined, cases, strict=True)]


def _look_alikes(thumbnails: Thumbnails, patients: Sequence[str | None]) -> NDArray[np.intp]:
    """Rows (i, j) of images that look alike; of two known patients only those that look much alike."""
    rows, value = _compared(thumbnails)
    needed = np.where(_across(patients, rows[:, 0], rows[:, 1]), CONFIRMED_ACROSS_PATIENTS, CONFIRMED)
    return rows[value >= needed, :2]


def _check_count(cases: int, thumbnails: int) -> None:
    if cases != thumbnails:
        raise UsageError(
            f"{thumbnails} thumbnails were given for {cases} cases",
            "Each case has one thumbnail",
            "Make a manifest of the cases that could be read",
        )


def _across(patients: Sequence[str | None], first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which pairs show two known patients."""
    numbers = {patient: number for number, patient in enumerate(sorted({p for p in patients if p is not None}))}
    number = np.array([-1 if patient is None else numbers[patient] for patient in patients], np.intp)
    one, other = number[first], number[second]
    return np.asarray((one >= 0) & (other >= 0) & (one != other))


def _links(keys: Sequence[object]) -> list[tuple[int, int]]:
    """Links each item to the first one with the same key; None links nothing."""
    first: dict[object, int] = {}
    return [(first.setdefault(key, i), i) for i, key in enumerate(keys) if key is not None]


def united(count: int, pairs: NDArray[np.intp]) -> list[int]:
    """Returns the group of each of some items that pairs join, directly or through others.

    Args:
        count: Number of items.
        pairs: (n, 2) rows of the items of each pair.

    Returns:
        Numbers from 0 in the order of first appearance.
    """
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, names = connected_components(graph, directed=False)
    order: dict[int, int] = {}
    return [order.setdefault(int(name), len(order)) for name in names]


def _candidates(fine: Features) -> NDArray[np.intp]:
    """Rows (i, j, orientation) of pairs that come near at 32×32, i < j; many images are compared by an index."""
    small = coarse(fine)
    plain, found = unit(small), [np.zeros((0, 3), np.intp)]
    near = _near_by_index(plain) if len(fine) > MANY and hamming_index.available() else _near(plain)
    for orientation in range(ORIENTATIONS):
        for i, j in near(unit(oriented(small, orientation))):
            later = i < j
            found.append(np.stack([i[later], j[later], np.full_like(i[later], orientation)], axis=1))
    return np.concatenate(found)


def _near(rows: Features) -> Callable[[Features], Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]]:
    """Finds the rows that come near by comparing all to all."""

    def near(others: Features) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        for start in range(0, len(rows), CHUNK):
            i, j = np.nonzero(rows[start : start + CHUNK] @ others[start:].T > CANDIDATE)
            yield i + start, j + start

    return near


def _near_by_index(rows: Features) -> Callable[[Features], Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]]:
    """The same by an index of their signs, which misses some of those that shifts alone make alike."""
    index = hamming_index.Index(hamming_index.codes(rows))

    def near(others: Features) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        for j, i, _ in index.near(hamming_index.codes(others), int(np.arccos(SURELY) / np.pi * hamming_index.BITS)):
            yield i, j

    return near


def _correlation(fine: Features, pairs: NDArray[np.intp]) -> NDArray[np.float32]:
    """The best correlation of each pair over small shifts, second image turned as the pair says."""
    best = np.zeros(len(pairs), np.float32)
    for orientation in range(ORIENTATIONS):
        mine = np.flatnonzero(pairs[:, 2] == orientation)
        for start in range(0, len(mine), CHUNK):
            rows = mine[start : start + CHUNK]
            first = unit(fine[pairs[rows, 0]])
            second = unit(oriented(fine[pairs[rows, 1]], orientation)).reshape(-1, SIDE, SIDE)
            for shift in SHIFTS:
                moved = np.roll(second, shift, axis=(1, 2)).reshape(len(rows), -1)
                best[rows] = np.maximum(best[rows], np.einsum("ij,ij->i", first, moved))
    return best
