"""Fingerprints: 128 bytes an image that tell whether a new image is a near copy of it, without keeping the image.

A fingerprint is the sign of 1,024 projections of the head's local contrast at 32×32 onto the rows of a fixed rotation
(SimHash: Charikar, "Similarity estimation techniques from rounding algorithms", STOC 2002, section 3), the same on every
machine.

What a fingerprint gives away: turned back through the rotation, it is a noisy picture of 32×32 local contrasts, correlated
0.8 with the true ones, without grey values, skull and outline. That is enough to compare with a picture one has.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from reslink.datasets.near_duplicates.features import CHUNK, COARSE, Features, coarse, half, oriented, spectra, structure, unit
from reslink.datasets.near_duplicates.hamming_index import BITS, BYTES, codes, rotation
from reslink.datasets.near_duplicates.search import TURNS, ZOOMS, Matches, aligned, zoomed_by
from reslink.datasets.near_duplicates.thumbnails import SIDE, Thumbnails
from reslink.errors import UsageError

LINKED: Final = 0.9
"""Estimated correlation from which a new image is a twin of a fingerprinted one. No pair of 638 slices of glioma patients and
2,161 slices of others reaches it."""

LIKELY: Final = 0.38
"""Correlation of spectra from which a pair is aligned."""

SEEN: Final = 0.5
"""Power, as a part of what noise and contrast together would have if spread evenly, above which there is contrast."""

NOISE: Final = 1 - 2 / np.pi
"""Share of a picture turned back from signs that is noise, spread evenly."""

SMOOTHED: Final = (0.75**2 + 0.25**2) ** 2
"""Power of noise after linear interpolation between pixels."""

Fingerprints = NDArray[np.uint8]


def fingerprint(thumbnails: Thumbnails) -> Fingerprints:
    """Makes the fingerprints of images.

    Args:
        thumbnails: (n, 64, 64) uint8 from ``twins.thumbnail``.

    Returns:
        (n, 128) uint8; all 0 for an image in which nothing is seen, which is nobody's twin.

    Raises:
        UsageError: If the thumbnails have another shape or type.
    """
    rows = unit(coarse(structure(thumbnails)))
    return codes(rows)


def links(fingerprints: Fingerprints, thumbnails: Thumbnails, threshold: float = LINKED) -> list[tuple[int, int, float]]:
    """Finds the fingerprinted images that new images are twins of, in any of the 8 orientations, shifted or cropped.

    The new image is known as it is, the old one by its signs only, so the correlation is estimated from the contrasts of
    the one and the signs of the other (asymmetric estimate: Dong, Charikar and Li, SIGIR 2008). Its standard error is
    about 0.01 for twins.

    Args:
        fingerprints: (n, 128) uint8 from ``fingerprint``.
        thumbnails: (m, 64, 64) uint8 of the new images.
        threshold: Estimated correlation from which two images are twins.

    Returns:
        (new image, fingerprinted image, estimated correlation), in the order of the new images.

    Raises:
        UsageError: If fingerprints or thumbnails have another shape or type.
    """
    _check(fingerprints)
    queries = enlarged(coarse(structure(thumbnails)))
    zooms = [*ZOOMS, *(1 / zoom for zoom in ZOOMS[1:])]
    looks = {zoom: spectra(queries, zoom) for zoom in zooms}
    found: list[tuple[int, int, float]] = []
    for start in range(0, len(fingerprints), CHUNK):
        pictures, shares = _pictures(fingerprints[start : start + CHUNK])
        likely = _likely(looks, spectra(pictures))
        best = Matches.joined([Matches.none(), *(aligned(queries, pictures, part) for part in likely.batches())]).best()
        value = np.minimum(best.structure / shares[best.second], 1)
        rows = zip(best.first.tolist(), (best.second + start).tolist(), value.tolist(), strict=True)
        found += [row for row in rows if row[2] >= threshold]
    return sorted(found)


def _likely(looks: dict[float, Features], old: Features) -> Matches:
    """The pairs (new image, old image) whose spectra are alike."""
    rows, found = half(old), [Matches.none()]
    for zoom, look in looks.items():
        for turn in TURNS:
            alike = half(oriented(look, turn)) @ rows.T
            i, j = np.nonzero(alike >= LIKELY)
            pose = zoomed_by(np.full(len(i), np.log(zoom)))
            found.append(Matches(i, j, np.full_like(i, turn), pose, alike[i, j]))
    return Matches.joined(found).best(per_orientation=True)


def _pictures(fingerprints: Fingerprints) -> tuple[Features, NDArray[np.float32]]:
    """Turns fingerprints back through the rotation.

    Returns:
        (n, 64, 64) noisy local contrasts, 0 where there is none, and (n,) how much lower than the true correlation that
        with the noisy contrasts is.
    """
    signs = np.unpackbits(fingerprints, axis=1).astype(np.float32) * 2 - 1
    signs[~fingerprints.any(axis=1)] = 0
    small = (signs @ rotation() / np.float32(np.sqrt(BITS))).reshape(-1, COARSE, COARSE)
    power = small * small
    small = small * (ndimage.uniform_filter(power, (0, 5, 5)) > SEEN / BITS)
    planes = enlarged(small)
    noise = SMOOTHED * NOISE / BITS * (planes != 0).sum(axis=(1, 2)) / np.maximum((planes * planes).sum(axis=(1, 2)), 1e-6)
    return planes, np.sqrt(np.maximum(1 - noise, 0.1)).astype(np.float32)


def enlarged(planes: Features) -> Features:
    """Returns (n, 32, 32) planes as (n, 64, 64), by linear interpolation."""
    positions = (np.arange(SIDE, dtype=np.float32) + np.float32(0.5)) * np.float32(COARSE / SIDE) - np.float32(0.5)
    weights = np.maximum(1 - np.abs(positions[:, None] - np.arange(COARSE, dtype=np.float32)), np.float32(0))
    return np.asarray(weights @ planes @ weights.T, np.float32)


def _check(fingerprints: Fingerprints) -> None:
    if fingerprints.ndim != 2 or fingerprints.shape[1] != BYTES or fingerprints.dtype != np.uint8:
        raise UsageError(
            f"Fingerprints of the shape {fingerprints.shape} and the type {fingerprints.dtype} were given",
            f"Fingerprints are (n, {BYTES}) uint8",
            "Make them with reslink.datasets.near_duplicates.fingerprints.fingerprint",
        )
