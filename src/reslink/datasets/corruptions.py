"""Image corruptions at five severities, for the robustness experiment.

They act on the original image before ``Preprocess``, so that head detection, window and resize see the same input as in
practice. They are implemented here because ``imagecorruptions`` and ``medmnistc`` require OpenCV or torchvision and expect
8-bit photographs, and TorchIO requires SimpleITK; none of them keeps Hounsfield units.
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

from reslink.datasets.kspace_artifacts import simulate_ghosting, simulate_motion
from reslink.errors import InputError, UsageError, check_choice
from reslink.imaging.head_mask import head_mask, valid_pixels
from reslink.imaging.image import Image
from reslink.imaging.preprocess import WINDOWS

Plane: TypeAlias = NDArray[np.float32]

SEVERITIES: Final = (1, 2, 3, 4, 5)
REFERENCE_SIZE: Final = 256
"""Longer side in pixels of the image that lengths in pixels refer to."""

_FADE_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class Original:
    """An uncorrupted slice, with measurements that all corruptions share.

    Attributes:
        image: One slice, (H, W).
        name: Name of the case; the random numbers depend on it, on the seed and on the corruption.
        seed: Seed of the random numbers.
    """

    image: Image
    name: str
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image.pixels.ndim != 2 or not valid_pixels(self.image).any():
            raise InputError(
                f"{self.name} has the shape {self.image.pixels.shape}, or no measured pixel",
                "A corruption needs one slice of (H, W) pixels",
                "Get the slices of a volume with Image.slices()",
            )

    @cached_property
    def values(self) -> Plane:
        """(H, W) float32 pixels; unmeasured pixels have the lowest value."""
        valid = valid_pixels(self.image)
        return np.where(valid, self.image.pixels, self.image.pixels[valid].min()).astype(np.float32)

    @cached_property
    def head(self) -> NDArray[np.bool_]:
        """(H, W) head mask, or the whole image if no head is found."""
        mask = head_mask(self.image)
        return mask if mask.any() else np.ones_like(mask)

    @cached_property
    def display_range(self) -> tuple[float, float]:
        """Values displayed as black and white: the brain window in HU, otherwise percentiles 0.5 and 99.5 of the head."""
        if self.image.unit == "HU":
            center, width = WINDOWS["brain"]
            return center - width / 2, center + width / 2
        low, high = (float(v) for v in np.percentile(self.values[self.head], (0.5, 99.5)))
        return (low, high) if high > low else (low, low + 1.0)

    @property
    def display_width(self) -> float:
        """Width of ``display_range``."""
        low, high = self.display_range
        return high - low

    @property
    def pixel_scale(self) -> float:
        """Pixels of this image per pixel of an image of ``REFERENCE_SIZE``."""
        return float(max(self.values.shape)) / REFERENCE_SIZE

    @cached_property
    def background(self) -> float:
        """Value of the background: the median of the image border."""
        v = self.values
        return float(np.median(np.concatenate([v[0], v[-1], v[:, 0], v[:, -1]])))

    def generator(self, kind: str) -> np.random.Generator:
        """Returns the random generator of a corruption; all severities draw the same numbers and differ only in strength."""
        return np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), zlib.crc32(kind.encode())])


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    Attributes:
        title: Name in reports.
        meaning: Description of the five levels, with their unit.
        levels: Strength at each severity, 1 to 5.
        apply: Function of the original, a strength and a random generator that returns the corrupted image.
    """

    title: str
    meaning: str
    levels: tuple[float, float, float, float, float]
    apply: Callable[[Original, float, np.random.Generator], Image]


def corrupt(original: Original, kind: str, severity: int) -> Image:
    """Returns a corrupted copy of the image.

    Args:
        original: The image; create it once and reuse it for all corruptions.
        kind: A key of ``CORRUPTIONS``.
        severity: 1 (mild) to 5 (severe).

    Returns:
        A slice in the same unit and of the same size; ``crop`` makes it smaller.

    Raises:
        UsageError: If the corruption or the severity is unknown.
    """
    corruption = get_corruption(kind)
    if severity not in SEVERITIES:
        raise UsageError(f"The severity is {severity}", "A severity is 1, 2, 3, 4 or 5", "Use 3")
    return corruption.apply(original, corruption.levels[severity - 1], original.generator(kind))


