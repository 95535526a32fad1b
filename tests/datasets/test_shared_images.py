"""Near duplicates between joined data sets, counted."""

from __future__ import annotations

from reslink.datasets.near_duplicates.groups import DuplicatePair
from reslink.datasets.shared_images import shared_images

SETS = ["a", "a", "b", "b", "c"]
PAIRS = [DuplicatePair(*rows, 1.0, 0) for rows in ((0, 1), (0, 2), (0, 3), (1, 2), (3, 4))]


def test_pairs_across_data_sets_are_counted_by_image() -> None:
    assert shared_images(SETS, PAIRS, together=True) == [
        "a and b share images: 2 images of a and 2 of b are near duplicates of each other (3 pairs); they stay in one split",
        "b and c share images: 1 image of b and 1 of c are near duplicates of each other (1 pair); they stay in one split",
    ]
    assert shared_images(SETS, PAIRS[-1:]) == [
        "b and c share images: 1 image of b and 1 of c are near duplicates of each other (1 pair)"
    ]


def test_a_single_data_set_shares_nothing() -> None:
    assert shared_images([""] * 5, PAIRS) == []
