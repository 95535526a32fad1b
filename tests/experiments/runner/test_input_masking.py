"""Input views: no head pixel where the head is hidden, and no other pixel where only the head is visible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from reslink.datasets.manifest import Manifest
from reslink.experiments.runner.input_masking import mask_pixels, open_view
from reslink.imaging.preprocess import Preprocess


def pixels_and_heads(size: int = 112) -> tuple[np.ndarray, np.ndarray]:
    heads = np.zeros((2, 56, 56), np.uint8)
    heads[0, 10:40, 12:44] = 1
    return np.full((2, 1, size, size), 200, np.uint8), heads


def test_outside_hides_the_head_and_its_edge() -> None:
    pixels, heads = pixels_and_heads()
    masked = mask_pixels(pixels, heads, "outside")
    cells = ndimage.binary_dilation(heads[0], np.ones((3, 3)))
    assert (masked[0, 0][np.kron(cells, np.ones((2, 2))) > 0] == 0).all()
    assert (masked[0, 0][np.kron(cells, np.ones((2, 2))) == 0] == 200).all()


def test_an_image_without_a_detected_head_is_black() -> None:
    """Otherwise the view would show the brain where the mask failed."""
    pixels, heads = pixels_and_heads()
    assert mask_pixels(pixels, heads, "outside")[1].max() == 0
    assert mask_pixels(pixels, heads, "inside")[1].max() == 0


def test_outline_has_no_gray_value_of_the_image() -> None:
    pixels, heads = pixels_and_heads()
    masked = mask_pixels(pixels, heads, "outline")
    assert np.array_equal(masked, mask_pixels(pixels // 3, heads, "outline"))
    assert set(np.unique(masked[0])) == {0, 255}


def test_a_masked_cache_gives_batches(toy_patients: Manifest, tmp_path: Path) -> None:
    settings = Preprocess(size=64, channels=1)
    whole, outside = (open_view(toy_patients, settings, view, tmp_path) for view in ("whole", "outside"))
    batch = outside.batch([3, 5])
    assert batch.shape == (2, 1, 64, 64)
    assert torch.equal(batch, torch.from_numpy(mask_pixels(whole.pixels[[3, 5]], whole.heads[[3, 5]], "outside")))
    assert (batch <= whole.batch([3, 5])).all()
    assert np.array_equal(outside.pixels[3], batch[0].numpy())
