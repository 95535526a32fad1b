"""Near copies: the same slice again, mirrored, rotated, re-encoded, resized, brighter or darker.

Candidates do not come from ImageHash: of 250 pairs in the head CT set that correlate above 0.85, its 64-bit pHash brings
93 % within 10 bits, together with 1.2 % of all other pairs, and an image would need eight hashes. Correlating all pairs
of 3,693 images in all orientations takes 3 s of CPU time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from reslink.errors import UsageError
from reslink.imaging.image import Image
from reslink.imaging.preprocess import Preprocess

if TYPE_CHECKING:
    from reslink.datasets.manifest import Manifest

SIDE: Final = 64
COARSE: Final = 32
ORIENTATIONS: Final = 8
CANDIDATE: Final = 0.65
CONFIRMED: Final = 0.8
"""On the head CT set nearly all pairs above it are copies; below 0.78 other heads begin to mix in."""

CONFIRMED_ACROSS_PATIENTS: Final = 0.85
"""Between two known patients: in 88 glioma patients 49 pairs of other people's slices reach 0.8, none this."""

SHIFTS: Final = tuple((y, x) for y in (-2, -1, 0, 1, 2) for x in (-2, -1, 0, 1, 2))
CHUNK: Final = 512

Thumbnails = NDArray[np.uint8]
Features = NDArray[np.float32]

_THUMBNAIL: Final = Preprocess(size=SIDE, channels=1, window="brain", isolate_head=True)


def thumbnail(image: Image) -> Thumbnails:
    """Returns the (64, 64) uint8 thumbnail of the isolated head that ``twin_groups`` compares."""
    return np.asarray(_THUMBNAIL.pixels(image)[0])


def twin_groups(thumbnails: Thumbnails, threshold: float = CONFIRMED) -> list[int]:
    """Groups near copies.

    What is compared is local contrast inside the head (value minus local mean, divided by local deviation), since the
    outline of the skull alone makes any two heads alike. All pairs are compared in all 8 orientations at 32×32, one
    matrix product an orientation; those that come near are confirmed at 64×64 with shifts of up to 2 pixels.

    Args:
        thumbnails: (n, 64, 64) uint8 from ``thumbnail``: the isolated head, 0 outside.
        threshold: Correlation from which two images are twins.

    Returns:
        n group numbers from 0 in the order of first appearance; images with the same number are near copies of each
        other, directly or through others.

    Raises:
        UsageError: If the thumbnails have another shape.
    """
    pairs, alike = _compared(thumbnails)
    return _united(len(thumbnails), pairs[alike >= threshold, :2])


