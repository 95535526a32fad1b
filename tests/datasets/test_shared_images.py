"""Near duplicates between joined data sets, counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from reslink.datasets.case import Case
from reslink.datasets.manifest import DataSet, Manifest
from reslink.datasets.near_duplicates.groups import DuplicatePair
from reslink.datasets.shared_images import shared_images
from reslink.labels import Labels

CASES = tuple(Case(Path(name), "A", name=name) for name in ("a/1", "a/2", "b/1", "b/2", "c/1"))
JOINED = Manifest(CASES, Labels(("A", "B")), Path(), sets=tuple(DataSet(name, Path(name), True) for name in "abc"))
PAIRS = [DuplicatePair(*rows, 1.0, 0) for rows in ((0, 1), (0, 2), (0, 3), (1, 2), (3, 4))]


def test_pairs_across_data_sets_are_counted_by_image() -> None:
    assert shared_images(JOINED, PAIRS) == [
        "a and b share images: 2 images of a and 2 of b are near duplicates of each other (3 pairs); they stay in one split",
        "b and c share images: 1 image of b and 1 of c are near duplicates of each other (1 pair); they stay in one split",
    ]
    assert shared_images(JOINED, PAIRS[-1:], together=False) == [
        "b and c share images: 1 image of b and 1 of c are near duplicates of each other (1 pair)"
    ]


def test_a_single_data_set_shares_nothing() -> None:
    assert shared_images(replace(JOINED, sets=()), PAIRS) == []
