"""Near duplicates as they occur in public data sets: rotated, re-encoded, resized, cropped or framed phantom images."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

GrayImage = NDArray[np.uint8]
Change = Callable[[GrayImage, np.random.Generator], GrayImage]

MAX_CROP: Final = 0.1
"""Largest share of a side that a crop removes."""


def reorient(pixels: GrayImage, rng: np.random.Generator) -> GrayImage:
    """Applies one of the eight rotations and flips."""
    orientation = int(rng.integers(8))
    result = np.rot90(pixels, orientation % 4)
    return np.ascontiguousarray(result[:, ::-1] if orientation >= 4 else result)


def compress_jpeg(pixels: GrayImage, rng: np.random.Generator) -> GrayImage:
    """Compresses as JPEG of quality 40 to 95."""
    stream = io.BytesIO()
    Picture.fromarray(pixels).save(stream, "JPEG", quality=int(rng.integers(40, 96)))
    return np.asarray(Picture.open(stream))


def resize(pixels: GrayImage, rng: np.random.Generator) -> GrayImage:
    """Resizes by a factor of 0.5 to 2."""
    factor = float(2 ** rng.uniform(-1, 1))
    height, width = (max(8, round(side * factor)) for side in pixels.shape)
    return np.asarray(Picture.fromarray(pixels).resize((width, height), Picture.Resampling.BICUBIC))


def change_shading(pixels: GrayImage, rng: np.random.Generator) -> GrayImage:
    """Changes gamma (0.6 to 1.6), contrast (0.7 to 1.3) and brightness (up to 10 % of white), and clips."""
    unit = (pixels / 255) ** float(1.6 ** rng.uniform(-1, 1))
    return np.clip((unit * rng.uniform(0.7, 1.3) + rng.uniform(-0.1, 0.1)) * 255, 0, 255).round().astype(np.uint8)


def crop_head(pixels: GrayImage, rng: np.random.Generator) -> GrayImage:
    """Crops to the head, then removes up to 10 % at some sides, so that the head is cropped."""
    inside = pixels > 30
    rows, columns = (np.flatnonzero(inside.mean(axis=axis) > 0.03) for axis in (1, 0))
    parts = rng.uniform(0, MAX_CROP, 4) * (rng.random(4) < 0.6)
    parts[int(rng.integers(4))] = rng.uniform(0.03, MAX_CROP)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    top, bottom = rows[0] + round(parts[0] * height), rows[-1] + 1 - round(parts[1] * height)
    left, right = columns[0] + round(parts[2] * width), columns[-1] + 1 - round(parts[3] * width)
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def crop_margins(pixels: GrayImage, rng: np.random.Generator) -> GrayImage:
    """Removes up to 10 % at each side of the image, mostly background."""
    height, width = pixels.shape
    parts = rng.uniform(0, MAX_CROP, 4)
    top, bottom = round(parts[0] * height), height - round(parts[1] * height)
    left, right = round(parts[2] * width), width - round(parts[3] * width)
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def add_border(pixels: GrayImage, rng: np.random.Generator) -> GrayImage:
    """Adds a black, white or gray border of up to 15 % of the longer side, with a different width at each side."""
    widths = rng.integers(0, max(2, round(0.15 * max(pixels.shape))), 4)
    gray = int(rng.choice([0, 0, 255, int(rng.integers(20, 235))]))
    return np.pad(pixels, ((widths[0], widths[1]), (widths[2], widths[3])), constant_values=gray)


def copy_exactly(pixels: GrayImage, rng: np.random.Generator) -> GrayImage:  # noqa: ARG001  (all kinds have the same signature)
    """Returns a copy with equal pixels."""
    return pixels.copy()


def _chain(*changes: Change) -> Change:
    def change(pixels: GrayImage, rng: np.random.Generator) -> GrayImage:
        for single in changes:
            pixels = single(pixels, rng)
        return pixels

    return change


DUPLICATE_KINDS: Final[dict[str, Change]] = {
    "exact": copy_exactly,
    "JPEG": compress_jpeg,
    "resized": resize,
    "brightness, contrast, gamma": change_shading,
    "mirrored, rotated": reorient,
    "crop of the picture": crop_margins,
    "crop into the head": crop_head,
    "border": add_border,
    "turned, shaded, resized, JPEG": _chain(reorient, change_shading, resize, compress_jpeg),
    "picture crop, turned, shaded, resized, JPEG": _chain(crop_margins, reorient, change_shading, resize, compress_jpeg),
    "head crop, turned, shaded, resized, JPEG": _chain(crop_head, reorient, change_shading, resize, compress_jpeg),
    "turned, shaded, resized, border, JPEG": _chain(reorient, change_shading, resize, add_border, compress_jpeg),
    "turned, head crop, border, JPEG": _chain(reorient, crop_head, add_border, compress_jpeg),
}
"""Kinds of near duplicates by name: functions of pixels and a random generator."""
