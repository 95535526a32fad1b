"""What twins mean: groups, leaks, conflicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from reslink.audit.checks.duplicates import Copies, TwinPair, leaks
from reslink.datasets.manifest import Case, Split


def case(name: str, label: str = "A", patient: str | None = None, split: Split | None = None) -> Case:
    return Case(Path(name), label, patient_id=patient, split=split, name=name)


def pair(first: int, second: int, correlation: float = 0.97) -> TwinPair:
    return TwinPair(first=first, second=second, correlation=correlation, orientation=0, exact=False)


def copies(cases: list[Case], *pairs: TwinPair) -> Copies:
    return Copies(list(pairs), [case.name for case in cases])


def test_sets_join_copies_of_copies_the_largest_first() -> None:
    cases = [case(name) for name in "abcdef"]
    assert copies(cases, pair(4, 5), pair(0, 1), pair(1, 3)).sets() == [[0, 1, 3], [4, 5]]


def test_one_image_under_two_labels_is_a_conflict() -> None:
    cases = [case("a", "A"), case("b", "B"), case("c", "A")]
    assert copies(cases, pair(0, 1), pair(1, 2, 0.92)).conflicts(cases) == [[0, 1]]


@pytest.mark.parametrize(("correlation", "conflicts"), [(0.93, 0), (0.96, 1)])
def test_neighbouring_slices_of_a_patient_may_have_two_labels(correlation: float, conflicts: int) -> None:
    cases = [case("a", "A", "p"), case("b", "B", "p")]
    assert len(copies(cases, pair(0, 1, correlation)).conflicts(cases)) == conflicts


def test_leaks_are_twins_and_patients_on_two_sides() -> None:
    cases = [
        case("a", split="train"),
        case("b", split="test"),
        case("c", patient="secret", split="train"),
        case("d", patient="secret", split="test"),
        case("e", patient="other", split="train"),
        case("f", patient="other", split="train"),
    ]
    found = leaks(cases, copies(cases, pair(0, 1), pair(4, 5)))
    assert found == [
        {"kind": "patient", "paths": ["c", "d"], "splits": ["train", "test"]},
        {"kind": "twins", "paths": ["a", "b"], "splits": ["train", "test"]},
    ]
    assert "secret" not in str(found)


def test_cases_without_a_split_leak_nothing() -> None:
    cases = [case("a", patient="p"), case("b", patient="p", split="test")]
    assert leaks(cases, copies(cases, pair(0, 1))) == []
