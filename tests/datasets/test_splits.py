"""Groups stay whole, classes stay balanced, the same seed gives the same split."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reslink.datasets.case import SPLITS, Case, Split
from reslink.datasets.manifest import DataSet, Manifest
from reslink.datasets.splits import assign_folds, assign_folds_and_holdout, assign_splits
from reslink.errors import CheckFailedError, UsageError
from reslink.labels import Labels


def data_set(
    labels: Sequence[int], splits: Sequence[Split | None] | None = None, patients: Sequence[str] | None = None
) -> Manifest:
    names = [f"c{k}" for k in range(max(2, max(labels) + 1))]
    cases = tuple(
        Case(
            Path(f"/data/{i:04}"),
            names[label],
            name=f"{i:04}",
            split=splits[i] if splits else None,
            patient_id=patients[i] if patients else None,
        )
        for i, label in enumerate(labels)
    )
    return Manifest(cases, Labels(tuple(names)), Path("/data"))


def sides_of(groups: Sequence[str], split: Sequence[object]) -> dict[str, set[object]]:
    found: dict[str, set[object]] = defaultdict(set)
    for group, side in zip(groups, split, strict=True):
        found[group].add(side)
    return found


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[list[int], list[str]]:
    classes = draw(st.integers(2, 4))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=6, max_size=80))
    groups = draw(st.lists(st.integers(0, len(labels)), min_size=len(labels), max_size=len(labels)))
    return labels, [f"g{group}" for group in groups]


def possible(labels: Sequence[int], groups: Sequence[str], n_sides: int) -> bool:
    """Whether any division puts each class on each side, by trying them all."""
    held: dict[str, set[int]] = defaultdict(set)
    for label, group in zip(labels, groups, strict=True):
        held[group].add(label)
    wanted = n_sides * max(2, max(labels) + 1)
    return any(
        len({(side, label) for side, inside in zip(sides, held.values(), strict=True) for label in inside}) == wanted
        for sides in itertools.product(range(n_sides), repeat=len(held))
    )


@settings(deadline=None, max_examples=150)
@given(cohorts(), st.integers(0, 3))
def test_properties(cohort: tuple[list[int], list[str]], seed: int) -> None:
    labels, groups = cohort
    manifest = data_set(labels)
    try:
        split = assign_splits(manifest, groups, seed=seed)
    except UsageError:
        held = {(label, group) for label, group in zip(labels, groups, strict=True)}
        few = min(Counter(label for label, _ in held).get(k, 0) for k in range(len(manifest.labels)))
        assert few < 3 or len(set(groups)) < 9
        return
    assert len(split) == len(labels)
    assert all(len(sides) == 1 for sides in sides_of(groups, split).values())
    assert {(side, label) for side, label in zip(split, labels, strict=True)} == set(
        itertools.product(SPLITS, range(len(manifest.labels)))
    )
    assert assign_splits(manifest, groups, seed=seed) == split
    order = list(range(len(labels)))
    random.Random(seed).shuffle(order)
    renamed = [f"other {groups[i]}" for i in order]
    assert assign_splits(manifest.subset(order), renamed, seed=seed) == [split[i] for i in order]


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), min_size=6, max_size=12))
@example([(0, 0), (0, 2), (0, 2), (0, 4), (1, 0), (1, 1), (1, 3), (2, 0), (2, 2), (2, 3)])
def test_refuses_only_what_is_impossible(pairs: list[tuple[int, int]]) -> None:
    labels, groups = [label for label, _ in pairs], [str(group) for _, group in pairs]
    if possible(labels, groups, 3):
        split = assign_splits(data_set(labels), groups)
        assert len(set(zip(split, labels, strict=True))) == 3 * max(2, max(labels) + 1)
    else:
        with pytest.raises(UsageError, match=r"needs at least 3 groups|cannot be divided"):
            assign_splits(data_set(labels), groups)


def test_class_shares_are_those_of_the_fractions(rng: np.random.Generator) -> None:
    labels = [int(label) for label in rng.choice(3, 2000, p=[0.7, 0.25, 0.05])]
    groups = [str(group) for group in rng.integers(0, 800, 2000)]
    split = assign_splits(data_set(labels), groups, (0.6, 0.3, 0.1))
    for label in range(3):
        inside = Counter(side for side, k in zip(split, labels, strict=True) if k == label)
        for side, share in zip(SPLITS, (0.6, 0.3, 0.1), strict=True):
            assert inside[side] / inside.total() == pytest.approx(share, abs=0.02)


def test_seeds_give_different_splits(rng: np.random.Generator) -> None:
    labels = [int(label) for label in rng.integers(0, 2, 400)]
    groups = [str(int(group)) for group in rng.exponential(15, 400)]
    assert assign_splits(data_set(labels), groups, seed=1) != assign_splits(data_set(labels), groups, seed=2)


def test_one_dominating_group_goes_to_train() -> None:
    labels = [0, 1] * 50
    groups = ["giant"] * 80 + [f"g{i}" for i in range(20)]
    split = assign_splits(data_set(labels), groups)
    assert split[0] == "train"
    assert set(split) == set(SPLITS)


def test_a_split_without_a_share_stays_empty() -> None:
    split = assign_splits(data_set([0, 1] * 10), [str(i) for i in range(20)], (0.8, 0.2, 0.0))
    assert Counter(split) == {"train": 16, "validation": 4}


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1), (0.7, 0.3), (math.nan,) * 3])
def test_fractions_refused(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match="The fractions are"):
        assign_splits(data_set([0, 1] * 10), [str(i) for i in range(20)], fractions)


def test_too_few_groups_names_the_class() -> None:
    with pytest.raises(
        UsageError, match=r"class 'c1' has 2 independent groups .* [Ff]or train, validation and test .* at least 3"
    ):
        assign_splits(data_set([0] * 10 + [1] * 10), [*map(str, range(10)), *"ababababab"])


def test_too_many_folds_say_how_many_the_rarest_class_allows() -> None:
    cases, groups = data_set([0] * 9 + [1] * 5), [str(i) for i in range(14)]
    with pytest.raises(UsageError, match=r"class 'c0' has 9 .* Use at most 5 folds\. Or add cases of 'c0'"):
        assign_folds(cases, groups, 10)
    with pytest.raises(UsageError, match=r"class 'c1' has 5 .* Use at most 4 folds\. Or add cases of 'c1'"):
        assign_folds_and_holdout(cases, groups, 5, 0.2)
    with pytest.raises(UsageError, match=r"near duplicates of an image, count as one group\. Add cases of 'c1'"):
        assign_folds(data_set([0] * 9 + [1] * 2), groups[:11], 3)


def test_groups_of_another_manifest() -> None:
    with pytest.raises(UsageError, match="3 groups were given for 4 cases"):
        assign_splits(data_set([0, 1, 0, 1]), ["a", "b", "c"])


class TestGiven:
    labels = (0, 1) * 12
    groups = tuple(str(i) for i in range(24))

    def test_kept_as_it_is(self) -> None:
        given_split: list[Split] = [SPLITS[i % 3] for i in range(24)]
        assert assign_splits(data_set([0, 0, 0, 1, 1, 1] * 4, given_split), self.groups) == given_split

    def test_validation_is_drawn_from_train(self) -> None:
        given_split: list[Split | None] = ["test" if i >= 16 else "train" for i in range(24)]
        groups = [str(i // 2) for i in range(24)]
        split = assign_splits(data_set(self.labels, given_split), groups, (0.5, 0.25, 0.25))
        assert split[16:] == ["test"] * 8
        assert Counter(split[:16]) == {"train": 10, "validation": 6} or Counter(split[:16]) == {
            "train": 12,
            "validation": 4,
        }
        assert all(len(sides) == 1 for sides in sides_of(groups, split).values())

    def test_some_rows_only(self) -> None:
        with pytest.raises(UsageError, match="23 of 24 cases have no split"):
            assign_splits(data_set(self.labels, ["train", *[None] * 23]), self.groups)

    def test_no_training_case_of_a_class(self) -> None:
        given_split: list[Split] = ["train", "test"] * 12
        with pytest.raises(UsageError, match="no training case of 'c1'"):
            assign_splits(data_set(self.labels, given_split), self.groups)

    def test_a_patient_in_two_splits_is_named(self) -> None:
        given_split: list[Split] = ["train"] * 12 + ["validation"] * 6 + ["test"] * 6
        patients = [f"p{i}" for i in range(23)] + ["p3"]
        manifest = data_set(self.labels, given_split, patients)
        with pytest.raises(CheckFailedError, match=r"A patient appears in two parts .*: 0003 in train, 0023 in test"):
            assign_splits(manifest, self.groups)
        assert assign_splits(manifest, self.groups, allow_leakage=True) == given_split

    def test_near_duplicates_in_two_splits_are_named(self) -> None:
        given_split: list[Split] = ["train"] * 12 + ["validation"] * 6 + ["test"] * 6
        with pytest.raises(CheckFailedError, match=r"near duplicates appears in two parts .*: 0003 in train, 0023 in test"):
            assign_splits(data_set(self.labels, given_split), [*self.groups[:23], "3"])


class TestGivenByOneOfSeveral:
    """Data sets that were joined, of which only some state a split."""

    GIVEN: tuple[Split | None, ...] = (*("train",) * 6, *("test",) * 4, *(None,) * 40)

    def joined(self, labels: Sequence[int], splits: Sequence[Split | None]) -> Manifest:
        manifest = data_set(labels, splits)
        cases = tuple(
            replace(case, name=f"{'with' if i < 10 else 'without'}/{case.name}") for i, case in enumerate(manifest.cases)
        )
        return replace(manifest, cases=cases, sets=tuple(DataSet(name, Path(name), True) for name in ("with", "without")))

    def test_it_is_kept_and_the_rest_is_drawn(self) -> None:
        manifest = self.joined([0, 1] * 25, self.GIVEN)
        groups = [f"g{i}" for i in range(50)]
        split = assign_splits(manifest, groups, (0.5, 0.25, 0.25), 0)
        assert split[6:10] == ["test"] * 4
        assert set(split[:6]) == {"train", "validation"}, "the missing split is drawn from the training cases"
        assert Counter(split[10:]) == {"train": 20, "validation": 10, "test": 10}

    def test_near_duplicates_follow_the_stated_split(self) -> None:
        splits = (*("train",) * 6, *("validation",) * 2, *("test",) * 2, *(None,) * 40)
        manifest = self.joined([0, 1] * 25, splits)
        groups = [f"g{i}" for i in range(40)] + [f"g{i}" for i in range(10)]
        drawn = assign_splits(manifest, groups, (0.5, 0.25, 0.25), 0)
        assert drawn[:10] == list(splits[:10])
        assert drawn[40:] == list(splits[:10])
        similar = [f"g{i % 10}" for i in range(50)]
        drawn = assign_splits(manifest, groups[:40] + [f"h{i}" for i in range(10)], (0.5, 0.25, 0.25), 0, drawn_groups=similar)
        assert drawn == list(splits[:10]) * 5

    def test_a_near_duplicate_follows_its_image_and_not_a_similar_one_of_another_split(self) -> None:
        splits = (*("train",) * 6, *("validation",) * 2, *("test",) * 2, *(None,) * 40)
        manifest = self.joined([0, 1] * 25, splits)
        strict = [f"g{i}" for i in range(49)] + ["g9"]
        similar = ["g0" if i in (0, 9, 49) else f"g{i}" for i in range(50)]
        drawn = assign_splits(manifest, strict, (0.5, 0.25, 0.25), 0, drawn_groups=similar)
        assert drawn[0] == "train"
        assert drawn[49] == drawn[9] == "test"

    def test_classes_that_only_one_of_them_has(self) -> None:
        manifest = self.joined([0, 1] * 5 + [2, 3] * 20, self.GIVEN)
        split = assign_splits(manifest, [f"g{i}" for i in range(50)], (0.5, 0.25, 0.25), 0)
        assert Counter(split[10:]) == {"train": 20, "validation": 10, "test": 10}

    def test_few_groups_are_trained_on(self) -> None:
        manifest = self.joined([0, 1] * 25, self.GIVEN)
        groups = [f"g{i}" for i in range(10)] + ["one", "two"] * 20
        assert assign_splits(manifest, groups, (0.5, 0.25, 0.25), 0)[10:] == ["train"] * 40

    def test_some_rows_of_a_data_set_are_refused(self) -> None:
        manifest = self.joined([0, 1] * 25, (*self.GIVEN[:9], *(None,) * 41))
        with pytest.raises(UsageError, match="1 of 10 cases have no split"):
            assign_splits(manifest, [f"g{i}" for i in range(50)])


class TestFolds:
    def test_whole_groups_in_equal_folds(self, rng: np.random.Generator) -> None:
        labels = [int(label) for label in rng.integers(0, 2, 300)]
        groups = [str(group) for group in rng.integers(0, 120, 300)]
        found = assign_folds(data_set(labels), groups, 5, seed=1)
        assert all(len(parts) == 1 for parts in sides_of(groups, found).values())
        assert max(Counter(found).values()) - min(Counter(found).values()) <= 6
        positives = Counter(fold for fold, label in zip(found, labels, strict=True) if label)
        assert max(positives.values()) - min(positives.values()) <= 6
        assert assign_folds(data_set(labels), groups, 5, seed=1) == found
        assert assign_folds(data_set(labels), groups, 5, seed=2) != found

    def test_independent_of_order(self, rng: np.random.Generator) -> None:
        labels = [int(label) for label in rng.integers(0, 2, 60)]
        groups = [str(group) for group in rng.integers(0, 30, 60)]
        order = [int(i) for i in rng.permutation(60)]
        found = assign_folds(data_set(labels), groups, 3)
        assert assign_folds(data_set(labels).subset(order), [groups[i] for i in order], 3) == [found[i] for i in order]

    def test_refused(self) -> None:
        with pytest.raises(UsageError, match="at least 2 folds"):
            assign_folds(data_set([0, 1] * 5), [str(i) for i in range(10)], 1)
        with pytest.raises(UsageError, match="For 6 folds each class needs at least 6 groups"):
            assign_folds(data_set([0, 1] * 5), [str(i) for i in range(10)], 6)


@pytest.mark.data
@pytest.mark.parametrize("name", ["ct", "lgg"])
def test_real_shares(shared_data: Path, name: str, rng: np.random.Generator) -> None:
    manifest = Manifest.open(shared_data / name)
    groups = [case.patient_id or str(rng.integers(0, 1600)) for case in manifest.cases]
    split = assign_splits(manifest, groups)
    for label in manifest.labels.names:
        inside = Counter(side for side, case in zip(split, manifest.cases, strict=True) if case.label == label)
        assert inside["test"] / inside.total() == pytest.approx(0.15, abs=0.02)
        assert inside["train"] / inside.total() == pytest.approx(0.75, abs=0.02)