def get_corruption(kind: str) -> Corruption:
    """Returns a corruption by its name.

    Raises:
        UsageError: If the corruption is unknown; the message has the nearest name.
    """
    check_choice("corruption", kind, CORRUPTIONS)
    return CORRUPTIONS[kind]


def _with_pixels(original: Original, values: NDArray[np.floating]) -> Image:
    """Returns the image with new pixels, clipped to the range of its file type."""
    image = original.image
    if image.white is not None:
        values = np.rint(np.clip(values, 0, image.white))
    return replace(image, pixels=np.ascontiguousarray(values, np.float32))


def _noise(original: Original, level: float, rng: np.random.Generator) -> Image:
    """Gaussian noise, or Rician noise in MR magnitude images (Gudbjartsson and Patz 1995, doi 10.1002/mrm.1910340618)."""
    real, imaginary = rng.standard_normal((2, *original.values.shape), np.float32) * np.float32(level * original.display_width)
    if original.image.unit == "MR":
        signal = original.values - original.values.min()
        return _with_pixels(original, np.hypot(signal + real, imaginary) + original.values.min())
    return _with_pixels(original, original.values + real)


def _blur(original: Original, level: float, _: np.random.Generator) -> Image:
    return _with_pixels(original, ndimage.gaussian_filter(original.values, level * original.pixel_scale, mode="nearest"))


def _motion(original: Original, level: float, rng: np.random.Generator) -> Image:
    ct = original.image.unit == "HU" or original.image.modality == "CT"
    signal, sign = _split_signal(original)
    simulated = simulate_motion(signal, level, level * original.pixel_scale, rng, radial=ct)
    return _with_pixels(original, original.values + sign * (simulated - signal))


def _ghosting(original: Original, level: float, rng: np.random.Generator) -> Image:
    signal, sign = _split_signal(original)
    simulated = simulate_ghosting(signal, level, int(rng.integers(2, 4)))
    return _with_pixels(original, original.values + sign * (simulated - signal))


def _split_signal(original: Original) -> tuple[Plane, float]:
    """Returns the difference to the background as mostly positive values, and their sign.

    In HU, air and bone are clipped one and two window widths beyond the brain window, because a ghost of bone would be
    brighter than the whole window.
    """
    values, background = original.values, original.background
    if original.image.unit == "HU":
        edges = original.display_range[0] - original.display_width, original.display_range[1] + 2 * original.display_width
        values, background = np.clip(values, *edges), float(np.clip(background, *edges))
    signal = values - np.float32(background)
    sign = -1.0 if float(signal[original.head].mean()) < 0 else 1.0
    return np.float32(sign) * signal, sign


def _bias_field(original: Original, level: float, rng: np.random.Generator) -> Image:
    """Multiplies by exp(f), where f is a polynomial of degree three; in HU, f is added (cupping), as no coil scales HU."""
    height, width = original.values.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = [y**i * x**j for i in range(4) for j in range(4 - i) if i + j]
    field = np.tensordot(rng.uniform(-1, 1, len(terms)), np.stack(terms), axes=1)
    field *= level / np.abs(field[original.head]).max()
    if original.image.unit == "HU":
        return _with_pixels(original, original.values + original.display_width * field)
    return _with_pixels(original, original.values * np.exp(field))


def _contrast(original: Original, level: float, rng: np.random.Generator) -> Image:
    """Changes the gamma, because the percentiles of ``Preprocess`` would undo a linear change.

    In HU, where the window is fixed, the distance to the center of the brain window shrinks by the same factor.
    """
    low, high = original.display_range
    if original.image.unit == "HU":
        center = (low + high) / 2
        return _with_pixels(original, center + (original.values - center) / level)
    exponent = level if rng.random() < 0.5 else 1 / level
    floor, top = float(original.values.min()), max(high, float(original.values.max()))
    unit = (original.values - floor) / max(top - floor, 1e-6)
    return _with_pixels(original, floor + (top - floor) * unit**exponent)


