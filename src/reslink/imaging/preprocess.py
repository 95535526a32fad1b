"""The one way from an image to what a network sees: window, head isolation, square, resize, normalise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from reslink.errors import InputError
from reslink.files import sha256
from reslink.imaging.head_mask import head_mask, measured
from reslink.imaging.image import Image

WINDOWS: Final[dict[str, tuple[float, float]]] = {
    "brain": (40.0, 80.0),
    "subdural": (75.0, 215.0),
    "stroke": (40.0, 40.0),
    "bone": (600.0, 2800.0),
}
"""Centre and width in HU (Radiopaedia.org, "Windowing (CT)": brain, subdural, stroke, temporal bones)."""

THREE_WINDOWS: Final = ("brain", "subdural", "bone")
MARGIN: Final = 0.04
"""Room around the head, as a part of its height and width."""

VERSION: Final = 3
"""Part of the digest: counts up when the same settings begin to give other pixels, so that no old cache is used."""

Mask = NDArray[np.bool_]
Grey = NDArray[np.uint8]
Values = NDArray[np.float32]
Kind = TypeVar("Kind", bound=np.generic)


@dataclass(frozen=True)
class Placement:
    """Where the network's square lies in the original image.

    Attributes:
        shape: (H, W) of the original image.
        top: First row of the crop in the original.
        left: First column of the crop in the original.
        height: Rows of the crop.
        width: Columns of the crop.
        size: Side of the network's input in pixels.
        head_found: Whether a head was found; without one the crop is the whole image. None where the head is not isolated,
            and so was not looked for.
    """

    shape: tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    size: int
    head_found: bool | None

    @property
    def side(self) -> int:
        """Side of the padded square in pixels of the original."""
        return max(self.height, self.width)

    def to_network(self, mask: NDArray[np.generic]) -> Mask:
        """Carries a mask of the original image to the network's square.

        Args:
            mask: (H, W), anything that is not 0 counts as inside.

        Returns:
            (size, size) booleans.

        Raises:
            InputError: If the mask has another shape than the image.
        """
        if mask.shape != self.shape:
            raise InputError(
                f"A mask of the shape {mask.shape} was given for an image of the shape {self.shape}",
                "A mask has as many rows and columns as its image",
                "Give the mask in the size of the original image",
            )
        return self.resized((self.cut(mask) != 0).astype(np.uint8) * np.uint8(255)) > 127

    def to_image(self, heat: NDArray[np.floating]) -> Values:
        """Carries a map of the network's square, at any resolution, back onto the original image.

        Args:
            heat: (S', S') floats.

        Returns:
            (H, W) float32, 0 where the network saw nothing.

        Raises:
            InputError: If the map is not square.
        """
        if heat.ndim != 2 or heat.shape[0] != heat.shape[1] or not heat.size:
            raise InputError(
                f"A map of the shape {heat.shape} was given",
                "A map of the network's input is a square of (S, S) values",
                "Give the maps of a batch one by one",
            )
        small = Picture.fromarray(np.ascontiguousarray(heat, np.float32))
        square = np.asarray(small.resize((self.side, self.side), Picture.Resampling.BILINEAR))
        full = np.zeros(self.shape, np.float32)
        self.cut(full)[...] = self._unpadded(square)
        return full

    def cut(self, plane: NDArray[Kind]) -> NDArray[Kind]:
        """Returns the crop of an (H, W) plane as a view, (height, width)."""
        return plane[self.top : self.top + self.height, self.left : self.left + self.width]

    def resized(self, crop: Grey) -> Grey:
        """Pads a (height, width) crop with 0 to a square and brings it to (size, size).

        Pillow's antialiased triangle filter works on 8-bit pixels in integers: the same result on every machine.
        """
        square = np.zeros((self.side, self.side), np.uint8)
        self._unpadded(square)[...] = crop
        return np.array(Picture.fromarray(square).resize((self.size, self.size), Picture.Resampling.BILINEAR))

    def _unpadded(self, square: NDArray[Kind]) -> NDArray[Kind]:
        y, x = (self.side - self.height) // 2, (self.side - self.width) // 2
        return square[y : y + self.height, x : x + self.width]


def _as_tuple(value: object) -> object:
    """JSON and YAML have lists only."""
    return tuple(value) if isinstance(value, list) else value


class Preprocess(BaseModel):
    """Settings that make one slice into the network's input; stored in the bundle, the same in training and prediction.

    Attributes:
        size: Side of the square in pixels.
        channels: 3 as in the paper, or 1.
        window: For CT in HU: one named window, or ``three`` for brain, subdural and bone as three planes (with
            ``channels=3``; with one channel ``three`` is the brain window).
        isolate_head: Set what is not head to the lowest value and crop to the head.
        percentiles: For MR and grey pictures: the values that become black and white, in percent of the pixels of the
            head (of the image where the head is not isolated).
        mean: Subtracted after scaling to 0..1.
        std: Divided by afterwards.
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
            raise ValueError(f"percentiles are {self.percentiles}; they are two numbers, 0 <= low < high <= 100")
        return self

    @property
    def planes(self) -> int:
        """Planes that ``pixels`` returns: 3 for three windows in three channels, otherwise 1."""
        return 3 if self.window == "three" and self.channels == 3 else 1

    def __call__(self, image: Image) -> Values:
        """Returns the network's input of one slice, float32 (channels, size, size)."""
        return self.normalise(self.pixels(image))

    def pixels(self, image: Image) -> Grey:
        """Returns what is worth caching: everything but the normalisation.

        Values are mapped linearly, the lower edge of the window to 0 and the upper one to 255 (DICOM PS3.3
        C.11.2.1.3.2, LINEAR_EXACT), turned over for MONOCHROME1, and set to 0 outside the head and where nothing was
        measured.

        Args:
            image: One slice, (H, W); not changed.

        Returns:
            (planes, size, size) uint8.

        Raises:
            InputError: If the image is a volume or has no pixels.
        """
        counted, place = self.isolate(image)
        keep, values = place.cut(counted), _eight_bits(place.cut(image.pixels), image.white)
        ranges = self._ranges(image, values[keep])
        return np.stack([place.resized(_shown(values, keep, *span, inverted=image.inverted)) for span in ranges])

    def isolate(self, image: Image) -> tuple[Mask, Placement]:
        """Returns the pixels that count, (H, W) booleans, and where the network's square lies in the image.

        What counts is the head; where none is isolated or found, what was measured.

        Raises:
            InputError: If the image is a volume or has no pixels.
        """
        head = self._head(image)
        place = self._placement(image, head)
        return head if head is not None and place.head_found else measured(image), place

    def normalise(self, pixels: Grey) -> NDArray[np.float32]:
        """Scales pixels and repeats a single plane to the channels.

        Args:
            pixels: (..., planes, S, S) uint8.

        Returns:
            (..., channels, S, S) float32, ``(pixels / 255 - mean) / std``.
        """
        unit = pixels.astype(np.float32) / np.float32(255)
        values: Values = (unit - np.float32(self.mean)) / np.float32(self.std)
        return values if values.shape[-3] == self.channels else np.repeat(values, self.channels, axis=-3)

    def place(self, image: Image) -> Placement:
        """Returns where the network's square lies in the image."""
        return self._placement(image, self._head(image))

    def head(self, image: Image) -> Mask:
        """Returns the head mask in the network's square, (size, size), also when the head is not isolated."""
        _check_slice(image)
        mask = head_mask(image)
        return self._placement(image, mask if self.isolate_head else None).to_network(mask)

    def digest(self) -> str:
        """Returns the SHA-256 of the settings as canonical JSON, together with the version of this code's results."""
        settings = {"version": VERSION, **self.model_dump(mode="json")}
        return sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")))

    def _head(self, image: Image) -> Mask | None:
        _check_slice(image)
        return head_mask(image) if self.isolate_head else None

    def _placement(self, image: Image, head: Mask | None) -> Placement:
        height, width = image.pixels.shape
        x, y, columns, rows = (0, 0, 0, 0) if head is None else cv2.boundingRect(head.view(np.uint8))
        if not rows:
            found = None if head is None else False
            return Placement((height, width), 0, 0, height, width, self.size, found)
        top, bottom = _extent(y, rows, height)
        left, right = _extent(x, columns, width)
        return Placement((height, width), top, left, bottom - top, right - left, self.size, head_found=True)

    def _ranges(self, image: Image, values: Values | Grey) -> list[tuple[float, float]]:
        """The lowest and the highest value shown, one pair a plane."""
        if image.unit != "HU":
            return [_spread(values, self.percentiles)] * self.planes
        names = THREE_WINDOWS if self.planes == 3 else ("brain" if self.window == "three" else self.window,)
        return [(centre - width / 2, centre + width / 2) for centre, width in (WINDOWS[name] for name in names)]


