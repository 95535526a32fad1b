"""Image features for the file quality checks: size, shape of the head, gray levels, air and brain in HU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from reslink.audit.features.content import FileContent
from reslink.audit.features.quantiles import sorted_quantiles
from reslink.imaging.head_mask import head_mask, valid_pixels
from reslink.imaging.image import Image
from reslink.imaging.limits import silence_warnings
from reslink.imaging.morphology import dilate_cross

THUMBNAIL: Final = 24
"""Side of the small picture of the head that shows its orientation."""

WHITE: Final = 0.95
"""Gray value above which a pixel of the head is white, 0 to 1."""

Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]


@dataclass(frozen=True)
class ImageFeatures:
    """Features of one slice, small enough to keep those of a whole data set in memory.

    Attributes:
        shape: (H, W) in pixels.
        unit: ``HU``, ``MR`` or ``gray``.
        modality: ``CT`` or ``MR`` if the file states it, else ''.
        plane: ``axial``, ``coronal`` or ``sagittal`` if a DICOM file states it, else ''.
        contrast: Range of the gray values between the 0.5th and 99.5th percentile: as a share of the bit depth for pictures,
            in HU for HU, relative to the largest value for MR.
        head: (height, width) of the head in pixels, (0, 0) if none was found.
        head_share: Share of the image that is head.
        roundness: Overlap (intersection over union) of the head with the ellipse of the same second moments, 0 to 1.
        background: Share of the pixels outside the head that are in the darkest tenth.
        roughness: Share of the variance inside the head that is between neighboring pixels; near 1 for noise.
        white: Share of the head that is as bright as its brightest parts: high in CT, whose skull is white in a brain window.
        level: Median gray value of the head without its white parts, 0 to 1.
        air: Median HU outside the head; None if the unit is not HU or nothing is outside.
        brain: Median HU of the head between −200 and 200 HU; None if the unit is not HU.
        dense: Share of the pixels above 900 HU; 0 if the unit is not HU.
        thumbnail: (24, 24) picture of the head, 0 to 255, centerd, aspect kept.
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


def image_features(image: Image, source: str | Path | FileContent | None = None) -> ImageFeatures:
    """Returns the features of one slice.

    Args:
        image: (H, W), any unit; not changed.
        source: The file or its content, used to read the plane of a DICOM file; None leaves the plane empty.

    Returns:
        The features; those that need a head are 0 if none was found.
    """
    head, valid = head_mask(image), valid_pixels(image)
    ordered, in_head = np.sort(image.pixels[valid]), np.sort(image.pixels[head])
    low, high = _gray_range(image, ordered, in_head)
    pixels = image.pixels if ordered.size == valid.size else np.where(valid, image.pixels, low)
    gray, gray_in_head = _to_gray(pixels, low, high), _to_gray(in_head, low, high)
    gray_in_head = gray_in_head[::-1] if high < low else gray_in_head
    not_white = int(np.searchsorted(gray_in_head, WHITE, side="right"))
    outside = valid & ~dilate_cross(head, 3)
    is_hu = image.unit == "HU"
    box = _bounding_box(head)
    return ImageFeatures(
        shape=(image.pixels.shape[0], image.pixels.shape[1]),
        unit=image.unit,
        modality=image.modality or "",
        plane="" if source is None else plane_of_file(source),
        contrast=_contrast(image, ordered),
        head=(box[0].stop - box[0].start, box[1].stop - box[1].start),
        head_share=_share(head),
        roundness=_roundness(head, box) if in_head.size else 0.0,
        background=_share(gray[outside] < 0.1) if outside.any() else 1.0,
        roughness=_roughness(gray[box], head[box], float(gray_in_head.var())) if in_head.size else 0.0,
        white=1 - not_white / in_head.size if in_head.size else 0.0,
        level=_sorted_median(gray_in_head[:not_white]) or 0.0,
        air=_sorted_median(np.sort(image.pixels[outside])) if is_hu else None,
        brain=_sorted_median(in_head[np.abs(in_head) < 200]) if is_hu else None,
        dense=float((ordered > 900).mean()) if is_hu and ordered.size else 0.0,
        thumbnail=_thumbnail(gray[box], head[box]),
    )


def plane_of_file(source: str | Path | FileContent) -> str:
    """Returns the anatomical plane that a DICOM file states (PS3.3 C.7.6.2.1.1), '' if there is none."""
    try:
        content = source if isinstance(source, FileContent) else FileContent.read(source)
        if content.format != "DICOM":
            return ""
        with silence_warnings():
            cosines = np.asarray(content.dataset.get("ImageOrientationPatient"), np.float64)
        normal = np.abs(np.cross(cosines[:3], cosines[3:]))
    except Exception:  # noqa: BLE001 - the libraries raise many kinds of errors for a broken file
        return ""
    return ("sagittal", "coronal", "axial")[int(normal.argmax())]


