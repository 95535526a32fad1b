"""Input views: the whole image, the head only, or everything except the head."""

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
from reslink.experiments.runner.trial import RECIPE_VIEW
from reslink.imaging.preprocess import Preprocess

Gray = NDArray[np.uint8]

VIEWS: Final[dict[str, str]] = {
    RECIPE_VIEW: "preprocessed as in the recipe",
    "whole": "the whole image",
    "isolated": "only the head, cropped",
    "inside": "only the head, not cropped",
    "outside": "everything except the head, which is black",
    "outline": "the outline of the head: white inside, black outside",
}
"""Name and description of each input view."""

MARGIN: Final = 1
"""Cells of the 56×56 head mask by which the mask is dilated, so no edge of the head remains visible."""


def view_preprocess(view: str, preprocess: Preprocess) -> Preprocess:
    """Returns the preprocessing of a view."""
    return preprocess if view == RECIPE_VIEW else preprocess.model_copy(update={"isolate_head": view == "isolated"})


def open_view(
    manifest: Manifest,
    preprocess: Preprocess,
    view: str,
    folder: Path,
    workers: int | None = 0,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    verify: bool = False,
) -> PixelCache:
    """Opens the images of a data set in a view.

    Args:
        manifest: The cases.
        preprocess: Preprocessing of the recipe.
        view: One of ``VIEWS``.
        folder: Folder of decoded images.
        workers: Processes that decode missing images; see :meth:`PixelCache.open`.
        on_progress: Called with the number of decoded cases and the total.
        verify: Whether to hash all files again, also unchanged ones.
    """
    cache = PixelCache.open(manifest, view_preprocess(view, preprocess), folder, workers, on_progress, verify=verify)
    if view not in ("inside", "outside", "outline"):
        return cache
    return replace(cache, pixels=cast("Gray", _MaskedPixels(cache.pixels, cache.heads, view)))


@dataclass(frozen=True, eq=False)
class _MaskedPixels:
    """Pixels of a cache that are masked on access; indexed by rows like the array itself."""

    pixels: Gray
    heads: Gray
    view: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pixels.shape

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Any) -> Gray:
        pixels, heads = np.asarray(self.pixels[rows]), np.asarray(self.heads[rows])
        single = heads.ndim == 2
        masked = mask_pixels(pixels[None] if single else pixels, heads[None] if single else heads, self.view)
        return masked[0] if single else masked


def mask_pixels(pixels: Gray, heads: Gray, view: str) -> Gray:
    """Blacks out the head or everything else.

    An image without a detected head is completely black in ``outside`` and ``inside``: otherwise the view would show the
    brain where the mask failed.

    Args:
        pixels: (B, planes, S, S) uint8 of the whole image.
        heads: (B, 56, 56) uint8, 1 where the head is.
        view: ``inside``, ``outside`` or ``outline``.

    Returns:
        The masked pixels, in the shape of ``pixels``.
    """
    size = pixels.shape[-1]
    has_head = np.asarray(heads.any(axis=(1, 2)), np.bool_)
    if view == "outline":
        return np.ascontiguousarray(np.broadcast_to(_upsample(heads, size)[:, None] * np.uint8(255), pixels.shape))
    if view == "inside":
        return np.asarray(pixels * _upsample(heads, size)[:, None], np.uint8)
    cross = ndimage.generate_binary_structure(2, 2)[None]
    dilated = ndimage.binary_dilation(heads, cross, iterations=MARGIN) | ~has_head[:, None, None]
    return np.asarray(pixels * ~_upsample(dilated, size)[:, None], np.uint8)


def _upsample(cells: NDArray[Any], size: int) -> NDArray[Any]:
    """Returns masks (B, 56, 56) enlarged to (B, size, size) by nearest neighbors."""
    nearest = (np.arange(size) * cells.shape[-1]) // size
    return np.asarray(cells[:, nearest][:, :, nearest])
