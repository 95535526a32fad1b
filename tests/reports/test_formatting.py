"""Numbers, differences, intervals, p-values and counts as text."""

import pytest

from reslink.reports.formatting import (
    format_count,
    format_difference,
    format_interval,
    format_number,
    format_p_value,
    start_sentence,
)


def test_numbers_and_differences():
    assert [format_number(value) for value in (0.12345, -0.5, None)] == ["0.123", "−0.500", "–"]
    assert [format_difference(value) for value in (0.05, -0.05, None)] == ["+0.050", "−0.050", "–"]


@pytest.mark.parametrize(("low", "high", "text"), [(0.1, 0.25, "0.100 to 0.250"), (None, 0.2, "no interval")])
def test_intervals(low, high, text):
    assert format_interval({"ci_low": low, "ci_high": high}) == text


def test_p_values():
    assert [format_p_value(value) for value in (0.0004, 0.2, None)] == ["< 0.001", "0.200", "–"]


def test_sentences_start_with_an_upper_case_letter():
    assert [start_sentence(text) for text in ("net benefit", "AUROC", "")] == ["Net benefit", "AUROC", ""]


def test_counts():
    assert [format_count(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