def _gray_range(image: Image, ordered: Plane, in_head: Plane) -> tuple[float, float]:
    """Returns black and white: the brain window for HU, else the lowest value and the 99.5th percentile of the head.

    Args:
        image: The slice.
        ordered: The sorted valid pixels, (n,).
        in_head: The sorted pixels of the head, (m,).
    """
    low, high = 0.0, 80.0
    if (image.unit != "HU" and ordered.size) or image.inverted:
        low = float(ordered[-1 if image.inverted else 0])
        [high] = sorted_quantiles(in_head if in_head.size else ordered, (0.005 if image.inverted else 0.995,))
    return low, high if abs(high - low) > 1e-6 else low + 1


def _to_gray(values: Plane, low: float, high: float) -> Plane:
    """Scales values to 0 (low) to 1 (high)."""
    return np.asarray(np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1), np.float32)


def _contrast(image: Image, ordered: Plane) -> float:
    if not ordered.size:
        return 0.0
    low, high = map(float, sorted_quantiles(ordered, (0.005, 0.995)))
    largest = max(abs(float(ordered[0])), abs(float(ordered[-1])))
    full_range = {"HU": 1.0, "gray": image.white or 255.0}.get(image.unit, largest or 1.0)
    return (high - low) / full_range


def _bounding_box(mask: Mask) -> tuple[slice, slice]:
    """Returns the rows and columns of the bounding box, empty for an empty mask."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    return slice(top, top + height), slice(left, left + width)


def _share(mask: Mask) -> float:
    return np.count_nonzero(mask) / mask.size


def _sorted_median(ordered: Plane) -> float | None:
    return float(sorted_quantiles(ordered, (0.5,))[0]) if ordered.size else None


def _roundness(head: Mask, box: tuple[slice, slice]) -> float:
    """Returns the overlap of the head, (H, W) with a bounding box, with the ellipse of the same center and second moments."""
    inside = np.ascontiguousarray(head[box])
    moments = cv2.moments(inside.view(np.uint8), binaryImage=True)
    area = moments["m00"]
    yy, xy, xx = (moments[name] / max(area - 1, 1) for name in ("mu02", "mu11", "mu20"))
    (a, b), (_, c) = np.linalg.inv(np.array([[yy, xy], [xy, xx]]) + np.eye(2) / 12)
    rows, columns = box
    y = np.arange(head.shape[0], dtype=np.float64) - (rows.start + moments["m01"] / area)
    square = (b * y) ** 2 - c * (a * y**2 - 4)  # the row y of a·y² + 2b·y·x + c·x² ≤ 4 reaches from -(b·y ± √square) / c
    reach, middle = np.sqrt(np.maximum(square, 0)) / c, columns.start + moments["m10"] / area - b * y / c
    first, last = np.ceil(np.maximum(middle - reach, 0)), np.floor(np.minimum(middle + reach, head.shape[1] - 1))
    last = np.where(square >= 0, last, -1)
    ellipse_area = int(np.maximum(last - first + 1, 0).sum())
    x = np.arange(columns.start, columns.stop)
    both = np.count_nonzero(inside & (x >= first[rows, None]) & (x <= last[rows, None]))
    return both / (area + ellipse_area - both)


def _roughness(gray: Plane, head: Mask, variance: float) -> float:
    """Returns the variance between neighbors over twice the variance: 1 for white noise, near 0 for a smooth picture."""
    both_inside = head[:, 1:] & head[:, :-1]
    if not variance > 0 or not both_inside.any():
        return 0.0
    steps = np.diff(gray, axis=1)[both_inside]
    return float(np.square(steps).mean() / (2 * variance))


def _thumbnail(gray: Plane, head: Mask) -> NDArray[np.uint8]:
    """Returns the head, cropped to its bounding box, centered in a square."""
    height, width = head.shape
    if not height:
        return np.zeros((THUMBNAIL, THUMBNAIL), np.uint8)
    side = max(height, width)
    square = np.zeros((side, side), np.uint8)
    y, x = (side - height) // 2, (side - width) // 2
    square[y : y + height, x : x + width] = np.rint(np.float32(255) * gray) * head
    return np.asarray(Picture.fromarray(square).resize((THUMBNAIL, THUMBNAIL), Picture.Resampling.BOX))
