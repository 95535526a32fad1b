"""Copies of all kinds are found among phantoms, and other slices and other patients are left apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from reslink.datasets.near_duplicates import groups


def test_duplicates_of_all_kinds_are_found_and_nothing_else(planted: Any) -> None:
    found = {(pair.first, pair.second) for pair in groups.find_duplicates(planted.thumbnails)}
    hits = [(int(planted.source[copy]), int(copy)) in found for copy in planted.copies]
    true = [planted.source[first] == planted.source[second] for first, second in found]
    assert np.mean(hits) >= 0.98
    assert np.mean(true) >= 0.98


def test_duplicate_groups_are_those_of_the_slices(planted: Any) -> None:
    numbers = np.array(groups.duplicate_groups(planted.thumbnails))
    assert np.mean(numbers[planted.copies] == numbers[planted.source[planted.copies]]) >= 0.98
    assert len(set(numbers[: planted.slices].tolist())) == planted.slices  # neighboring slices are not merged
