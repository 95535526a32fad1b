"""Lesion masks: brings one into the orientation of its image, and encodes one."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from reslink.imaging.image import Image


def aligned_mask(mask: Image, image: Image) -> Image:
    """Returns a mask with the rows and columns of its image as :func:`~reslink.imaging.reading.read_image` returns them.

    A mask that states no orientation (PNG, NPY) was drawn on the stored pixels of its image and is turned like them. If only
    the mask states one, it is turned back to its stored pixels.

    Args:
        mask: As read; (H, W).
        image: Its image, as read.
    """
    if mask.orientation is None and image.orientation is not None:
        return replace(mask, pixels=image.orientation.to_view(mask.pixels), orientation=image.orientation)
    if mask.orientation is not None and image.orientation is None:
        return replace(mask, pixels=mask.orientation.to_stored(mask.pixels), orientation=None)
    return mask


def encode_mask(pixels: NDArray[np.float32]) -> bytes:
    """Encodes a lesion mask as PNG with values 0 and 255."""
    stream = io.BytesIO()
    Pillow.fromarray((pixels != 0).astype(np.uint8) * np.uint8(255)).save(stream, "PNG")
    return stream.getvalue()
