"""Acquisition features of images, independent of any network: size, resolution, head, orientation, gray values."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import ks_2samp, wasserstein_distance

from reslink.datasets.manifest import Manifest
from reslink.errors import ReslinkError
from reslink.imaging.dicom.geometry import slice_plane
from reslink.imaging.dicom.header import read_elements_until
from reslink.imaging.head_mask import head_mask
from reslink.imaging.image import Image
from reslink.imaging.limits import silence_warnings
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.training.monitoring.progress import Progress, phase

Floats: TypeAlias = NDArray[np.float64]

BINS: Final = 64
_LAST_TAG: Final = 0x00200037  # Image Orientation Patient; Slice Thickness and Image Position precede it
NUMERIC_FEATURES: Final = {
    "side_px": "Longer side, pixels",
    "aspect": "Width over height",
    "pixel_mm": "Pixel spacing, mm",
    "thickness_mm": "Slice thickness, mm",
    "head_share": "Head area over image area",
    "head_mm": "Longer extent of the head, mm",
    "head_aspect": "Head: long axis over short axis",
    "head_tilt": "Head: long axis against the vertical, degrees",
    "gray_mean": "Gray inside the head, mean (0 to 1)",
    "gray_sd": "Gray inside the head, standard deviation",
    "black": "Black share of the head pixels",
    "white": "White share of the head pixels",
    "sharpness": "Sharpness: standard deviation of the Laplacian over that of the gray values",
}
CATEGORICAL_FEATURES: Final = {"modality": "Modality", "plane": "Plane"}


@dataclass(frozen=True)
class Acquisition:
    """Acquisition features of one image; None if the file does not state a value or no head was detected.

    ``gray_mean`` to ``histogram`` describe the network's input, the other features the original image.

    Attributes:
        modality: CT, MR or ``not stated``.
        plane: axial, coronal, sagittal, oblique or ``not stated``.
        side_px: Pixels of the longer side.
        aspect: Width over height.
        pixel_mm: Millimetres between pixel centers, mean of both axes.
        thickness_mm: Slice thickness in millimetres.
        head_share: Head pixels over all pixels.
        head_mm: Longer extent of the head in millimetres.
        head_aspect: Long axis of the head over the short one, from the second moments of its mask.
        head_tilt: Angle of the long axis against the vertical in degrees, 0 to 90.
        gray_mean: Mean inside the head, 0 to 1.
        gray_sd: Standard deviation inside the head.
        black: Share of head pixels below 0.05.
        white: Share of head pixels above 0.95.
        sharpness: Standard deviation of the Laplacian inside the head over ``gray_sd``.
        histogram: (64,) shares of gray values inside the head; sum 1, or all 0 without a head.
    """

    modality: str
    plane: str
    side_px: float
    aspect: float
    pixel_mm: float | None
    thickness_mm: float | None
    head_share: float
    head_mm: float | None
    head_aspect: float | None
    head_tilt: float | None
    gray_mean: float | None
    gray_sd: float | None
    black: float | None
    white: float | None
    sharpness: float | None
    histogram: Floats


def measure_acquisitions(manifest: Manifest, preprocess: Preprocess, progress: Progress) -> list[Acquisition]:
    """Returns the features of each readable image; the others are skipped.

    Args:
        manifest: The cases.
        preprocess: The preprocessing of the network's input.
        progress: Receives the progress.
    """
    acquisitions = []
    with phase(progress, len(manifest), f"Measuring {manifest.root.name}", "image"):
        for case in manifest.cases:
            with contextlib.suppress(ReslinkError):  # the evaluation reports unreadable files
                acquisitions.append(measure_acquisition(case.path, preprocess, case.unit))
            progress.step()
    return acquisitions


def measure_acquisition(path: Path, preprocess: Preprocess, unit: str | None = None) -> Acquisition:
    """Returns the features of one image.

    Raises:
        InputError: If it cannot be read.
    """
    image = read_image(path, unit).slices()[0]
    height, width = image.pixels.shape
    head = head_mask(image)
    pixel = float(np.mean(image.spacing)) if image.spacing else None
    plane, thickness = _from_header(path)
    return Acquisition(
        modality=image.modality or "not stated",
        plane=plane,
        side_px=float(max(height, width)),
        aspect=width / height,
        pixel_mm=pixel,
        thickness_mm=thickness,
        head_share=float(head.mean()),
        **_head_shape(head, pixel),
        **_gray_values(image, preprocess),
    )


def _head_shape(head: NDArray[np.bool_], pixel: float | None) -> dict[str, Any]:
    if not head.any():
        return {"head_mm": None, "head_aspect": None, "head_tilt": None}
    positions = np.argwhere(head).astype(np.float64)
    extent = float((positions.max(axis=0) - positions.min(axis=0)).max() + 1)
    values, vectors = np.linalg.eigh(np.cov(positions.T))
    row, column = vectors[:, -1]
    return {
        "head_mm": None if pixel is None else extent * pixel,
        "head_aspect": float(np.sqrt(values[-1] / max(values[0], 1e-6))),
        "head_tilt": float(np.degrees(np.arctan2(abs(column), abs(row)))),
    }


def _gray_values(image: Image, preprocess: Preprocess) -> dict[str, Any]:
    pixels = preprocess.pixels(image)[0].astype(np.float64) / 255
    inside = pixels[preprocess.resized_head_mask(image)]
    if not inside.size:
        names = ("gray_mean", "gray_sd", "black", "white", "sharpness")
        return {**dict.fromkeys(names), "histogram": np.zeros(BINS)}
    counts, _ = np.histogram(inside, BINS, (0, 1))
    spread = float(inside.std())
    edges = ndimage.laplace(pixels)[preprocess.resized_head_mask(image)]
    return {
        "gray_mean": float(inside.mean()),
        "gray_sd": spread,
        "black": float((inside < 0.05).mean()),
        "white": float((inside > 0.95).mean()),
        "sharpness": float(edges.std()) / spread if spread > 0 else None,
        "histogram": counts / counts.sum(),
    }


def _from_header(path: Path) -> tuple[str, float | None]:
    """Returns plane and slice thickness from a DICOM header (PS3.3 C.7.6.2)."""
    try:
        with silence_warnings():
            dataset = read_elements_until(path, _LAST_TAG)
            if dataset is None:
                return "not stated", None
            plane, stated = slice_plane(dataset), dataset.get("SliceThickness")
            thickness = float(stated) if stated else None
    except Exception:  # noqa: BLE001  (not DICOM, or any of the many errors of an invalid header)
        return "not stated", None
    if plane is None:
        return "not stated", thickness
    normal = np.abs(plane.normal)
    name = ("sagittal", "coronal", "axial")[int(normal.argmax())]
    return (name if normal.max() > np.cos(np.radians(30)) else "oblique"), thickness


def compare_acquisitions(internal: Sequence[Acquisition], external: Sequence[Acquisition]) -> list[dict[str, Any]]:
    """Returns a row for each feature: quartiles or shares of both data sets, and their difference.

    Args:
        internal: Images from the source of the training data; if empty, nothing is compared.
        external: Images of the external data.

    Returns:
        ``feature``, ``title``, ``internal``, ``external`` (texts), ``difference`` (external minus internal in pooled
        standard deviations; for categories half the sum of absolute differences of the shares, 0 to 1; None if a data set
        has no value), ``ks`` (Kolmogorov–Smirnov statistic, 0 to 1) and ``large`` (|difference| of 0.8 or more, for
        categories 0.2: Cohen 1988, section 2.2).
    """
    rows = [_compare_categories(feature, internal, external) for feature in CATEGORICAL_FEATURES]
    return rows + [_compare_numbers(feature, internal, external) for feature in NUMERIC_FEATURES]


def _compare_numbers(feature: str, internal: Sequence[Acquisition], external: Sequence[Acquisition]) -> dict[str, Any]:
    a, b = (_values(feature, images) for images in (internal, external))
    difference, statistic = None, None
    if len(a) > 1 and len(b) > 1:
        spread = float(np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))
        gap = float(b.mean() - a.mean())
        difference = gap / spread if spread > 1e-9 else (0.0 if abs(gap) < 1e-9 else None)
        statistic = float(ks_2samp(a, b).statistic)
    large = (difference is not None and abs(difference) >= 0.8) or (difference is None and statistic == 1.0)
    texts = {"internal": _quartiles(a, len(internal)), "external": _quartiles(b, len(external))}
    names = {"feature": feature, "title": NUMERIC_FEATURES[feature]}
    return {**names, **texts, "difference": difference, "ks": statistic, "large": large}


def _values(feature: str, images: Sequence[Acquisition]) -> Floats:
    return np.array([value for image in images if (value := getattr(image, feature)) is not None], np.float64)


def _quartiles(values: Floats, n: int) -> str:
    if not n:
        return "no images given"
    if not len(values):
        return "not stated"
    low, median, high = np.percentile(values, (25, 50, 75))
    coverage = "" if len(values) == n else f", stated for {len(values)} of {n}"
    return f"{median:.3g} ({low:.3g} to {high:.3g}){coverage}"


def _compare_categories(feature: str, internal: Sequence[Acquisition], external: Sequence[Acquisition]) -> dict[str, Any]:
    a, b = (Counter(getattr(image, feature) for image in images) for images in (internal, external))
    difference = None
    if internal and external:
        difference = sum(abs(a[word] / len(internal) - b[word] / len(external)) for word in a | b) / 2
    large = difference is not None and difference >= 0.2
    texts = {"internal": _shares(a), "external": _shares(b)}
    names = {"feature": feature, "title": CATEGORICAL_FEATURES[feature]}
    return {**names, **texts, "difference": difference, "ks": None, "large": large}


def _shares(counts: Counter[str]) -> str:
    total = counts.total()
    return ", ".join(f"{word} {n / total:.0%}" for word, n in counts.most_common()) if total else "no images given"


def mean_histogram(images: Sequence[Acquisition]) -> Floats:
    """Returns (64,) the mean shares of gray values inside the head; all 0 without images."""
    return np.mean([image.histogram for image in images], axis=0) if images else np.zeros(BINS)


def gray_distance(internal: Sequence[Acquisition], external: Sequence[Acquisition]) -> float | None:
    """Returns the Wasserstein distance of the two gray distributions, 0 to 1; None if one has no head."""
    a, b = mean_histogram(internal), mean_histogram(external)
    if not a.any() or not b.any():
        return None
    centers = (np.arange(BINS) + 0.5) / BINS
    return float(wasserstein_distance(centers, centers, a, b))
