"""Scan groups of phantoms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tests.datasets.scan_groups.conftest import Scans

from reslink.datasets.near_duplicates.groups import duplicate_groups
from reslink.datasets.scan_groups.groups import THRESHOLD, link_pairs, scan_groups
from reslink.datasets.scan_groups.model import PairModel, pair_model
from reslink.datasets.scan_groups.pairs import CandidatePairs, find_pairs


def precision_and_recall(groups: list[int], scans: Scans) -> tuple[float, float]:
    """Returns both over all pairs of images."""
    first, second = np.triu_indices(len(groups), 1)
    together, same = np.array(groups)[first] == np.array(groups)[second], scans.patients[first] == scans.patients[second]
    return float(same[together].mean()) if together.any() else 1.0, float(together[same].mean())


def test_scans_of_phantoms_are_recognized_without_names(scans: Scans) -> None:
    precision, recall = precision_and_recall(scan_groups(scans.signatures), scans)
    assert precision > 0.95
    assert recall > 0.3
    assert precision_and_recall(duplicate_groups(scans.thumbnails), scans)[1] < 0.05


def test_a_model_without_the_pictures_finds_no_scan(scans: Scans) -> None:
    """The planted fault: similarities that belong to other pairs."""
    pairs = find_pairs(scans.signatures)
    shuffled = replace(pairs, features=np.random.default_rng(0).permutation(pairs.features))
    precision, recall = precision_and_recall(link_pairs(len(scans.images), shuffled, pair_model(), THRESHOLD), scans)
    assert precision < 0.6
    assert recall < 0.2


def test_near_duplicates_count_as_one_picture() -> None:
    """Images 0 and 1 are one scan; 2 and 3 are their mirrored copies, which resemble only each other."""
    model = PairModel(np.zeros(1), np.ones(1), np.ones((1, 1)), np.zeros(1), np.ones(1), 0.0)
    pairs = CandidatePairs(np.array([0, 2, 4]), np.array([1, 3, 5]), np.full((3, 1), 4.0, np.float32))
    assert link_pairs(6, pairs, model, THRESHOLD) == [0, 0, 1, 1, 2, 2]
    assert link_pairs(6, pairs, model, THRESHOLD, np.array([0, 1, 0, 1, 2, 3])) == [0, 0, 0, 0, 1, 1]
