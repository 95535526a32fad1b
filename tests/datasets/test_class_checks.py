"""Class names and numbers of cases that cannot be meant."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from reslink.datasets.case import Case
from reslink.datasets.class_checks import check_class_names, check_counts, check_spellings
from reslink.errors import UsageError


def test_names_that_differ_in_spelling_only() -> None:
    cases = [Case(Path("1"), "Tumor", "p1"), Case(Path("2"), "Healthy", "p2")]
    check_spellings(cases)
    with pytest.raises(UsageError, match=r"The labels 'Tumor' \(1 case\) and 'tumor' \(1 case\) differ only in case"):
        check_spellings([*cases, Case(Path("3"), "tumor")])
    with pytest.raises(UsageError, match=r"The patients 'p1' .* and 'P01' .* differ only"):
        check_spellings([*cases, Case(Path("3"), "Tumor", "P01")])


def test_a_misspelled_class_is_refused_or_said(caplog: pytest.LogCaptureFixture) -> None:
    counts = {"Healthy": 9, "Helthy": 1, "Tumor": 9}
    with pytest.raises(UsageError, match=r"'Helthy' .* is close to that of 'Healthy'.*data\.class_order"):
        check_class_names(counts, stop=True)
    with caplog.at_level(logging.WARNING, "reslink"):
        check_class_names(counts, stop=False)
    assert "is close to that of 'Healthy'" in caplog.text


def test_a_class_needs_two_cases() -> None:
    check_counts({"a": 2, "b": 2})
    with pytest.raises(UsageError, match="The class 'b' has only one case"):
        check_counts({"a": 2, "b": 1})
