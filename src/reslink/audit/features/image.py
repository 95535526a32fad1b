"""What one image says about itself beside its diagnosis: size, the head's shape, grey levels, air and brain in HU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy import ndimage

from reslink.imaging.decode import HEAD_BYTES, kind_of
from reslink.imaging.head_mask import head_mask, measured
from reslink.imaging.image import Image
from reslink.imaging.limits import quiet, read_regular

THUMBNAIL: Final = 24
"""Side of the small picture of the head from which its orientation is told."""

Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Facts:
    """Facts of one slice; small, so that those of a whole data set fit in memory.

    Attributes:
        shape: (H, W) in pixels.
        unit: ``HU``, ``MR`` or ``grey``.
        modality: ``CT`` or ``MR`` where the file says so, else ''.
        plane: ``axial``, ``coronal`` or ``sagittal`` where a DICOM file says so, else ''.
        contrast: Spread of the grey values between the 0.5th and 99.5th percentile, as a part of what the bit depth can hold;
            in HU for HU; for MR relative to the largest value.
        head: (height, width) of the head in pixels, (0, 0) where none was found.
        head_share: Part of the image that is head.
        roundness: Overlap (intersection over union) of the head with the ellipse of the same second moments, 0 to 1.
        background: Part of the pixels outside the head that are in the darkest tenth.
        roughness: Share of the head's grey variance that differs between neighbouring pixels; near 1 for noise.
        white: Share of the head that is as bright as its brightest parts: high in CT, whose skull is white in a brain window.
        level: Median grey of the head without what is white, 0 to 1.
        air: Median HU outside the head, None where it is not HU or nothing is outside.
        brain: Median HU of the head between −200 and 200 HU, None where it is not HU.
        dense: Share of the pixels above 900 HU, 0 where it is not HU.
        thumbnail: (24, 24) picture of the head, 0 to 255, centred, aspect kept.
    """

    shape: tuple[int, int]
    unit: str
    modality: str
    plane: str
    contrast: float
    head: tuple[int, int]
    head_share: float
    roundness: float
    background: float
    roughness: float
    white: float
    level: float
    air: float | None
    brain: float | None
    dense: float
    thumbnail: NDArray[np.uint8]


def facts(image: Image, path: str | Path | None = None) -> Facts:
    """Measures one slice.

    Args:
        image: (H, W), any unit; not changed.
        path: Its file, from which a DICOM file's plane is read; None to go without.

    Returns:
        The facts; what needs a head is 0 where none was found.
    """
    head, valid = head_mask(image), measured(image)
    grey = _grey(image, valid, head)
    found = bool(head.any())
    outside = valid & ~ndimage.binary_dilation(head, iterations=3)
    bright = grey > 0.95
    plain = head & ~bright
    hu = image.unit == "HU"
    soft = head & (np.abs(image.pixels) < 200)
    return Facts(
        shape=(image.pixels.shape[0], image.pixels.shape[1]),
        unit=image.unit,
        modality=image.modality or "",
        plane="" if path is None else plane_of_file(path),
        contrast=_contrast(image, valid),
        head=_extent(head),
        head_share=float(head.mean()),
        roundness=_roundness(head) if found else 0.0,
        background=_share(grey[outside] < 0.1, empty=1.0),
        roughness=_roughness(grey, head) if found else 0.0,
        white=_share(bright[head]),
        level=_median(grey[plain]) or 0.0,
        air=_median(image.pixels[outside]) if hu else None,
        brain=_median(image.pixels[soft]) if hu else None,
        dense=_share(image.pixels[valid] > 900) if hu else 0.0,
        thumbnail=_thumbnail(grey, head),
    )


def plane_of_file(path: str | Path) -> str:
    """Returns the anatomical plane that a DICOM file claims (PS3.3 C.7.6.2.1.1), '' where there is none."""
    from reslink.imaging.dicom.read import parse

    try:
        data = read_regular(path)
        if kind_of(data[:HEAD_BYTES]) != "DICOM":
            return ""
        with quiet():
            cosines = np.asarray(parse(data, "the file").get("ImageOrientationPatient"), np.float64)
        normal = np.abs(np.cross(cosines[:3], cosines[3:]))
    except Exception:  # noqa: BLE001 - the libraries below raise dozens of kinds of error for a broken file
        return ""
    return ("sagittal", "coronal", "axial")[int(normal.argmax())]


def _grey(image: Image, valid: Mask, head: Mask) -> Plane:
    """0 to 1: HU in the brain window, else from the lowest value to the head's 99.5th percentile."""
    low, high = 0.0, 80.0
    if image.unit != "HU" and valid.any():
        low = float(image.pixels[valid].min())
        high = float(np.percentile(image.pixels[head if head.any() else valid], 99.5))
    if image.inverted:
        low, high = float(image.pixels[valid].max()), float(np.percentile(image.pixels[head if head.any() else valid], 0.5))
    span = high - low if abs(high - low) > 1e-6 else 1.0
    return np.clip((np.where(valid, image.pixels, low) - low) / span, 0, 1).astype(np.float32)


def _contrast(image: Image, valid: Mask) -> float:
    values = image.pixels[valid]
    if not values.size:
        return 0.0
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    whole = {"HU": 1.0, "grey": image.white or 255.0}.get(image.unit, float(np.abs(values).max()) or 1.0)
    return (high - low) / whole


def _extent(mask: Mask) -> tuple[int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1) if rows.size else (0, 0)


def _share(flags: Mask, empty: float = 0.0) -> float:
    return float(flags.mean()) if flags.size else empty


def _median(values: NDArray[np.floating]) -> float | None:
    return float(np.median(values)) if values.size else None


def _roundness(head: Mask) -> float:
    """Overlap with the ellipse of the same centre and second moments."""
    y, x = (axis.astype(np.float64) for axis in np.nonzero(head))
    spread = np.cov(y, x) + np.eye(2) / 12
    rows, columns = np.indices(head.shape)
    grid = np.stack([rows - y.mean(), columns - x.mean()], axis=-1)
    ellipse = np.einsum("...i,ij,...j->...", grid, np.linalg.inv(spread), grid) <= 4
    return float((head & ellipse).sum() / (head | ellipse).sum())


def _roughness(grey: Plane, head: Mask) -> float:
    """Variance between neighbours over twice the variance: 1 for white noise, near 0 for a smooth picture."""
    both = head[:, 1:] & head[:, :-1]
    variance = float(grey[head].var())
    return float(np.square(np.diff(grey, axis=1)[both]).mean() / (2 * variance)) if variance > 0 and both.any() else 0.0


def _thumbnail(grey: Plane, head: Mask) -> NDArray[np.uint8]:
    """The head alone, in the middle of a square."""
    if not head.any():
        return np.zeros((THUMBNAIL, THUMBNAIL), np.uint8)
    (top, left), (height, width) = (int(np.flatnonzero(head.any(axis=a))[0]) for a in (1, 0)), _extent(head)
    side = max(height, width)
    square = np.zeros((side, side), np.uint8)
    y, x = (side - height) // 2, (side - width) // 2
    shown = np.where(head, grey, 0)[top : top + height, left : left + width]
    square[y : y + height, x : x + width] = np.rint(255 * shown)
    return np.asarray(Picture.fromarray(square).resize((THUMBNAIL, THUMBNAIL), Picture.Resampling.BOX))