def _check_slice(image: Image) -> None:
    if image.pixels.ndim != 2 or 0 in image.pixels.shape:
        raise InputError(
            f"{image.source or 'The image'} has the shape {image.pixels.shape}",
            "One slice of (H, W) pixels goes through the preprocessing at a time",
            "Take the slices of a volume with Image.slices()",
        )


def _extent(first: int, length: int, size: int) -> tuple[int, int]:
    """First and one past the last of some rows or columns, widened by the margin and kept in the image."""
    margin = round(MARGIN * length)
    return max(0, first - margin), min(size, first + length + margin)


def _eight_bits(values: Values, white: float | None) -> Values | Grey:
    """The same values as bytes where all are whole numbers from 0 to 255: what follows is then quicker and gives the same."""
    if white != 255:
        return values
    with np.errstate(invalid="ignore"):  # a number that a byte cannot hold comes out as another one
        whole = values.astype(np.uint8)
    return whole if np.array_equal(whole, values) else values


def _spread(values: Values | Grey, percentiles: tuple[float, float]) -> tuple[float, float]:
    """The percentiles; where they are equal (nearly blank image), the extremes."""
    if not values.size:
        return 0.0, 0.0
    if values.dtype == np.uint8:
        low, high = map(float, counted_quantiles(values.astype(np.uint8, copy=False), [part / 100 for part in percentiles]))
    else:
        low, high = map(float, np.percentile(values.astype(np.float64), percentiles))
    return (low, high) if high > low else (float(values.min()), float(values.max()))


