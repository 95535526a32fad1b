"""Tests of the warning about few cases."""

from __future__ import annotations

import pytest

from reslink.evaluation.few_cases import few_cases


@pytest.mark.parametrize(
    ("counts", "n_groups", "few"),
    [
        ([[20, 0], [3, 17]], 10, None),
        ([[20, 0], [1, 1]], 10, "Only 2 cases of b: "),
        ([[0, 0], [0, 19]], 10, "Only 0 cases of a, 19 cases of b: "),
        ([[20, 0], [1, 19]], 5, "Only 5 patients: "),
        ([[19, 0], [1, 19]], 9, "Only 19 cases of a, 9 patients: "),
    ],
)
def test_classes_with_few_cases_and_few_groups_are_named(counts: list[list[int]], n_groups: int, few: str | None) -> None:
    found = few_cases({"confusion_matrix": {"labels": ["a", "b"], "counts": counts}, "n_groups": n_groups}, "patients")
    assert found is None if few is None else str(found).startswith(few)


def test_an_evaluation_of_several_labels_or_none_has_no_warning() -> None:
    assert few_cases({}) is None
    assert few_cases({"n_groups": 2, "by_label": {}}) is None
