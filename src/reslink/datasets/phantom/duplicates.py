"""Copies of a picture as public data sets hold them, to plant in phantoms: turned, re-encoded, resized, cropped, framed."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

Grey = NDArray[np.uint8]
Change = Callable[[Grey, np.random.Generator], Grey]

CUT: Final = 0.1
"""Part of a side that a crop takes at most."""


def turned(pixels: Grey, rng: np.random.Generator) -> Grey:
    """One of the eight mirrorings and rotations."""
    orientation = int(rng.integers(8))
    result = np.rot90(pixels, orientation % 4)
    return np.ascontiguousarray(result[:, ::-1] if orientation >= 4 else result)


def encoded(pixels: Grey, rng: np.random.Generator) -> Grey:
    """JPEG of quality 40 to 95."""
    stream = io.BytesIO()
    Picture.fromarray(pixels).save(stream, "JPEG", quality=int(rng.integers(40, 96)))
    return np.asarray(Picture.open(stream))


def resized(pixels: Grey, rng: np.random.Generator) -> Grey:
    """Half to twice the size."""
    factor = float(2 ** rng.uniform(-1, 1))
    height, width = (max(8, round(side * factor)) for side in pixels.shape)
    return np.asarray(Picture.fromarray(pixels).resize((width, height), Picture.Resampling.BICUBIC))


def shaded(pixels: Grey, rng: np.random.Generator) -> Grey:
    """Another gamma (0.6 to 1.6), contrast (0.7 to 1.3) and brightness (a tenth of white up or down), clipped."""
    unit = (pixels / 255) ** float(1.6 ** rng.uniform(-1, 1))
    return np.clip((unit * rng.uniform(0.7, 1.3) + rng.uniform(-0.1, 0.1)) * 255, 0, 255).round().astype(np.uint8)


def cropped(pixels: Grey, rng: np.random.Generator) -> Grey:
    """Up to a tenth of some sides of the picture, the background around the head cut off before, so that it cuts the head."""
    inside = pixels > 30
    rows, columns = (np.flatnonzero(inside.mean(axis=axis) > 0.03) for axis in (1, 0))
    parts = rng.uniform(0, CUT, 4) * (rng.random(4) < 0.6)
    parts[int(rng.integers(4))] = rng.uniform(0.03, CUT)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    top, bottom = rows[0] + round(parts[0] * height), rows[-1] + 1 - round(parts[1] * height)
    left, right = columns[0] + round(parts[2] * width), columns[-1] + 1 - round(parts[3] * width)
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def trimmed(pixels: Grey, rng: np.random.Generator) -> Grey:
    """Up to a tenth of each side of the picture, mostly background."""
    height, width = pixels.shape
    parts = rng.uniform(0, CUT, 4)
    top, bottom = round(parts[0] * height), height - round(parts[1] * height)
    left, right = round(parts[2] * width), width - round(parts[3] * width)
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def framed(pixels: Grey, rng: np.random.Generator) -> Grey:
    """A black, white or grey border of up to 15 % of the longer side, of another width at each side."""
    widths = rng.integers(0, max(2, round(0.15 * max(pixels.shape))), 4)
    grey = int(rng.choice([0, 0, 255, int(rng.integers(20, 235))]))
    return np.pad(pixels, ((widths[0], widths[1]), (widths[2], widths[3])), constant_values=grey)


def unchanged(pixels: Grey, rng: np.random.Generator) -> Grey:  # noqa: ARG001  (all kinds are called alike)
    """The same pixels."""
    return pixels.copy()


def _one_after_another(*changes: Change) -> Change:
    def change(pixels: Grey, rng: np.random.Generator) -> Grey:
        for single in changes:
            pixels = single(pixels, rng)
        return pixels

    return change


KINDS: Final[dict[str, Change]] = {
    "exact": unchanged,
    "JPEG": encoded,
    "resized": resized,
    "brightness, contrast, gamma": shaded,
    "mirrored, rotated": turned,
    "crop of the picture": trimmed,
    "crop into the head": cropped,
    "border": framed,
    "turned, shaded, resized, JPEG": _one_after_another(turned, shaded, resized, encoded),
    "picture crop, turned, shaded, resized, JPEG": _one_after_another(trimmed, turned, shaded, resized, encoded),
    "head crop, turned, shaded, resized, JPEG": _one_after_another(cropped, turned, shaded, resized, encoded),
    "turned, shaded, resized, border, JPEG": _one_after_another(turned, shaded, resized, framed, encoded),
    "turned, head crop, border, JPEG": _one_after_another(turned, cropped, framed, encoded),
}
"""Kinds of copies by name: what is done to the pixels, with random strength."""