def _window_shift(original: Original, level: float, rng: np.random.Generator) -> Image:
    """Shifts the window up or down by a share of its width; values outside it become black or white."""
    shift = level * (1 if rng.random() < 0.5 else -1)
    low, high = original.display_range
    if original.image.unit == "HU":
        return _with_pixels(original, original.values + shift * (high - low))
    unit = (original.values - low) / (high - low)
    inside = np.clip((original.values - original.background) / (_FADE_SHARE * (high - low)), -1, 1) ** 2
    return _with_pixels(original, low + (high - low) * np.where(inside > 0, np.clip(unit + shift * inside, 0, 1), unit))


def _jpeg(original: Original, level: float, _: np.random.Generator) -> Image:
    """Adds the compression error of JPEG; in HU, the error of the brain window, so that bone and air keep their values."""
    image, v = original.image, original.values
    low, high = (0.0, image.white) if image.white else original.display_range
    gray = np.rint(np.clip((v - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    Picture.fromarray(gray).save(file, "JPEG", quality=int(level))
    with Picture.open(file) as opened:
        error = np.asarray(opened, np.float32) - gray
    return _with_pixels(original, v + error * np.float32((high - low) / 255))


def _resolution(original: Original, level: float, _: np.random.Generator) -> Image:
    height, width = original.values.shape
    scale = level / max(height, width)
    if scale >= 1:
        return original.image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = Picture.fromarray(original.values).resize(size, Picture.Resampling.BOX)
    return _with_pixels(original, np.asarray(small.resize((width, height), Picture.Resampling.BILINEAR)))


def _rotation(original: Original, level: float, rng: np.random.Generator) -> Image:
    angle = level * (1 if rng.random() < 0.5 else -1)
    rotated = ndimage.rotate(original.values, angle, reshape=False, order=1, mode="constant", cval=original.background)
    padding = original.image.padding
    if padding is not None:
        padding = ndimage.rotate(padding.astype(np.uint8), angle, reshape=False, order=0, cval=0) > 0
    return replace(_with_pixels(original, rotated), padding=padding)


def _crop(original: Original, level: float, rng: np.random.Generator) -> Image:
    """Crops part of the head at one side, and the image beyond it."""
    axis, far = int(rng.integers(2)), bool(rng.integers(2))
    where = np.flatnonzero(original.head.any(axis=1 - axis))
    first, last = int(where[0]), int(where[-1]) + 1
    cut = round(level * (last - first))
    kept = slice(0, max(1, last - cut)) if far else slice(min(first + cut, last - 1), None)
    window = (kept, slice(None)) if axis == 0 else (slice(None), kept)
    padding = original.image.padding
    image = _with_pixels(original, original.values[window])
    return replace(image, padding=None if padding is None else padding[window])


CORRUPTIONS: Final[dict[str, Corruption]] = {
    "noise": Corruption("Noise", "standard deviation, share of the gray range", (0.02, 0.05, 0.1, 0.15, 0.25), _noise),
    "blur": Corruption("Blur", f"standard deviation in pixels of {REFERENCE_SIZE}", (0.5, 1.0, 1.5, 2.5, 4.0), _blur),
    "motion": Corruption(
        "Motion", f"largest rotation in degrees and shift in pixels of {REFERENCE_SIZE}", (1, 2, 3, 5, 8), _motion
    ),
    "bias_field": Corruption("Bias field", "largest exponent of the gain", (0.1, 0.2, 0.35, 0.5, 0.8), _bias_field),
    "ghosting": Corruption("Ghosting", "strength of a ghost, share of the image", (0.05, 0.1, 0.15, 0.2, 0.3), _ghosting),
    "contrast": Corruption("Contrast", "exponent of the gray values, or its inverse", (1.2, 1.4, 1.7, 2.1, 2.6), _contrast),
    "jpeg": Corruption("JPEG", "quality", (60, 40, 25, 15, 8), _jpeg),
    "resolution": Corruption("Resolution", "pixels on the longer side", (160, 128, 96, 64, 48), _resolution),
    "rotation": Corruption("Rotation", "degrees to either side", (5, 10, 20, 30, 45), _rotation),
    "crop": Corruption("Crop", "share of the head cropped at one side", (0.05, 0.1, 0.15, 0.2, 0.3), _crop),
    "window_shift": Corruption("Window shift", "share of the window's width", (0.05, 0.1, 0.15, 0.25, 0.4), _window_shift),
}
"""The corruptions by name, in report order."""
