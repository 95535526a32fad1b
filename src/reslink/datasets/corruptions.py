"""What goes wrong between the scanner and the file, at five severities: the corruptions of the robustness study.

All act on the original image, before ``Preprocess``: head search, window and resize then see what they would see in
practice. Own NumPy and SciPy operations: ``imagecorruptions`` and ``medmnistc`` bring OpenCV or torchvision and work on
8-bit photographs, TorchIO brings SimpleITK; none of them keeps Hounsfield units.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy import ndimage

from reslink.datasets.kspace_artifacts import ghosted, moved
from reslink.errors import InputError, UsageError, nearest
from reslink.imaging.head_mask import head_mask, measured
from reslink.imaging.image import Image
from reslink.imaging.preprocess import WINDOWS

Plane: TypeAlias = NDArray[np.float32]

SEVERITIES: Final = (1, 2, 3, 4, 5)
GRID: Final = 256
"""Lengths in pixels are those of an image with this many pixels on its longer side."""

_RAMP = 0.05


@dataclass(frozen=True, eq=False)
class Original:
    """An image with what the corruptions need to know of it, found once.

    Attributes:
        image: One slice, (H, W).
        name: What the random numbers depend on beside the seed and the kind, such as the case's name.
        seed: Seed of the random numbers.
    """

    image: Image
    name: str
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image.pixels.ndim != 2 or not measured(self.image).any():
            raise InputError(
                f"{self.name} has the shape {self.image.pixels.shape} or no pixel that was measured",
                "A corruption acts on one slice of (H, W) pixels",
                "Take the slices of a volume with Image.slices()",
            )

    @cached_property
    def values(self) -> Plane:
        """(H, W) the pixels; what was not measured has the lowest value."""
        valid = measured(self.image)
        return np.where(valid, self.image.pixels, self.image.pixels[valid].min()).astype(np.float32)

    @cached_property
    def head(self) -> NDArray[np.bool_]:
        """(H, W) the head, or all of the image where none is found."""
        mask = head_mask(self.image)
        return mask if mask.any() else np.ones_like(mask)

    @cached_property
    def shown(self) -> tuple[float, float]:
        """The values shown as black and white: the brain window in HU, otherwise percentiles 0.5 and 99.5 of the head."""
        if self.image.unit == "HU":
            centre, width = WINDOWS["brain"]
            return centre - width / 2, centre + width / 2
        low, high = (float(v) for v in np.percentile(self.values[self.head], (0.5, 99.5)))
        return (low, high) if high > low else (low, low + 1.0)

    @property
    def span(self) -> float:
        """Width of :attr:`shown`."""
        low, high = self.shown
        return high - low

    @property
    def pixel(self) -> float:
        """Pixels of this image for one pixel of the grid of ``GRID``."""
        return float(max(self.values.shape)) / GRID

    @cached_property
    def background(self) -> float:
        """The value around the head: the median of the image's rim."""
        v = self.values
        return float(np.median(np.concatenate([v[0], v[-1], v[:, 0], v[:, -1]])))

    def random(self, kind: str) -> np.random.Generator:
        """Returns the random numbers of a kind: the same for each severity, which then differ in strength alone."""
        return np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), zlib.crc32(kind.encode())])


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    Attributes:
        title: What it is called in a report.
        meaning: What the five numbers are.
        levels: The strength at each severity.
        apply: Takes the original, a strength and random numbers; returns the corrupted image.
    """

    title: str
    meaning: str
    levels: tuple[float, float, float, float, float]
    apply: Callable[[Original, float, np.random.Generator], Image]


def corrupt(original: Original, kind: str, severity: int) -> Image:
    """Returns the image with one corruption; the original is not changed.

    Args:
        original: The image; make it once and use it for all corruptions.
        kind: A key of ``CORRUPTIONS``.
        severity: 1 (slight) to 5 (severe).

    Returns:
        A slice in the same unit; smaller than the original for ``crop``, otherwise of its size.

    Raises:
        UsageError: If there is no such kind or severity.
    """
    corruption = known(kind)
    if severity not in SEVERITIES:
        raise UsageError(f"The severity {severity} was given", "A severity is 1, 2, 3, 4 or 5", "Use 3")
    return corruption.apply(original, corruption.levels[severity - 1], original.random(kind))


def known(kind: str) -> Corruption:
    """Returns a corruption by its name.

    Raises:
        UsageError: If there is no such kind, with the nearest name.
    """
    if kind not in CORRUPTIONS:
        allowed = f"The corruptions are {', '.join(CORRUPTIONS)}"
        raise UsageError(f"There is no corruption {kind!r}", allowed, nearest(kind, CORRUPTIONS))
    return CORRUPTIONS[kind]


def _image(original: Original, values: NDArray[np.floating]) -> Image:
    """Returns the image with other values, in the range that its kind of file can hold."""
    image = original.image
    if image.white is not None:
        values = np.rint(np.clip(values, 0, image.white))
    return replace(image, pixels=np.ascontiguousarray(values, np.float32))


def _noise(original: Original, level: float, random: np.random.Generator) -> Image:
    """Gaussian; Rician in MR magnitude images (Gudbjartsson and Patz 1995, doi 10.1002/mrm.1910340618)."""
    real, imaginary = random.standard_normal((2, *original.values.shape), np.float32) * np.float32(level * original.span)
    if original.image.unit == "MR":
        signal = original.values - original.values.min()
        return _image(original, np.hypot(signal + real, imaginary) + original.values.min())
    return _image(original, original.values + real)


def _blur(original: Original, level: float, _: np.random.Generator) -> Image:
    return _image(original, ndimage.gaussian_filter(original.values, level * original.pixel, mode="nearest"))


def _motion(original: Original, level: float, random: np.random.Generator) -> Image:
    ct = original.image.unit == "HU" or original.image.modality == "CT"
    signal, sign = _signal(original)
    shaken = moved(signal, level, level * original.pixel, random, radial=ct)
    return _image(original, original.values + sign * (shaken - signal))


def _ghosting(original: Original, level: float, random: np.random.Generator) -> Image:
    signal, sign = _signal(original)
    doubled = ghosted(signal, level, int(random.integers(2, 4)))
    return _image(original, original.values + sign * (doubled - signal))


def _signal(original: Original) -> tuple[Plane, float]:
    """What stands out from the background as mostly positive values, and their sign.

    In HU bone and air are cut off one and two window widths beyond the brain window: a ghost of bone would be brighter
    than the whole window.
    """
    values, background = original.values, original.background
    if original.image.unit == "HU":
        edges = original.shown[0] - original.span, original.shown[1] + 2 * original.span
        values, background = np.clip(values, *edges), float(np.clip(background, *edges))
    signal = values - np.float32(background)
    sign = -1.0 if float(signal[original.head].mean()) < 0 else 1.0
    return np.float32(sign) * signal, sign


def _bias_field(original: Original, level: float, random: np.random.Generator) -> Image:
    """A gain exp(f) over the image, f a polynomial of degree three; in HU, which no coil scales, f adds (cupping)."""
    height, width = original.values.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = [y**i * x**j for i in range(4) for j in range(4 - i) if i + j]
    field = np.tensordot(random.uniform(-1, 1, len(terms)), np.stack(terms), axes=1)
    field *= level / np.abs(field[original.head]).max()
    if original.image.unit == "HU":
        return _image(original, original.values + original.span * field)
    return _image(original, original.values * np.exp(field))


def _contrast(original: Original, level: float, random: np.random.Generator) -> Image:
    """An exponent of the grey values, up or down; a linear change would be undone by the percentiles of ``Preprocess``.

    In HU, where the window is fixed, the distance from the centre of the brain window shrinks by the same factor.
    """
    low, high = original.shown
    if original.image.unit == "HU":
        centre = (low + high) / 2
        return _image(original, centre + (original.values - centre) / level)
    exponent = level if random.random() < 0.5 else 1 / level
    floor, top = float(original.values.min()), max(high, float(original.values.max()))
    unit = (original.values - floor) / max(top - floor, 1e-6)
    return _image(original, floor + (top - floor) * unit**exponent)


def _window_shift(original: Original, level: float, random: np.random.Generator) -> Image:
    """The window set higher or lower, by a share of its width; what leaves the window is black or white."""
    shift = level * (1 if random.random() < 0.5 else -1)
    low, high = original.shown
    if original.image.unit == "HU":
        return _image(original, original.values + shift * (high - low))
    unit = (original.values - low) / (high - low)
    inside = np.clip((original.values - original.background) / (_RAMP * (high - low)), -1, 1) ** 2
    return _image(original, low + (high - low) * np.where(inside > 0, np.clip(unit + shift * inside, 0, 1), unit))


def _jpeg(original: Original, level: float, _: np.random.Generator) -> Image:
    """Adds the error of JPEG; in HU that of the brain window, so that bone and air keep their values."""
    image, v = original.image, original.values
    low, high = (0.0, image.white) if image.white else original.shown
    grey = np.rint(np.clip((v - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    Picture.fromarray(grey).save(file, "JPEG", quality=int(level))
    with Picture.open(file) as opened:
        error = np.asarray(opened, np.float32) - grey
    return _image(original, v + error * np.float32((high - low) / 255))


def _resolution(original: Original, level: float, _: np.random.Generator) -> Image:
    height, width = original.values.shape
    scale = level / max(height, width)
    if scale >= 1:
        return original.image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = Picture.fromarray(original.values).resize(size, Picture.Resampling.BOX)
    return _image(original, np.asarray(small.resize((width, height), Picture.Resampling.BILINEAR)))


def _rotation(original: Original, level: float, random: np.random.Generator) -> Image:
    angle = level * (1 if random.random() < 0.5 else -1)
    turned = ndimage.rotate(original.values, angle, reshape=False, order=1, mode="constant", cval=original.background)
    padding = original.image.padding
    if padding is not None:
        padding = ndimage.rotate(padding.astype(np.uint8), angle, reshape=False, order=0, cval=0) > 0
    return replace(_image(original, turned), padding=padding)


def _crop(original: Original, level: float, random: np.random.Generator) -> Image:
    """Cuts a part of the head off at one side, with all of the image beyond it."""
    axis, far = int(random.integers(2)), bool(random.integers(2))
    where = np.flatnonzero(original.head.any(axis=1 - axis))
    first, last = int(where[0]), int(where[-1]) + 1
    cut = round(level * (last - first))
    kept = slice(0, max(1, last - cut)) if far else slice(min(first + cut, last - 1), None)
    window = (kept, slice(None)) if axis == 0 else (slice(None), kept)
    padding = original.image.padding
    image = _image(original, original.values[window])
    return replace(image, padding=None if padding is None else padding[window])


CORRUPTIONS: Final[dict[str, Corruption]] = {
    "noise": Corruption("Noise", "standard deviation, share of the grey range", (0.02, 0.05, 0.1, 0.15, 0.25), _noise),
    "blur": Corruption("Blur", f"standard deviation in pixels of {GRID}", (0.5, 1.0, 1.5, 2.5, 4.0), _blur),
    "motion": Corruption("Motion", f"largest turn in degrees and shift in pixels of {GRID}", (1, 2, 3, 5, 8), _motion),
    "bias_field": Corruption("Bias field", "largest exponent of the gain", (0.1, 0.2, 0.35, 0.5, 0.8), _bias_field),
    "ghosting": Corruption("Ghosting", "strength of a ghost, share of the image", (0.05, 0.1, 0.15, 0.2, 0.3), _ghosting),
    "contrast": Corruption("Contrast", "exponent of the grey values, or its inverse", (1.2, 1.4, 1.7, 2.1, 2.6), _contrast),
    "jpeg": Corruption("JPEG", "quality", (60, 40, 25, 15, 8), _jpeg),
    "resolution": Corruption("Resolution", "pixels on the longer side", (160, 128, 96, 64, 48), _resolution),
    "rotation": Corruption("Rotation", "degrees to either side", (5, 10, 20, 30, 45), _rotation),
    "crop": Corruption("Crop", "share of the head cut off at one side", (0.05, 0.1, 0.15, 0.2, 0.3), _crop),
    "window_shift": Corruption("Window shift", "share of the window's width", (0.05, 0.1, 0.15, 0.25, 0.4), _window_shift),
}
"""The corruptions by name, in the order of reports."""
