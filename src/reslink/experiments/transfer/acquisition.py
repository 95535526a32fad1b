"""What can differ between two data sets before any network is asked: size, resolution, head, orientation, grey values."""

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
from reslink.imaging.dicom.geometry import plane_of
from reslink.imaging.head_mask import head_mask
from reslink.imaging.image import Image
from reslink.imaging.limits import quiet
from reslink.imaging.preprocess import Preprocess
from reslink.imaging.reading import read_image
from reslink.training.monitoring.progress import Progress

Floats: TypeAlias = NDArray[np.float64]

BINS: Final = 64
NUMBERS: Final = {
    "side_px": "Longer side, pixels",
    "aspect": "Width over height",
    "pixel_mm": "Pixel spacing, mm",
    "thickness_mm": "Slice thickness, mm",
    "head_share": "Share of the image that is head",
    "head_mm": "Longer extent of the head, mm",
    "head_aspect": "Head: long axis over short axis",
    "head_tilt": "Head: long axis against the vertical, degrees",
    "grey_mean": "Grey inside the head, mean (0 to 1)",
    "grey_sd": "Grey inside the head, standard deviation",
    "black": "Head pixels that are black",
    "white": "Head pixels that are white",
    "sharpness": "Sharpness: standard deviation of the Laplacian over that of the grey values",
}
WORDS: Final = {"modality": "Modality", "plane": "Plane"}


