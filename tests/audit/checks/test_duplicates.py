"""Near duplicates: groups and train/test leakage."""

from __future__ import annotations

from pathlib import Path

from reslink.audit.checks.duplicates import NearDuplicates, find_group_leakage
from reslink.datasets.case import Case, Split
from reslink.datasets.near_duplicates.groups import DuplicatePair


def case(name: str, patient: str | None = None, split: Split | None = None) -> Case:
    return Case(Path(name), "A", patient_id=patient, split=split, name=name)


def pair(first: int, second: int, correlation: float = 0.97) -> DuplicatePair:
    return DuplicatePair(first=first, second=second, correlation=correlation, orientation=0)


def near_duplicates(cases: list[Case], *pairs: DuplicatePair) -> NearDuplicates:
    return NearDuplicates(list(pairs), [case.name for case in cases])


def test_groups_are_connected_components_the_largest_first() -> None:
    cases = [case(name) for name in "abcdef"]
    assert near_duplicates(cases, pair(4, 5), pair(0, 1), pair(1, 3)).duplicate_groups() == [[0, 1, 3], [4, 5]]


def test_leakage_of_near_duplicates_and_patients() -> None:
    cases = [
        case("a", split="train"),
        case("b", split="test"),
        case("c", patient="secret", split="train"),
        case("d", patient="secret", split="test"),
        case("e", patient="other", split="train"),
        case("f", patient="other", split="train"),
    ]
    leakage = find_group_leakage(cases, near_duplicates(cases, pair(0, 1), pair(4, 5)))
    assert leakage == [
        {"kind": "patient", "paths": ["c", "d"], "splits": ["train", "test"]},
        {"kind": "near_duplicates", "paths": ["a", "b"], "splits": ["train", "test"]},
    ]
    assert "secret" not in str(leakage)


def test_cases_without_a_split_do_not_leak() -> None:
    cases = [case("a", patient="p"), case("b", patient="p", split="test")]
    assert find_group_leakage(cases, near_duplicates(cases, pair(0, 1))) == []
