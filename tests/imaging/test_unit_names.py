"""The names of the units."""

from __future__ import annotations

import pytest

from reslink.errors import UsageError
from reslink.imaging.unit_names import parse_unit


@pytest.mark.parametrize(
    ("text", "unit"), [("hu", "HU"), (" Hu ", "HU"), ("MR", "MR"), ("gray", "gray"), ("GREY", "gray"), (None, None)]
)
def test_units_are_read_in_any_case(text: str | None, unit: str | None) -> None:
    assert parse_unit(text) == unit


@pytest.mark.parametrize("text", ["HUU", "", "hounsfield"])
def test_other_units_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not valid\. The units are HU, MR and gray"):
        parse_unit(text)