def _shown(values: Values | Grey, keep: Mask, low: float, high: float, *, inverted: bool) -> Grey:
    """Maps low..high to 0..255 and clips beyond; 0 where not kept, and everywhere if low and high are equal."""
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    if values.dtype == np.uint8:  # 256 values are mapped once, and each pixel looks its own up
        table = _mapped(np.arange(256, dtype=np.float32), low, high, inverted=inverted)
        return np.asarray(cv2.LUT(values, table), np.uint8) * keep
    return _mapped(np.where(keep, values, np.float32(low)), low, high, inverted=inverted) * keep


def _mapped(values: Values, low: float, high: float, *, inverted: bool) -> Grey:
    with np.errstate(over="ignore"):
        unit = values - np.float32(low)
        unit *= np.float32(min(255 / (high - low), float(np.finfo(np.float32).max)))  # subnormal values: no infinity times 0
    np.rint(np.clip(unit, 0, 255, out=unit), out=unit)
    grey = unit.astype(np.uint8)
    return np.uint8(255) - grey if inverted else grey


def counted_quantiles(values: NDArray[np.uint8], parts: Sequence[float]) -> NDArray[np.float64]:
    """Returns quantiles by linear interpolation.

    Args:
        values: (n,) whole numbers from 0 to 255, at least one.
        parts: Which quantiles, each 0 to 1.

    Returns:
        (len(parts),) float64.
    """
    upto = np.cumsum(np.bincount(values, minlength=256))
    last = values.size - 1
    places = last * np.asarray(parts, np.float64)
    first = np.floor(places).astype(np.intp)
    below, above = np.searchsorted(upto, np.minimum([first, first + 1], last), side="right")
    step, part = above - below, places - first
    found: NDArray[np.float64] = np.where(
        part < 0.5, below + step * part, above - step * (1 - part)
    )  # numpy's own straight line
    return found
