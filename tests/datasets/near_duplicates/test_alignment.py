"""The orientation of a pair."""

from __future__ import annotations

from typing import Any

import numpy as np

from reslink.datasets.near_duplicates import groups
from reslink.datasets.near_duplicates.alignment import find_shift, find_shift_and_turn, refine_pose, resample
from reslink.datasets.near_duplicates.features import structure_contrast


def test_the_orientation_maps_the_second_image_to_the_first(planted: Any) -> None:
    slices = planted.thumbnails[:6]
    turned = np.stack([np.rot90(slices[row, :, ::-1], row) for row in range(6)])
    for pair in groups.find_duplicates(np.concatenate([slices, turned])):
        second = np.rot90(turned[pair.second - 6], pair.orientation % 4)
        second = second[:, ::-1] if pair.orientation >= 4 else second
        assert np.array_equal(second, slices[pair.first])


def test_pairs_are_refined_as_each_by_itself(rng: np.random.Generator) -> None:
    fixed, moving = (rng.normal(size=(2, 35, 64, 64)) * (rng.random((2, 35, 64, 64)) > 0.3)).astype(np.float32)
    pose = rng.uniform((-0.3, -12, -12), (0.3, 12, 12), (35, 3)).astype(np.float32)
    together = refine_pose(fixed, moving, pose, 2)
    alone = [refine_pose(fixed[i : i + 1], moving[i : i + 1], pose[i : i + 1], 2) for i in range(35)]
    for values, parts in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_array_equal(values, np.concatenate(parts))


def test_the_weights_are_those_of_linear_interpolation(rng: np.random.Generator) -> None:
    moving = rng.random((3, 64, 64)).astype(np.float32)
    for shift in (-70.0, -63.5, -1.25, 0.0, 0.75, 63.0, 64.0):
        pose = np.array([[0, shift, 0]] * 3, np.float32)
        down = np.maximum(1 - np.abs(np.arange(64)[:, None] + np.float32(shift) - np.arange(64)), 0).astype(np.float32)
        np.testing.assert_allclose(resample(moving, pose), down @ moving, atol=1e-6)


def test_a_half_turn_is_found_as_by_turning_the_plane(planted: Any) -> None:
    planes = structure_contrast(planted.thumbnails[:12])
    fixed, moving = planes[:6], planes[6:].copy()
    moving[::2] = planes[:6:2, ::-1, ::-1]
    log_zoom = np.linspace(-0.2, 0.2, 6).astype(np.float32)
    upright, rotated = find_shift(fixed, moving, log_zoom), find_shift(fixed, moving[:, ::-1, ::-1], log_zoom)
    pose, correlation, turned = find_shift_and_turn(fixed, moving, log_zoom)
    assert turned[::2].all()
    np.testing.assert_array_equal(turned, rotated[1] > upright[1])
    np.testing.assert_allclose(pose, np.where(turned[:, None], rotated[0], upright[0]), atol=1e-5)
    np.testing.assert_allclose(correlation, np.maximum(rotated[1], upright[1]), atol=1e-5)
