"""An image, its copies and its near duplicates have one label."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reslink.datasets.case import Case
from reslink.datasets.label_conflicts import check_label_conflicts, label_conflicts
from reslink.datasets.near_duplicates.groups import DuplicatePair
from reslink.errors import CheckFailedError


def case(name: str, label: str = "A", patient: str | None = None) -> Case:
    return Case(Path(name), label, patient_id=patient, name=name)


def pair(first: int, second: int, correlation: float = 0.97) -> DuplicatePair:
    return DuplicatePair(first=first, second=second, correlation=correlation, orientation=0)


def test_one_image_under_two_labels_is_a_conflict() -> None:
    cases = [case("a", "A"), case("b", "B"), case("c", "A")]
    assert label_conflicts(cases, [pair(0, 1), pair(1, 2, 0.92)]) == [[0, 1]]


@pytest.mark.parametrize(("correlation", "conflicts"), [(0.93, 0), (0.96, 1)])
def test_neighboring_slices_of_a_patient_may_have_two_labels(correlation: float, conflicts: int) -> None:
    cases = [case("a", "A", "p"), case("b", "B", "p")]
    assert len(label_conflicts(cases, [pair(0, 1, correlation)])) == conflicts


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("ABC")), max_size=9))
def test_identical_files_with_several_labels_conflict_with_all_their_copies(rows: list[tuple[str, str]]) -> None:
    cases = [case(str(i), label) for i, (_, label) in enumerate(rows)]
    hashes = [content for content, _ in rows]
    expected = set()
    for i, j in combinations(range(len(rows)), 2):  # all pairs, without any grouping
        if hashes[i] == hashes[j] and cases[i].label != cases[j].label:
            expected |= {k for k in range(len(rows)) if hashes[k] == hashes[i]}
    found = label_conflicts(cases, (), hashes)
    assert {row for group in found for row in group} == expected
    assert all(len({hashes[row] for row in group}) == 1 for group in found)


def test_conflicts_between_sources_can_be_corrected_by_one_of_them() -> None:
    cases = [Case(Path(name), label, source=source, name=name) for name, label, source in (("1", "A", "x"), ("2", "B", "y"))]
    with pytest.raises(CheckFailedError, match="--labels-from SET corrects them by a data set that you trust"):
        check_label_conflicts(cases, [[0, 1]])
    with pytest.raises(CheckFailedError, match=r"lists all of them\. Or"):
        check_label_conflicts([replace(case, source="x") for case in cases], [[0, 1]])


def test_the_message_has_the_number_and_names_some_pairs() -> None:
    cases = [case(f"{folder}/{i}.png", folder) for folder in ("no", "yes") for i in range(5)]
    with pytest.raises(CheckFailedError) as caught:
        check_label_conflicts(cases, label_conflicts(cases, (), [str(i) for _ in range(2) for i in range(5)]))
    assert caught.value.exit_code == 3
    assert caught.value.given == (
        "10 of 10 images have a copy or near duplicate with another label: no/0.png (no) and yes/0.png (yes), "
        "no/1.png (no) and yes/1.png (yes), no/2.png (no) and yes/2.png (yes), and more"
    )
    assert "--allow-conflicts" in caught.value.next_step
    check_label_conflicts(cases, [])
