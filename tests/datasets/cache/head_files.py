"""Images of heads, and a cache of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from reslink.datasets.cache.pixel_cache import PixelCache
from reslink.datasets.manifest import Manifest
from reslink.imaging.preprocess import Preprocess

SMALL = Preprocess(size=64)


def head(rng: np.random.Generator, side: int = 80) -> NDArray[np.uint8]:
    """A disc with a bright rim: enough of a head for the head mask."""
    y, x = np.mgrid[:side, :side] - side / 2
    radius = np.hypot(y / 1.1, x)
    gray = np.where(radius < side * 0.36, 100 + rng.normal(0, 12, (side, side)), 0)
    return np.where((radius > side * 0.32) & (radius < side * 0.36), 255, gray).clip(0, 255).astype(np.uint8)


def save(array: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(array).save(path)


def open_cache(data: Path, folder: str = "cache", **options: object) -> PixelCache:
    return PixelCache.open(Manifest.open(data), SMALL, data.parent / folder, **options)  # type: ignore[arg-type]
