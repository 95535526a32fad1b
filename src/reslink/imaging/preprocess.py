"""The preprocessing of images for the network: window, head isolation, crop to a square, resize, normalize."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from reslink.errors import InputError
from reslink.files import sha256
from reslink.imaging.head_mask import head_mask, valid_pixels
from reslink.imaging.image import Image

WINDOWS: Final[dict[str, tuple[float, float]]] = {
    "brain": (40.0, 80.0),
    "subdural": (75.0, 215.0),
    "stroke": (40.0, 40.0),
    "bone": (600.0, 2800.0),
}
"""Center and width in HU (Radiopaedia.org, "Windowing (CT)": brain, subdural, stroke, temporal bones)."""

THREE_WINDOWS: Final = ("brain", "subdural", "bone")
MAX_PIXEL_ASPECT: Final = 32
"""Maximum ratio of the two sides of a pixel."""

MAX_SQUARE_SIDE: Final = 4096
"""Maximum side in pixels of an image that is resampled to square pixels."""

MARGIN: Final = 0.04
"""Margin around the head, as a share of its height and width."""

VERSION: Final = 3
"""Part of the digest. It increases when the same settings give different pixels, so that old caches are not used."""

Mask = NDArray[np.bool_]
Gray = NDArray[np.uint8]
Values = NDArray[np.float32]
Kind = TypeVar("Kind", bound=np.generic)


@dataclass(frozen=True)
class Placement:
    """Position of the network's input square in the original image.

    Attributes:
        shape: (H, W) of the original image.
        top: First row of the crop in the image with square pixels.
        left: First column of the crop in the image with square pixels.
        height: Rows of the crop.
        width: Columns of the crop.
        size: Side of the network's input in pixels.
        head_found: Whether a head was found; without one the crop is the whole image. None if the head is not isolated.
        square_shape: (H, W) of the image with square pixels; None if the pixels of the original are square.
    """

    shape: tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    size: int
    head_found: bool | None
    square_shape: tuple[int, int] | None = None

    @property
    def side(self) -> int:
        """Side of the padded square in pixels of the original image."""
        return max(self.height, self.width)

    def to_network(self, mask: NDArray[np.generic]) -> Mask:
        """Maps a mask of the original image to the network's input square.

        Args:
            mask: (H, W); values other than 0 are inside.

        Returns:
            (size, size) booleans.

        Raises:
            InputError: If the shape of the mask differs from that of the image.
        """
        if mask.shape != self.shape:
            raise InputError(
                f"A mask of the shape {mask.shape} was given for an image of the shape {self.shape}",
                "A mask has the same shape as its image",
                "Use the mask in the size of the original image",
            )
        inside = (mask != 0).astype(np.uint8) * np.uint8(255)
        if self.square_shape is not None:
            inside = np.asarray(cv2.resize(inside, self.square_shape[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
        return self.resize(self.crop(inside)) > 127

    def to_image(self, heatmap: NDArray[np.floating]) -> Values:
        """Maps a map of the network's input square, at any resolution, back to the original image.

        Args:
            heatmap: (S', S') floats.

        Returns:
            (H, W) float32, 0 outside the square.

        Raises:
            InputError: If the map is not square.
        """
        if heatmap.ndim != 2 or heatmap.shape[0] != heatmap.shape[1] or not heatmap.size:
            raise InputError(
                f"A map of the shape {heatmap.shape} was given",
                "A map of the network's input is a square of (S, S) values",
                "Convert the maps of a batch one by one",
            )
        small = Picture.fromarray(np.ascontiguousarray(heatmap, np.float32))
        square = np.asarray(small.resize((self.side, self.side), Picture.Resampling.BILINEAR))
        full = np.zeros(self.square_shape or self.shape, np.float32)
        self.crop(full)[...] = self._crop_padding(square)
        if self.square_shape is None:
            return full
        return np.asarray(cv2.resize(full, self.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)

    def crop(self, plane: NDArray[Kind]) -> NDArray[Kind]:
        """Returns the crop of an (H, W) plane with square pixels as a view, (height, width)."""
        return plane[self.top : self.top + self.height, self.left : self.left + self.width]

    def resize(self, crop: Gray) -> Gray:
        """Pads a (height, width) crop with 0 to a square and resizes it to (size, size).

        Pillow's antialiased triangle filter uses integers for 8-bit pixels, so the result is the same on every machine.
        """
        square = np.zeros((self.side, self.side), np.uint8)
        self._crop_padding(square)[...] = crop
        return np.array(Picture.fromarray(square).resize((self.size, self.size), Picture.Resampling.BILINEAR))

    def _crop_padding(self, square: NDArray[Kind]) -> NDArray[Kind]:
        y, x = (self.side - self.height) // 2, (self.side - self.width) // 2
        return square[y : y + self.height, x : x + self.width]


def square_pixels(image: Image) -> Image:
    """Returns a slice with square pixels: the same object if its spacing is not stated or equal to within 1 %.

    Otherwise the coarser axis is resampled (bilinear) to the spacing of the finer one.

    Raises:
        InputError: If the two spacings differ by a factor of more than ``MAX_PIXEL_ASPECT``.
    """
    if image.spacing is None or image.pixels.ndim != 2 or abs(image.spacing[0] / image.spacing[1] - 1) <= 0.01:
        return image
    fine, coarse = sorted(image.spacing)
    if coarse > MAX_PIXEL_ASPECT * fine:
        raise InputError(
            f"{image.source or 'The image'} has pixels of {image.spacing[0]:g} x {image.spacing[1]:g} mm",
            f"The spacings of rows and columns differ by a factor of at most {MAX_PIXEL_ASPECT}",
            "Correct the pixel spacing in the file",
        )
    extents = [count * spacing for count, spacing in zip(image.pixels.shape, image.spacing, strict=True)]
    step = max(fine, max(extents) / MAX_SQUARE_SIDE)
    height, width = (max(1, round(extent / step)) for extent in extents)
    shrinks = height < image.pixels.shape[0] or width < image.pixels.shape[1]

    def resampled(plane: Values) -> Values:
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(plane, (width, height), interpolation=interpolation), np.float32)

    padding = None if image.padding is None else resampled(image.padding.astype(np.float32)) > 0
    return replace(image, pixels=resampled(image.pixels), spacing=(step, step), padding=padding)


def _as_tuple(value: object) -> object:
    """Converts lists to tuples, because JSON and YAML only have lists."""
    return tuple(value) if isinstance(value, list) else value


class Preprocess(BaseModel):
    """Settings that convert a slice to the network's input. They are stored in the bundle and used in training and prediction.

    Attributes:
        size: Side of the square in pixels.
        channels: 3 as in the paper, or 1.
        window: For CT in HU: one named window, or ``three`` for brain, subdural and bone as three planes (with
            ``channels=3``; with one channel ``three`` is the brain window).
        isolate_head: Set pixels outside the head to the lowest value and crop to the head.
        percentiles: For MR and gray pictures: percentiles of the head (of the image if the head is not isolated) that become
            black and white.
        mean: Value that is subtracted after scaling to 0..1.
        std: Divisor that is applied after the subtraction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    size: Annotated[int, Field(ge=64, le=1024)] = 224
    channels: Literal[1, 3] = 3
    window: Literal["brain", "subdural", "stroke", "bone", "three"] = "brain"
    isolate_head: bool = True
    percentiles: Annotated[tuple[float, float], BeforeValidator(_as_tuple)] = (0.5, 99.5)
    mean: Annotated[float, Field(allow_inf_nan=False)] = 0.25
    std: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.25

    @model_validator(mode="after")
    def _check_percentiles(self) -> Preprocess:
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles are {self.percentiles}; they must be two numbers with 0 <= low < high <= 100")
        return self

    @property
    def planes(self) -> int:
        """Number of planes that ``pixels`` returns: 3 for three windows in three channels, otherwise 1."""
        return 3 if self.window == "three" and self.channels == 3 else 1

    def __call__(self, image: Image) -> Values:
        """Returns the network's input of one slice, float32 (channels, size, size)."""
        return self.normalize(self.pixels(image))

    def pixels(self, image: Image) -> Gray:
        """Applies all steps except the normalization. Their result can be cached.

        Values are mapped linearly from the window to 0..255 (DICOM PS3.3 C.11.2.1.3.2, LINEAR_EXACT), inverted for
        MONOCHROME1, and set to 0 outside the head and for invalid pixels. Pixels that are not square are resampled first.

        Args:
            image: One slice, (H, W); not changed.

        Returns:
            (planes, size, size) uint8.

        Raises:
            InputError: If the image is a volume or has no pixels.
        """
        image = square_pixels(image)
        mask, placement = self.isolate(image)
        keep, values = placement.crop(mask), _as_uint8_if_exact(placement.crop(image.pixels), image.white)
        ranges = self._value_ranges(image, values[keep])
        return np.stack([placement.resize(_scaled(values, keep, *span, inverted=image.inverted)) for span in ranges])

    def isolate(self, image: Image) -> tuple[Mask, Placement]:
        """Returns the mask of the pixels that are kept, (H, W) booleans, and the position of the network's input square.

        The mask is the head, or all valid pixels if no head is isolated or found.

        Args:
            image: One slice with square pixels, see :func:`square_pixels`.

        Raises:
            InputError: If the image is a volume or has no pixels.
        """
        head = self._head(image)
        placement = self._placement(image, head)
        return head if head is not None and placement.head_found else valid_pixels(image), placement

    def normalize(self, pixels: Gray) -> NDArray[np.float32]:
        """Scales pixels and repeats a single plane for all channels.

        Args:
            pixels: (..., planes, S, S) uint8.

        Returns:
            (..., channels, S, S) float32, ``(pixels / 255 - mean) / std``.
        """
        unit = pixels.astype(np.float32) / np.float32(255)
        values: Values = (unit - np.float32(self.mean)) / np.float32(self.std)
        return values if values.shape[-3] == self.channels else np.repeat(values, self.channels, axis=-3)

    def placement(self, image: Image) -> Placement:
        """Returns the position of the network's input square in the image."""
        square = square_pixels(image)
        placement = self._placement(square, self._head(square))
        if square is image:
            return placement
        return replace(placement, shape=image.pixels.shape, square_shape=square.pixels.shape)

    def resized_head_mask(self, image: Image) -> Mask:
        """Returns the head mask in the network's input square, (size, size), also if the head is not isolated."""
        _check_slice(image)
        image = square_pixels(image)
        mask = head_mask(image)
        return self._placement(image, mask if self.isolate_head else None).to_network(mask)

    def digest(self) -> str:
        """Returns the SHA-256 of the settings as canonical JSON, together with ``VERSION``."""
        settings = {"version": VERSION, **self.model_dump(mode="json")}
        return sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")))

    def _head(self, image: Image) -> Mask | None:
        _check_slice(image)
        return head_mask(image) if self.isolate_head else None

    def _placement(self, image: Image, head: Mask | None) -> Placement:
        height, width = image.pixels.shape
        x, y, columns, rows = (0, 0, 0, 0) if head is None else cv2.boundingRect(head.view(np.uint8))
        if not rows:
            head_found = None if head is None else False
            return Placement((height, width), 0, 0, height, width, self.size, head_found)
        top, bottom = _extent(y, rows, height)
        left, right = _extent(x, columns, width)
        return Placement((height, width), top, left, bottom - top, right - left, self.size, head_found=True)

    def _value_ranges(self, image: Image, values: Values | Gray) -> list[tuple[float, float]]:
        """Returns the values that become black and white, one pair per plane."""
        if image.unit != "HU":
            return [_percentile_range(values, self.percentiles)] * self.planes
        names = THREE_WINDOWS if self.planes == 3 else ("brain" if self.window == "three" else self.window,)
        return [(center - width / 2, center + width / 2) for center, width in (WINDOWS[name] for name in names)]


