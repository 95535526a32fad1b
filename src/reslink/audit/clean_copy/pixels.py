"""The pixels of a clean copy: nothing outside the head, no letters anywhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from reslink.audit.burned_in_text import Box, find_text
from reslink.imaging.head_mask import head_mask, measured
from reslink.imaging.image import Image

AIR: Final = -1000.0
"""HU of what is blanked in CT."""

ROUNDS: Final = 3
"""How often what is left of letters is looked for again."""

Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]


@dataclass(frozen=True)
class CleanPixels:
    """The pixels of an image without what does not belong to the head.

    Attributes:
        pixels: (H, W) float32 in the image's unit; equal to the image's where ``changed`` is False.
        changed: Which pixels are new.
        background: The value of what was blanked.
        notes: What was done, in words.
    """

    pixels: Plane
    changed: Mask
    background: float
    notes: tuple[str, ...]


def clean_pixels(image: Image) -> CleanPixels:
    """Blanks what lies outside the head, and fills letters in the head from what surrounds them.

    Blanked is what lies more than about 1 % of the image's side outside the head: there the value becomes air (−1000 HU, black,
    or white in a negative). Where no head is found, only letters are filled. A filled region shows the Gaussian mean of what
    lies around it: nothing of the letters is left, and nothing diagnostic may be read from it.

    Args:
        image: One slice, (H, W), any unit; not changed.

    Returns:
        The pixels and what was done to them.
    """
    head, background = head_mask(image), _background(image)
    pixels = np.where(measured(image), image.pixels, np.float32(background))
    notes: list[str] = []
    if head.any():
        outside = ~_grown(head, max(1, round(max(head.shape) / 100)))
        if (pixels[outside] != background).any():
            notes.append("outside the head blanked")
        pixels[outside] = background
    else:
        notes.append("no head found, so nothing blanked around it")
    pixels = _without_letters(image, pixels, notes)
    return CleanPixels(pixels, np.asarray(pixels != image.pixels), background, tuple(notes))


def _background(image: Image) -> float:
    if image.unit == "HU":
        return AIR
    valid = measured(image)
    low, high = (float(image.pixels[valid].min()), float(image.pixels[valid].max())) if valid.any() else (0.0, 0.0)
    if image.unit == "grey":
        low, high = 0.0, image.white or high
    elif low > 0:
        low = 0.0
    corners = image.pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
    negative = image.inverted or bool((corners > (low + high) / 2).all())
    return high if negative else low


def _grown(mask: Mask, radius: int) -> Mask:
    return np.asarray(ndimage.distance_transform_edt(~mask) <= radius)


def _without_letters(image: Image, pixels: Plane, notes: list[str]) -> Plane:
    found = 0
    for _ in range(ROUNDS):
        boxes = find_text(replace(image, pixels=pixels.copy(), padding=None))
        if not boxes:
            break
        found += len(boxes)
        pixels = _filled(pixels, boxes)
    else:
        notes.append("something that looks like text may be left: look at it")
    if found:
        notes.append("what looked like text was filled from its surroundings")
    return pixels


def _filled(pixels: Plane, boxes: list[Box]) -> Plane:
    """Replaces boxes by the Gaussian mean of what lies around them (normalised convolution, Knutsson and Westin 1993)."""
    hole = np.zeros(pixels.shape, np.bool_)
    for box in boxes:
        box.grown(2).of(hole)[...] = True
    size = max(3.0, max(min(box.height, box.width) for box in boxes) / 2)
    known = ndimage.gaussian_filter((~hole).astype(np.float64), size, mode="nearest")
    mean = ndimage.gaussian_filter(np.where(hole, 0.0, pixels).astype(np.float64), size, mode="nearest")
    values = np.where(known > 1e-6, mean / np.maximum(known, 1e-6), float(pixels[~hole].mean()) if (~hole).any() else 0.0)
    return np.where(hole, np.rint(values), pixels).astype(np.float32)