@dataclass(frozen=True)
class Acquisition:
    """What is known of one image; None where the file does not say or no head was found.

    ``grey_mean`` to ``histogram`` are of the network's input, the rest of the original.

    Attributes:
        modality: CT, MR or ``not stated``.
        plane: axial, coronal, sagittal, oblique or ``not stated``.
        side_px: Pixels of the longer side.
        aspect: Width over height.
        pixel_mm: Millimetres between pixel centres, mean of both axes.
        thickness_mm: Slice thickness in millimetres.
        head_share: Head pixels over all pixels.
        head_mm: Longer extent of the head in millimetres.
        head_aspect: Long axis of the head over the short one, from the second moments of its mask.
        head_tilt: Angle of the long axis against the vertical in degrees, 0 to 90.
        grey_mean: Mean inside the head, 0 to 1.
        grey_sd: Standard deviation inside the head.
        black: Share of head pixels below 0.05.
        white: Share of head pixels above 0.95.
        sharpness: Standard deviation of the Laplacian inside the head over ``grey_sd``.
        histogram: (64,) shares of grey values inside the head; sum 1, or all 0 without a head.
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
    grey_mean: float | None
    grey_sd: float | None
    black: float | None
    white: float | None
    sharpness: float | None
    histogram: Floats


def acquisitions(manifest: Manifest, preprocess: Preprocess, progress: Progress) -> list[Acquisition]:
    """Returns what is known of each image that can be read; the others are left out.

    Args:
        manifest: The cases.
        preprocess: What makes the network's input.
        progress: Hears how far it is.
    """
    found = []
    progress.start(len(manifest), f"Measuring {manifest.root.name}")
    try:
        for case in manifest.cases:
            with contextlib.suppress(ReslinkError):  # a file that cannot be read is reported where it is judged
                found.append(acquisition(case.path, preprocess))
            progress.step()
    finally:
        progress.end()
    return found


def acquisition(path: Path, preprocess: Preprocess) -> Acquisition:
    """Returns what is known of one image.

    Raises:
        InputError: If it cannot be read.
    """
    image = read_image(path).slices()[0]
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
        **_shape(head, pixel),
        **_grey(image, preprocess),
    )


def _shape(head: NDArray[np.bool_], pixel: float | None) -> dict[str, Any]:
    if not head.any():
        return {"head_mm": None, "head_aspect": None, "head_tilt": None}
    where = np.argwhere(head).astype(np.float64)
    extent = float((where.max(axis=0) - where.min(axis=0)).max() + 1)
    values, vectors = np.linalg.eigh(np.cov(where.T))
    row, column = vectors[:, -1]
    return {
        "head_mm": None if pixel is None else extent * pixel,
        "head_aspect": float(np.sqrt(values[-1] / max(values[0], 1e-6))),
        "head_tilt": float(np.degrees(np.arctan2(abs(column), abs(row)))),
    }


def _grey(image: Image, preprocess: Preprocess) -> dict[str, Any]:
    pixels = preprocess.pixels(image)[0].astype(np.float64) / 255
    inside = pixels[preprocess.head(image)]
    if not inside.size:
        names = ("grey_mean", "grey_sd", "black", "white", "sharpness")
        return {**dict.fromkeys(names), "histogram": np.zeros(BINS)}
    counts, _ = np.histogram(inside, BINS, (0, 1))
    spread = float(inside.std())
    edges = ndimage.laplace(pixels)[preprocess.head(image)]
    return {
        "grey_mean": float(inside.mean()),
        "grey_sd": spread,
        "black": float((inside < 0.05).mean()),
        "white": float((inside > 0.95).mean()),
        "sharpness": float(edges.std()) / spread if spread > 0 else None,
        "histogram": counts / counts.sum(),
    }


def _from_header(path: Path) -> tuple[str, float | None]:
    """The plane and the slice thickness that a DICOM file states (PS3.3 C.7.6.2)."""
    from pydicom import dcmread

    tags = ["ImageOrientationPatient", "ImagePositionPatient", "SliceThickness"]
    try:
        with quiet():
            dataset = dcmread(path, stop_before_pixels=True, specific_tags=tags)
            plane, stated = plane_of(dataset), dataset.get("SliceThickness")
            thickness = float(stated) if stated else None
    except Exception:  # noqa: BLE001  (not DICOM, or one of the dozens of errors of a header that is odd)
        return "not stated", None
    if plane is None:
        return "not stated", thickness
    normal = np.abs(plane.normal)
    name = ("sagittal", "coronal", "axial")[int(normal.argmax())]
    return (name if normal.max() > np.cos(np.radians(30)) else "oblique"), thickness


def compared(inside: Sequence[Acquisition], outside: Sequence[Acquisition]) -> list[dict[str, Any]]:
    """Returns a row for each fact: quartiles or shares in both, and how far they are apart.

    Args:
        inside: Images like those learned from; may be empty, then nothing is compared.
        outside: Images of the other data.

    Returns:
        ``fact``, ``title``, ``inside``, ``outside`` (texts), ``difference`` (outside less inside in pooled standard
        deviations; for words half the sum of differences of shares, 0 to 1; None where one side has no value), ``ks``
        (Kolmogorov–Smirnov statistic, 0 to 1) and ``large`` (|difference| of 0.8 or more, for words 0.2: Cohen 1988,
        section 2.2).
    """
    rows = [_words(fact, inside, outside) for fact in WORDS]
    return rows + [_numbers(fact, inside, outside) for fact in NUMBERS]


def _numbers(fact: str, inside: Sequence[Acquisition], outside: Sequence[Acquisition]) -> dict[str, Any]:
    a, b = (_known(fact, part) for part in (inside, outside))
    difference, statistic = None, None
    if len(a) > 1 and len(b) > 1:
        spread = float(np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))
        gap = float(b.mean() - a.mean())
        difference = gap / spread if spread > 1e-9 else (0.0 if abs(gap) < 1e-9 else None)
        statistic = float(ks_2samp(a, b).statistic)
    large = (difference is not None and abs(difference) >= 0.8) or (difference is None and statistic == 1.0)
    texts = {"inside": _quartiles(a, len(inside)), "outside": _quartiles(b, len(outside))}
    return {"fact": fact, "title": NUMBERS[fact], **texts, "difference": difference, "ks": statistic, "large": large}


def _known(fact: str, images: Sequence[Acquisition]) -> Floats:
    return np.array([value for image in images if (value := getattr(image, fact)) is not None], np.float64)


def _quartiles(values: Floats, n: int) -> str:
    if not n:
        return "no images given"
    if not len(values):
        return "not stated"
    low, middle, high = np.percentile(values, (25, 50, 75))
    of = "" if len(values) == n else f", stated for {len(values)} of {n}"
    return f"{middle:.3g} ({low:.3g} to {high:.3g}){of}"


def _words(fact: str, inside: Sequence[Acquisition], outside: Sequence[Acquisition]) -> dict[str, Any]:
    a, b = (Counter(getattr(image, fact) for image in part) for part in (inside, outside))
    difference = None
    if inside and outside:
        difference = sum(abs(a[word] / len(inside) - b[word] / len(outside)) for word in a | b) / 2
    large = difference is not None and difference >= 0.2
    texts = {"inside": _shares(a), "outside": _shares(b)}
    return {"fact": fact, "title": WORDS[fact], **texts, "difference": difference, "ks": None, "large": large}


def _shares(counts: Counter[str]) -> str:
    total = counts.total()
    return ", ".join(f"{word} {n / total:.0%}" for word, n in counts.most_common()) if total else "no images given"


def histogram(images: Sequence[Acquisition]) -> Floats:
    """Returns (64,) the mean shares of grey values inside the head; all 0 where there is none."""
    return np.mean([image.histogram for image in images], axis=0) if images else np.zeros(BINS)


def grey_distance(inside: Sequence[Acquisition], outside: Sequence[Acquisition]) -> float | None:
    """Returns the Wasserstein distance of the two grey distributions, 0 to 1; None where one has no head."""
    a, b = histogram(inside), histogram(outside)
    if not a.any() or not b.any():
        return None
    centres = (np.arange(BINS) + 0.5) / BINS
    return float(wasserstein_distance(centres, centres, a, b))
