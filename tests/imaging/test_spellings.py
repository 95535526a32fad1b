"""The names of the units."""

from __future__ import annotations

import pytest

from reslink.errors import UsageError
from reslink.imaging.spellings import is_sequence, parse_sequence, parse_unit


@pytest.mark.parametrize(
    ("text", "unit"), [("hu", "HU"), (" Hu ", "HU"), ("MR", "MR"), ("gray", "gray"), ("GREY", "gray"), (None, None)]
)
def test_units_are_read_in_any_case(text: str | None, unit: str | None) -> None:
    assert parse_unit(text) == unit


@pytest.mark.parametrize("text", ["HUU", "", "hounsfield"])
def test_other_units_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not valid\. The units are HU, MR and gray"):
        parse_unit(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *((text, "T1") for text in ("T1", "t1w", "T1-weighted", "T1n", "T1 pre", "T1C-")),
        *((text, "T1C+") for text in ("T1C+", "T1c", "t1ce", "T1 Gd", "T1+C", "T1w_CE", "T1-post", "T1 contrast-enhanced")),
        *((text, "T2") for text in ("T2", "t2w", "T2 weighted")),
        *((text, "FLAIR") for text in ("FLAIR", "T2-FLAIR", "t2f", "flair")),
        *((text, "T2*") for text in ("T2*", "SWI", "T2 star")),
    ],
)
def test_the_usual_spellings_of_a_sequence_have_one_name(text: str, name: str) -> None:
    assert parse_sequence(text) == name
    assert is_sequence(text)


def test_an_unknown_word_is_a_sequence_of_its_own() -> None:
    assert parse_sequence(" MAGiC ") == "MAGiC"
    assert not is_sequence("MAGiC")
