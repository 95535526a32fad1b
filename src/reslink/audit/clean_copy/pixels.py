"""Pixels of a clean copy: nothing outside the head, no letters anywhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from reslink.audit.burned_in_text import TextBox, find_text
from reslink.imaging.head_mask import head_mask, valid_pixels
from reslink.imaging.image import Image

AIR_HU: Final = -1000.0
"""HU of blanked pixels in CT."""

MAX_TEXT_ROUNDS: Final = 3
"""Maximum number of rounds of text detection and filling."""

Mask = NDArray[np.bool_]
Plane = NDArray[np.float32]


@dataclass(frozen=True)
class CleanPixels:
    """Pixels of an image without text and without anything outside the head.

    Attributes:
        pixels: (H, W) float32 in the unit of the image; unchanged where ``changed`` is False.
        changed: Mask of the changed pixels.
        background: Value of the blanked pixels.
        notes: Description of the changes.
    """

    pixels: Plane
    changed: Mask
    background: float
    notes: tuple[str, ...]


def clean_pixels(image: Image) -> CleanPixels:
    """Blanks the pixels outside the head, and fills letters inside the head from their surroundings.

    Pixels outside the head and a margin of about 1 % of the longer side become air (−1000 HU, black, or white in a negative).
    If no head is found, only letters are filled. A filled region shows the Gaussian mean of its surroundings: it keeps no
    trace of the letters, and must not be used for diagnosis.

    Args:
        image: One slice, (H, W), any unit; not changed.

    Returns:
        The pixels and a description of the changes.
    """
    head, background = head_mask(image), _background(image)
    pixels = np.where(valid_pixels(image), image.pixels, np.float32(background))
    notes: list[str] = []
    if head.any():
        outside = ~_dilate(head, max(1, round(max(head.shape) / 100)))
        if (pixels[outside] != background).any():
            notes.append("pixels outside the head were blanked")
        pixels[outside] = background
    else:
        notes.append("no head was found, so nothing was blanked outside it")
    pixels = _remove_letters(image, pixels, notes)
    return CleanPixels(pixels, np.asarray(pixels != image.pixels), background, tuple(notes))


def _background(image: Image) -> float:
    if image.unit == "HU":
        return AIR_HU
    valid = valid_pixels(image)
    low, high = (float(image.pixels[valid].min()), float(image.pixels[valid].max())) if valid.any() else (0.0, 0.0)
    if image.unit == "gray":
        low, high = 0.0, image.white or high
    elif low > 0:
        low = 0.0
    corners = image.pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
    negative = image.inverted or bool((corners > (low + high) / 2).all())
    return high if negative else low


def _dilate(mask: Mask, radius: int) -> Mask:
    return np.asarray(ndimage.distance_transform_edt(~mask) <= radius)


def _remove_letters(image: Image, pixels: Plane, notes: list[str]) -> Plane:
    count = 0
    for _ in range(MAX_TEXT_ROUNDS):
        boxes = find_text(replace(image, pixels=pixels.copy(), padding=None))
        if not boxes:
            break
        count += len(boxes)
        pixels = _fill(pixels, boxes)
    else:
        notes.append("some text may remain: review the image")
    if count:
        notes.append("regions that look like text were filled from their surroundings")
    return pixels


def _fill(pixels: Plane, boxes: list[TextBox]) -> Plane:
    """Replaces boxes by the Gaussian mean of their surroundings (normalized convolution, Knutsson and Westin 1993)."""
    hole = np.zeros(pixels.shape, np.bool_)
    for box in boxes:
        box.expanded(2).crop(hole)[...] = True
    sigma = max(3.0, max(min(box.height, box.width) for box in boxes) / 2)
    weight = ndimage.gaussian_filter((~hole).astype(np.float64), sigma, mode="nearest")
    mean = ndimage.gaussian_filter(np.where(hole, 0.0, pixels).astype(np.float64), sigma, mode="nearest")
    values = np.where(weight > 1e-6, mean / np.maximum(weight, 1e-6), float(pixels[~hole].mean()) if (~hole).any() else 0.0)
    return np.where(hole, np.rint(values), pixels).astype(np.float32)
