"""Lists and ranges of a space: what they hold, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from reslink.errors import UsageError
from reslink.experiments.tune.dimensions import Choice, Range, parse_dimension


def test_a_list_can_hold_lists_and_null() -> None:
    dimension = parse_dimension("model.dims", [[16, 32], None], whole=False)
    assert isinstance(dimension, Choice)
    assert [dimension.value(choice) for choice in dimension.distribution().choices] == [[16, 32], None]
    assert dimension.contains([16, 32])
    assert not dimension.contains([32, 16])
    assert dimension.value(dimension.parameter([16, 32])) == [16, 32]


def test_a_number_has_few_digits_and_stays_in_the_range() -> None:
    dimension = Range(0.00012341, 0.01, log=True)
    assert dimension.value(0.00234567) == 0.002346
    assert dimension.value(0.00012341) == 0.00012341


def test_whole_numbers_have_steps_of_one_and_a_step_makes_a_grid() -> None:
    whole = parse_dimension("trainer.epochs", {"low": 2, "high": 9}, whole=True)
    assert isinstance(whole.value(3), int)
    assert whole.contains(5)
    assert not whole.contains(5.5)
    grid = parse_dimension("model.drop_rate", {"low": 0, "high": 0.3, "step": 0.1}, whole=False)
    assert grid.contains(0.3)
    assert not grid.contains(0.25)
    assert not grid.contains(True)


@pytest.mark.parametrize(
    ("setting", "whole", "message"),
    [
        ({"low": 1e-2, "high": 1e-4}, False, r"low is 0.01 and high is 0.0001. low is below high.*Exchange them"),
        ({"low": 1, "high": 1}, False, r"a single value is no space"),
        ({"low": float("nan"), "high": 1}, False, r"contains nan. All numbers of a space are finite. Correct x"),
        ([0.1, float("nan")], False, r"contains nan"),
        ([[1.0, float("inf")], [1.0, 2.0]], False, r"contains inf"),
        ({"low": 0, "high": 1, "log": True}, False, r"log: true, and low is 0. A logarithmic range is above 0"),
        ({"low": 1, "high": 3, "log": True, "step": 1}, False, r"and step is 1.*remove step"),
        ({"low": 0, "high": 1, "step": 0.3}, False, r"from 0 to 1 with step 0.3.*plus a multiple"),
        ({"low": 0, "high": 1, "step": 0}, False, r"with step 0"),
        ({"low": 2.5, "high": 5}, True, r"low is 2.5. x takes whole numbers. Correct low"),
        ({"low": 1}, False, r"high is missing. low, high and step are numbers. Write for example"),
        ({"low": "a", "high": 1}, False, r"low is 'a'"),
        ({"low": True, "high": 2}, False, r"low is True"),
        ({"low": 1, "high": 2, "log": "yes"}, False, r"log is 'yes'"),
        ({"low": 1, "hihg": 2}, False, r"unknown key 'hihg'. A range has the keys low, high, log, step. Did you mean 'high'?"),
        ([], False, r"is an empty list. It is a list of values, or a range"),
        (0.1, False, r"is 0.1. It is a list of values, or a range"),
        ([0.1, 0.1], False, r"Its values differ"),
    ],
)
def test_what_is_no_dimension_is_refused(setting: Any, whole: bool, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_dimension("x", setting, whole=whole)