def _check_slice(image: Image) -> None:
    if image.pixels.ndim != 2 or 0 in image.pixels.shape:
        raise InputError(
            f"{image.source or 'The image'} has the shape {image.pixels.shape}",
            "The preprocessing takes one slice of (H, W) pixels at a time",
            "Get the slices of a volume with Image.slices()",
        )


def _extent(first: int, length: int, size: int) -> tuple[int, int]:
    """Returns the start and the end of a range of rows or columns, widened by the margin and clipped to the image."""
    margin = round(MARGIN * length)
    return max(0, first - margin), min(size, first + length + margin)


def _as_uint8_if_exact(values: Values, white: float | None) -> Values | Gray:
    """Returns the values as uint8 if all are integers from 0 to 255: later steps are faster and give the same result."""
    if white != 255:
        return values
    with np.errstate(invalid="ignore"):  # values outside the range of uint8 change, and the comparison fails
        integers = values.astype(np.uint8)
    return integers if np.array_equal(integers, values) else values


def _percentile_range(values: Values | Gray, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Returns the percentiles, or the extremes if the percentiles are equal (nearly blank image)."""
    if not values.size:
        return 0.0, 0.0
    if values.dtype == np.uint8:
        low, high = map(
            float, uint8_quantiles(values.astype(np.uint8, copy=False), [percentile / 100 for percentile in percentiles])
        )
    else:
        low, high = map(float, np.percentile(values.astype(np.float64), percentiles))
    return (low, high) if high > low else (float(values.min()), float(values.max()))


def _scaled(values: Values | Gray, keep: Mask, low: float, high: float, *, inverted: bool) -> Gray:
    """Maps low..high to 0..255 and clips; 0 for pixels that are not kept, and for all pixels if low and high are equal."""
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    if values.dtype == np.uint8:  # map the 256 possible values once and use a lookup table
        table = _map_linear(np.arange(256, dtype=np.float32), low, high, inverted=inverted)
        return np.asarray(cv2.LUT(values, table), np.uint8) * keep
    return _map_linear(np.where(keep, values, np.float32(low)), low, high, inverted=inverted) * keep


def _map_linear(values: Values, low: float, high: float, *, inverted: bool) -> Gray:
    with np.errstate(over="ignore"):
        unit = values - np.float32(low)
        unit *= np.float32(
            min(255 / (high - low), float(np.finfo(np.float32).max))
        )  # for subnormal ranges: avoids infinity times 0
    np.rint(np.clip(unit, 0, 255, out=unit), out=unit)
    gray = unit.astype(np.uint8)
    return np.uint8(255) - gray if inverted else gray


def uint8_quantiles(values: NDArray[np.uint8], quantiles: Sequence[float]) -> NDArray[np.float64]:
    """Returns quantiles of 8-bit values by linear interpolation, equal to ``numpy.quantile``.

    Args:
        values: (n,) values, at least one.
        quantiles: The quantiles to compute, each 0 to 1.

    Returns:
        (len(quantiles),) float64.
    """
    cumulative = np.cumsum(np.bincount(values, minlength=256))
    last = values.size - 1
    positions = last * np.asarray(quantiles, np.float64)
    first = np.floor(positions).astype(np.intp)
    below, above = np.searchsorted(cumulative, np.minimum([first, first + 1], last), side="right")
    step, fraction = above - below, positions - first
    # the same interpolation as in NumPy, bit for bit
    values_at: NDArray[np.float64] = np.where(fraction < 0.5, below + step * fraction, above - step * (1 - fraction))
    return values_at
