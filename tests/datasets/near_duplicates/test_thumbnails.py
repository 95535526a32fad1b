"""Thumbnails keep their bits: caches and bundles store them, or fingerprints of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy import ndimage

from reslink.datasets.near_duplicates import thumbnails
from reslink.imaging.head_mask import WORKING_SIDE
from reslink.imaging.image import Image

Plane = NDArray[np.float32]


def frame_rows(unit: Plane) -> int:
    """The rows of a frame at the first edge, computed row by row."""
    levels = []
    for row in unit:
        if np.std(row) >= thumbnails.UNIFORM_DEVIATION or abs(np.median(row) - np.median(unit[0])) > thumbnails.FRAME_STEP / 2:
            break
        levels.append(np.median(row))
    rows = len(levels) if len(levels) < len(unit) else 0
    after = [abs(np.median(row) - np.median(unit[0])) for row in unit[rows : rows + 3]]
    return rows if rows and max(after) > thumbnails.FRAME_STEP else 0


def with_frame(rng: np.random.Generator, rows: int, level: float, noise: float) -> Plane:
    unit = rng.random((60, 80)).astype(np.float32)
    unit[:rows] = level + rng.uniform(-noise, noise, (rows, 80))
    return unit


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 5, 17, 59, 60])
@pytest.mark.parametrize("noise", [0, 0.04])
def test_frames_have_the_width_that_each_row_by_itself_gives(rng: np.random.Generator, rows: int, noise: float) -> None:
    for level in (0, 0.47, 0.9):
        unit = with_frame(rng, rows, level, noise)
        assert thumbnails._frame_widths(unit) == (frame_rows(unit), frame_rows(unit[::-1]))
        assert thumbnails._frame_widths(unit[::-1].T[:, :50].T) == (0, 0) or rows >= 10


def test_a_frame_is_found_at_both_edges(rng: np.random.Generator) -> None:
    unit = with_frame(rng, 4, 0.95, 0.01)
    unit[-7:] = 0.02
    assert thumbnails._frame_widths(unit) == (4, 7) == (frame_rows(unit), frame_rows(unit[::-1]))


@pytest.mark.parametrize("highest", [255, 65535])
def test_means_of_neighbors_are_those_of_scipy_bit_for_bit(rng: np.random.Generator, highest: int) -> None:
    plane = rng.integers(0, highest, (128, 97)).astype(np.float32) / np.float32(4)
    np.testing.assert_array_equal(thumbnails._mean_of_neighbors(plane), ndimage.uniform_filter(plane, 3))


def foreground(values: Plane) -> NDArray[np.bool_]:
    """The largest part of the foreground by SciPy and Pillow."""
    scale = WORKING_SIDE / max(values.shape)
    size = max(1, round(values.shape[1] * scale)), max(1, round(values.shape[0] * scale))
    smooth = ndimage.uniform_filter(np.asarray(Picture.fromarray(values).resize(size, Picture.Resampling.BOX)), 3)
    low, high = smooth.min(), smooth.max()
    typical = float(np.median(smooth[smooth > low + 0.1 * (high - low)]))
    bright = np.pad(smooth > low + 0.27 * (typical - low), 4)
    closed = ndimage.binary_erosion(ndimage.binary_dilation(bright, iterations=3), iterations=3)
    filled = ndimage.binary_fill_holes(closed)
    solid = ndimage.binary_dilation(ndimage.binary_erosion(filled, iterations=4), iterations=4)[4:-4, 4:-4]
    components, count = ndimage.label(solid)
    return components == 1 + np.argmax(ndimage.sum_labels(solid, components, np.arange(1, count + 1)))


@pytest.mark.parametrize("shape", [(256, 256), (512, 512), (300, 260), (512, 384), (1024, 1024)])
@pytest.mark.parametrize("white", [255, 65535])
def test_the_foreground_is_that_of_scipy_and_pillow(rng: np.random.Generator, shape: tuple[int, int], white: int) -> None:
    blobs: Any = ndimage.gaussian_filter(rng.random(shape), shape[0] / 20)
    values = np.rint(np.clip((blobs - blobs.mean()) / blobs.std() / 3, 0, 1) * white).astype(np.float32)
    np.testing.assert_array_equal(thumbnails._small_foreground(Image(values, "gray", white=white)), foreground(values))
