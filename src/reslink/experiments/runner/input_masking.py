"""What of an image a network is shown: all of it, the head, or what is not head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.experiments.runner.run_spec import PLAIN
from reslink.imaging.preprocess import Preprocess

Grey = NDArray[np.uint8]

LOOKS: Final[dict[str, str]] = {
    PLAIN: "as the recipe says",
    "whole": "the whole image",
    "isolated": "the head alone, cropped to it",
    "inside": "the head alone, in its place",
    "outside": "what lies outside the head, the head blacked out",
    "outline": "the outline of the head: white inside, black outside",
}
"""Name of a look, and what it shows."""

MARGIN: Final = 1
"""Cells of the 56×56 head mask by which the head is widened before it is blacked out, so that no rim of it stays."""


def preprocess_of(look: str, preprocess: Preprocess) -> Preprocess:
    """Returns the settings that decode the images of a look."""
    return preprocess if look == PLAIN else preprocess.model_copy(update={"isolate_head": look == "isolated"})


def open_look(
    manifest: Manifest,
    preprocess: Preprocess,
    look: str,
    folder: Path,
    workers: int | None = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PixelCache:
    """Opens the images of a data set under a look.

    Args:
        manifest: The cases.
        preprocess: Settings of the recipe.
        look: One of ``LOOKS``.
        folder: Where decoded images are kept.
        workers: Processes that decode what is not decoded yet; see :meth:`PixelCache.open`.
        progress: Called with the number of cases done and their total.
    """
    cache = PixelCache.open(manifest, preprocess_of(look, preprocess), folder, workers, progress)
    if look not in ("inside", "outside", "outline"):
        return cache
    return replace(cache, pixels=cast("Grey", _Masked(cache.pixels, cache.heads, look)))


@dataclass(frozen=True, eq=False)
class _Masked:
    """Pixels of a cache that are masked when they are taken; indexed with rows like the array itself."""

    pixels: Grey
    heads: Grey
    look: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pixels.shape

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Any) -> Grey:
        pixels, heads = np.asarray(self.pixels[rows]), np.asarray(self.heads[rows])
        single = heads.ndim == 2
        shown = masked(pixels[None] if single else pixels, heads[None] if single else heads, self.look)
        return shown[0] if single else shown


def masked(pixels: Grey, heads: Grey, look: str) -> Grey:
    """Blacks out the head or what lies outside it.

    An image in which no head was found is black throughout under ``outside`` and ``inside``, so that no brain is shown
    where none was meant to be.

    Args:
        pixels: (B, planes, S, S) uint8 of the whole image.
        heads: (B, 56, 56) uint8, 1 where the head is.
        look: ``inside``, ``outside`` or ``outline``.

    Returns:
        Of the shape of ``pixels``.
    """
    size = pixels.shape[-1]
    found = np.asarray(heads.any(axis=(1, 2)), np.bool_)
    if look == "outline":
        return np.ascontiguousarray(np.broadcast_to(_enlarged(heads, size)[:, None] * np.uint8(255), pixels.shape))
    if look == "inside":
        return np.asarray(pixels * _enlarged(heads, size)[:, None], np.uint8)
    cross = ndimage.generate_binary_structure(2, 2)[None]
    wide = ndimage.binary_dilation(heads, cross, iterations=MARGIN) | ~found[:, None, None]
    return np.asarray(pixels * ~_enlarged(wide, size)[:, None], np.uint8)


def _enlarged(cells: NDArray[Any], size: int) -> NDArray[Any]:
    """Masks (B, 56, 56) at the nearest pixels of (B, size, size)."""
    at = (np.arange(size) * cells.shape[-1]) // size
    return np.asarray(cells[:, at][:, :, at])
