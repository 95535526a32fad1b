"""The orientation of a pair."""

from __future__ import annotations

from typing import Any

import numpy as np

from reslink.datasets.near_duplicates import groups


def test_the_orientation_maps_the_second_image_to_the_first(planted: Any) -> None:
    slices = planted.thumbnails[:6]
    turned = np.stack([np.rot90(slices[row, :, ::-1], row) for row in range(6)])
    for pair in groups.find_duplicates(np.concatenate([slices, turned])):
        second = np.rot90(turned[pair.second - 6], pair.orientation % 4)
        second = second[:, ::-1] if pair.orientation >= 4 else second
        assert np.array_equal(second, slices[pair.first])
