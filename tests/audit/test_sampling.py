"""Samples of cases: stratified by class, from as many groups as possible, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from reslink.audit import sampling
from reslink.audit.sampling import describe_sample, sample_cases


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MAX_CASES", 100)
    monkeypatch.setattr(sampling, "MIN_CASES_OF_CLASS", 10)


def test_few_cases_are_all_used() -> None:
    assert sample_cases(np.zeros(100, np.int64), [""] * 100, 0).tolist() == list(range(100))


def test_each_class_has_its_share_and_rare_ones_more() -> None:
    targets = np.repeat([0, 1, 2], [700, 280, 20])
    sample = sample_cases(targets, [str(i) for i in range(1000)], 0)
    assert np.bincount(targets[sample]).tolist() == [70, 28, 10]
    assert np.all(np.diff(sample) > 0)


def test_a_sample_has_as_many_groups_as_possible() -> None:
    """A class of few large groups, as slices of patients, and one of many small ones."""
    targets, groups = np.repeat([0, 1], [600, 400]), np.concatenate([np.arange(600) // 40, 100 + np.arange(400) // 2])
    sample = sample_cases(targets, groups.astype(str).tolist(), 0)
    large = np.bincount(groups[sample[targets[sample] == 0]], minlength=15)
    small = np.bincount(groups[sample[targets[sample] == 1]] - 100, minlength=200)
    assert (large.sum(), set(large.tolist())) == (60, {4})
    assert (small.sum(), small.max()) == (40, 1)


def test_the_seed_decides() -> None:
    targets, groups = np.zeros(1000, np.int64), [str(i // 3) for i in range(1000)]
    first, again, other = (sample_cases(targets, groups, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_the_size_is_stated() -> None:
    assert describe_sample(20_000, 1_000_000) == "on a sample of 20,000 of 1,000,000 images"
