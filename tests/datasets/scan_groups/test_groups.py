"""Scan groups of phantoms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tests.datasets.scan_groups.conftest import Scans

from reslink.datasets.near_duplicates.groups import duplicate_groups
from reslink.datasets.scan_groups.groups import THRESHOLD, link_pairs, scan_groups
from reslink.datasets.scan_groups.model import pair_model
from reslink.datasets.scan_groups.pairs import CandidatePairs, find_pairs


def precision_and_recall(groups: list[int], scans: Scans) -> tuple[float, float]:
    """Returns both over all pairs of images."""
    first, second = np.triu_indices(len(groups), 1)
    together, same = np.array(groups)[first] == np.array(groups)[second], scans.patients[first] == scans.patients[second]
    return float(same[together].mean()) if together.any() else 1.0, float(together[same].mean())


def test_scans_of_phantoms_are_recognized_without_names(scans: Scans) -> None:
    """Few are: the four slices of a phantom are far apart, and less alike than those of a real scan."""
    precision, recall = precision_and_recall(scan_groups(scans.signatures), scans)
    assert precision > 0.95
    assert recall > 0.1
    assert precision_and_recall(duplicate_groups(scans.thumbnails), scans)[1] < 0.05


def test_a_model_without_the_pictures_finds_no_scan(scans: Scans) -> None:
    """The planted fault: similarities that belong to other pairs."""
    pairs = find_pairs(scans.signatures)
    shuffled = replace(pairs, features=np.random.default_rng(0).permutation(pairs.features))
    log_odds = pair_model().log_odds(shuffled.features)
    precision, recall = precision_and_recall(link_pairs(len(scans.images), shuffled, log_odds, THRESHOLD), scans)
    assert precision < 0.6
    assert recall < 0.2


def test_near_duplicates_count_as_one_picture() -> None:
    """Images 0 and 1 are one scan; 2 and 3 are their mirrored copies, which resemble only each other."""
    pairs = CandidatePairs(np.array([0, 2, 4]), np.array([1, 3, 5]), np.zeros((3, 1), np.float32))
    log_odds = np.full(3, 4.0)
    assert link_pairs(6, pairs, log_odds, THRESHOLD) == [0, 0, 1, 1, 2, 2]
    assert link_pairs(6, pairs, log_odds, THRESHOLD, np.array([0, 1, 0, 1, 2, 3])) == [0, 0, 0, 0, 1, 1]


def test_neighbors_join_the_slices_of_a_scan_and_one_similar_pair_does_not_join_two_scans() -> None:
    """Two planted scans of ten slices: neighbors up to two apart are similar, other pairs are no candidates."""
    near = [(i, i + d) for i in range(20) for d in (1, 2) if (i % 10) + d < 10]
    rows = np.array([*near, (9, 10)])
    pairs = CandidatePairs(rows[:, 0], rows[:, 1], np.zeros((len(rows), 1), np.float32))
    groups = link_pairs(20, pairs, np.array([6.0] * len(near) + [5.0]), THRESHOLD)
    assert groups == [0] * 10 + [1] * 10
    unlike = link_pairs(20, pairs, np.array([-1.0] * len(near) + [5.0]), THRESHOLD)
    assert len(set(unlike)) == 19
