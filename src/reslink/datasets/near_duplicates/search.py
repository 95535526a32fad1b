"""From all pairs to the few that are twins: by spectra, which a shift does not change, then by alignment.

The magnitudes of a Fourier transform as a key that is free of shift: Reddy and Chatterji, "An FFT-based technique for
translation, rotation, and scale-invariant image registration", IEEE Trans. Image Processing 1996. Zooms are tried one by
one, since a crop magnifies a head by no more than a quarter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reslink.datasets.near_duplicates import hamming_index
from reslink.datasets.near_duplicates.alignment import Pose, refined, shifted
from reslink.datasets.near_duplicates.features import CHUNK, ORIENTATIONS, Features, half, oriented, spectra, structure, texture
from reslink.datasets.near_duplicates.thumbnails import Thumbnails

ZOOMS: Final = (1.0, 1.04, 1.08, 1.12, 1.16, 1.2, 1.25)
"""A crop of 10 % at each side magnifies the head by 1.25; between two steps the spectra of a head stay alike."""

TURNS: Final = (0, 1, 4, 5)
"""Orientations of a spectrum; turned by 180° it is the same."""

LIKELY: Final = 0.45
"""Correlation of spectra from which a pair is aligned."""

NEAR: Final = 0.35
"""Correlation of structure after shifting, over the whole thumbnails, from which the alignment is refined."""

SURELY: Final = 0.79
"""The same where an index is used: hashes miss what is less alike, such as copies that a crop cuts deep into."""

MANY: Final = 20_000
"""Images from which on an index is used, if faiss is installed."""

POSSIBLE: Final = 0.6
"""Correlation of structure after two steps of alignment, from which it goes on."""

BATCH: Final = 64

Numbers = NDArray[np.intp]
Values = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Matches:
    """Pairs of images, one row a pair.

    Attributes:
        first: (k,) row of the one thumbnail.
        second: (k,) row of the other, larger than ``first``.
        orientation: (k,) how the second is turned and mirrored to match the first, 0 to 7.
        pose: (k, 3) zoom and shift of the second: the logarithm of its step that matches one pixel in the first, and pixels.
        structure: (k,) correlation of sulci and ventricles: of the spectra before, of the planes after alignment.
    """

    first: Numbers
    second: Numbers
    orientation: Numbers
    pose: Pose
    structure: Values

    @classmethod
    def none(cls) -> Matches:
        """Returns a table without rows."""
        numbers, values = np.zeros(0, np.intp), np.zeros(0, np.float32)
        return cls(numbers, numbers, numbers, np.zeros((0, 3), np.float32), values)

    def __len__(self) -> int:
        return len(self.first)

    def at(self, rows: Numbers | slice | NDArray[np.bool_]) -> Matches:
        """Returns some of the rows."""
        return Matches(*(getattr(self, field.name)[rows] for field in fields(self)))

    def batches(self) -> Iterator[Matches]:
        """Yields the rows in parts whose planes stay in the cache of the processor."""
        return (self.at(slice(start, start + BATCH)) for start in range(0, len(self), BATCH))

    @classmethod
    def joined(cls, parts: list[Matches]) -> Matches:
        """Puts tables one below another."""
        whole = [np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)]
        return cls(*whole)

    def best(self, per_orientation: bool = False) -> Matches:
        """Keeps one row a pair (a pair and orientation), the one with the highest correlation, in the order of the pairs."""
        order = np.argsort(-self.structure, kind="stable")
        keys = (self.first[order], self.second[order], self.orientation[order] if per_orientation else 0 * self.first)
        _, chosen = np.unique(np.stack(keys), axis=1, return_index=True)
        return self.at(order[chosen])


def matches(thumbnails: Thumbnails) -> tuple[Matches, Values]:
    """Finds the pairs that may be twins and lays the second on the first.

    Args:
        thumbnails: (n, 64, 64) uint8 from ``thumbnails.thumbnail``.

    Returns:
        Each pair once, in the pose in which its structure correlates best, and the correlation of its texture there.

    Raises:
        UsageError: If the thumbnails have another shape or type.
    """
    fine = texture(thumbnails)
    likely = candidates(fine)
    planes = structure(thumbnails)
    found = Matches.joined([Matches.none(), *(aligned(planes, planes, part) for part in likely.batches())]).best()
    values = [np.zeros(0, np.float32), *(_textures(fine, part) for part in found.batches())]
    return found, np.concatenate(values)


def candidates(textures: Features) -> Matches:
    """Finds the pairs whose spectra are alike.

    Args:
        textures: (n, 64, 64) from ``texture``.

    Returns:
        One row a pair and turn (0, 1, 4 or 5), with the zoom at which the spectra are most alike. All pairs are compared
        up to 20,000 images and where faiss is not installed; beyond, by an index.
    """
    plain = spectra(textures)
    compare = _indexed if len(plain) > MANY and hamming_index.available() else _compared
    rows, found = compare(half(plain)), [Matches.none()]
    for zoom in ZOOMS:
        zoomed = plain if zoom == 1 else spectra(textures, zoom)
        for turn in TURNS:
            found += [_rows(*part, turn, zoom) for part in rows(half(oriented(zoomed, turn)))]
    return Matches.joined(found).best(per_orientation=True)


def aligned(first: Features, second: Features, pairs: Matches) -> Matches:
    """Lays the second image of each pair on the first; pairs that stay unlike are left out.

    Args:
        first: (n, 64, 64) from ``structure``.
        second: (m, 64, 64) likewise; may be the same.
        pairs: Rows with turn and zoom, from a comparison of spectra.

    Returns:
        The rows with orientation, zoom, and the correlation of their structure.
    """
    fixed, moving = first[pairs.first], second[pairs.second]
    ways = [pairs.orientation, pairs.orientation ^ 2]  # the spectra do not tell a turn of 180°
    (pose, near), (other, nearer) = (shifted(fixed, turned(moving, way), pairs.pose[:, 0]) for way in ways)
    pose[nearer > near], way = other[nearer > near], np.where(nearer > near, ways[1], ways[0])
    worth = np.maximum(near, nearer) >= NEAR
    fixed, moving, pose = fixed[worth], turned(moving[worth], way[worth]), pose[worth]
    pose, value = refined(fixed, moving, pose, 2)
    keep = value >= POSSIBLE
    pose, value = refined(fixed[keep], moving[keep], pose[keep], 5)
    rest = pairs.at(np.flatnonzero(worth)[keep])
    return replace(rest, orientation=way[worth][keep], pose=pose, structure=value)


def _textures(fine: Features, pairs: Matches) -> Values:
    return refined(fine[pairs.first], turned(fine[pairs.second], pairs.orientation), pairs.pose, 4)[1]


def turned(planes: Features, orientations: Numbers) -> Features:
    """Turns each of (n, s, s) planes in its own way."""
    result = np.empty_like(planes)
    for orientation in range(ORIENTATIONS):
        mine = orientations == orientation
        result[mine] = oriented(planes[mine], orientation)
    return result


Part = tuple[Numbers, Numbers, Values]


def _compared(rows: Features) -> Callable[[Features], Iterator[Part]]:
    """Finds the rows that are alike by comparing all to all."""

    def near(others: Features) -> Iterator[Part]:
        for start in range(0, len(rows), CHUNK):
            alike = rows[start : start + CHUNK] @ others.T
            i, j = np.nonzero(alike > LIKELY)
            yield i + start, j, alike[i, j]

    return near


def _indexed(rows: Features) -> Callable[[Features], Iterator[Part]]:
    """Finds the rows that are much alike by an index of their signs."""
    index = hamming_index.Index(hamming_index.codes(rows))

    def near(others: Features) -> Iterator[Part]:
        for j, i, bits in index.near(hamming_index.codes(others), int(np.arccos(SURELY) / np.pi * hamming_index.BITS)):
            yield i, j, np.cos(np.pi * bits / hamming_index.BITS).astype(np.float32)

    return near


def _rows(i: Numbers, j: Numbers, value: Values, turn: int, zoom: float) -> Matches:
    """Rows of ``Matches`` from rows of spectra, the second of which is turned and zoomed; each pair once at zoom 1."""
    keep = i < j if zoom == 1 else i != j
    i, j, value = i[keep], j[keep], value[keep]
    pose = zoomed_by(np.where(i < j, -np.log(zoom), np.log(zoom)))
    return Matches(np.minimum(i, j), np.maximum(i, j), np.full_like(i, turn), pose, value)


def zoomed_by(steps: NDArray[np.floating]) -> Pose:
    """Returns the poses with some logarithms of the zoom and no shift."""
    pose = np.zeros((len(steps), 3), np.float32)
    pose[:, 0] = steps
    return pose