def _compared(thumbnails: Thumbnails) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Candidate rows (i, j, orientation) and the correlation of each."""
    if thumbnails.ndim != 3 or thumbnails.shape[1:] != (SIDE, SIDE):
        raise UsageError(
            f"Thumbnails of the shape {thumbnails.shape} were given",
            f"Twins are found on thumbnails of the shape (n, {SIDE}, {SIDE})",
            "Make them with reslink.datasets.twins.thumbnail",
        )
    fine = np.zeros(thumbnails.shape, np.float32)
    for start in range(0, len(fine), CHUNK):
        fine[start : start + CHUNK] = _features(thumbnails[start : start + CHUNK])
    pairs = _candidates(fine)
    return pairs, _correlation(fine, pairs)


def groups(manifest: Manifest, thumbnails: Thumbnails) -> list[str]:
    """Joins patients and twins: cases of one group must not stand on two sides of a split.

    Cases of two known patients count as twins only from a higher correlation, since other people's slices may be alike.

    Args:
        manifest: The cases, with ``patient_id`` where known.
        thumbnails: (n, 64, 64), one a case in the same order.

    Returns:
        One group name a case: the name of the first case of its group.

    Raises:
        UsageError: If there are more or fewer thumbnails than cases.
    """
    cases = manifest.cases
    if len(cases) != len(thumbnails):
        raise UsageError(
            f"{len(thumbnails)} thumbnails were given for {len(cases)} cases",
            "Each case has one thumbnail",
            "Make a manifest of the cases that could be read",
        )
    patients = [case.patient_id for case in cases]
    pairs, alike = _compared(thumbnails)
    across = np.array([_two_people(patients[i], patients[j]) for i, j, _ in pairs], np.bool_)
    needed = np.where(across, CONFIRMED_ACROSS_PATIENTS, CONFIRMED)
    links = np.array(_links(patients), np.intp).reshape(-1, 2)
    joined = _united(len(cases), np.concatenate([pairs[alike >= needed, :2], links]))
    first: dict[int, str] = {}
    return [first.setdefault(number, case.name) for number, case in zip(joined, cases, strict=True)]


def _two_people(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other


def _links(keys: Sequence[object]) -> list[tuple[int, int]]:
    """Links each item to the first one with the same key; None links nothing."""
    first: dict[object, int] = {}
    return [(first.setdefault(key, i), i) for i, key in enumerate(keys) if key is not None]


def _united(count: int, pairs: NDArray[np.intp]) -> list[int]:
    """Connected components, numbered in the order of first appearance."""
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, names = connected_components(graph, directed=False)
    order: dict[int, int] = {}
    return [order.setdefault(int(name), len(order)) for name in names]


def _features(thumbnails: Thumbnails) -> Features:
    """Local contrast inside the head, 0 outside and near its edge."""
    inside = np.stack([ndimage.binary_erosion(ndimage.binary_fill_holes(t > 8), iterations=4) for t in thumbnails])
    weight = inside.astype(np.float32)
    fine = _mean(thumbnails.astype(np.float32), weight, 1.0)
    contrast = (fine - _mean(fine, weight, 4.0)) * weight
    deviation = np.sqrt(_mean(contrast * contrast, weight, 4.0))
    return np.asarray(contrast / (deviation + 2) * weight, np.float32)


def _mean(values: Features, weight: Features, sigma: float) -> Features:
    """Gaussian mean over the pixels with weight."""
    axes = (0.0, sigma, sigma)
    total = ndimage.gaussian_filter(values * weight, axes, truncate=3)
    return np.asarray(total / np.maximum(ndimage.gaussian_filter(weight, axes, truncate=3), 0.05))


def _oriented(planes: Features, orientation: int) -> Features:
    """One of the 8 rotations and mirrorings of (n, s, s) planes."""
    turned = np.rot90(planes, orientation % 4, axes=(1, 2))
    return turned[:, :, ::-1] if orientation >= 4 else turned


def _unit(planes: Features) -> Features:
    flat = planes.reshape(len(planes), planes.shape[1] * planes.shape[2])
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6), np.float32)


def _candidates(fine: Features) -> NDArray[np.intp]:
    """Rows (i, j, orientation) of pairs that come near at 32×32, i < j."""
    coarse = fine.reshape(-1, COARSE, SIDE // COARSE, COARSE, SIDE // COARSE).mean((2, 4))
    plain, found = _unit(coarse), [np.zeros((0, 3), np.intp)]
    for orientation in range(ORIENTATIONS):
        turned = _unit(_oriented(coarse, orientation))
        for start in range(0, len(fine), CHUNK):
            i, j = np.nonzero(plain[start : start + CHUNK] @ turned[start:].T > CANDIDATE)
            later = i < j
            i, j = i[later] + start, j[later] + start
            found.append(np.stack([i, j, np.full_like(i, orientation)], axis=1))
    return np.concatenate(found)


def _correlation(fine: Features, pairs: NDArray[np.intp]) -> NDArray[np.float32]:
    """The best correlation of each pair over small shifts, second image turned as the pair says."""
    best = np.zeros(len(pairs), np.float32)
    for orientation in range(ORIENTATIONS):
        mine = np.flatnonzero(pairs[:, 2] == orientation)
        for start in range(0, len(mine), CHUNK):
            rows = mine[start : start + CHUNK]
            first = _unit(fine[pairs[rows, 0]])
            second = _unit(_oriented(fine[pairs[rows, 1]], orientation)).reshape(-1, SIDE, SIDE)
            for shift in SHIFTS:
                moved = np.roll(second, shift, axis=(1, 2)).reshape(len(rows), -1)
                best[rows] = np.maximum(best[rows], np.einsum("ij,ij->i", first, moved))
    return best
